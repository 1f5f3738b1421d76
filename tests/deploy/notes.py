"""Whether NOTES.txt warns of what is unsafe, and is silent where nothing is. The cases are in notes.yaml.

Only Helm 4 prints notes without a cluster (install --dry-run=client); the template is the same for both.
"""

import concurrent.futures
import json

import yaml

from common import CHART, HERE, NAMESPACE, RELEASE, Loader, Problem, run, said, tool
from refusals import BASE, over

TABLE = HERE / "notes.yaml"
WHERE = "tests/deploy/notes.yaml"
SAFE = over(BASE, {"redis": {"url": "redis://redis:6379"}})
KEYS = {"what", "set", "warns", "not"}


def notes_with(changes):
    """What is printed after an installation, in one line; and the Problem, where nothing was."""
    done = run(
        tool("HELM4"), "install", RELEASE, CHART, "--namespace", NAMESPACE, "--dry-run=client", "--values", "-",
        input=json.dumps(over(SAFE, changes)),
    )
    _, found, text = done.stdout.partition("\nNOTES:\n")
    if done.returncode != 0 or not found:
        return "", f"helm4 printed no notes: {said(done)}"
    return " ".join(text.split()), None


def judge(case, text):
    where = f'{WHERE}: "{case["what"]}"'
    for part in case.get("warns", []):
        if part not in text:
            yield Problem(where, "notes", f'NOTES.txt does not say "{part}"')
    for part in case.get("not", []):
        if part in text:
            yield Problem(where, "notes", f'NOTES.txt says "{part}", and there is no reason to')


def problems():
    cases = yaml.load(TABLE.read_text(), Loader)
    said_somewhere = {part for case in cases for part in case.get("warns", [])}
    for case in cases:
        where = f'{WHERE}: "{case.get("what")}"'
        if set(case) - KEYS:
            yield Problem(where, "notes", f"a case has {', '.join(sorted(KEYS))}")
        for part in set(case.get("not", [])) - said_somewhere:
            yield Problem(where, "notes", f'"{part}" is wanted nowhere, so that it is not said proves nothing')
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for case, (text, fault) in zip(cases, pool.map(lambda case: notes_with(case["set"]), cases)):
            if fault:
                yield Problem(f'{WHERE}: "{case["what"]}"', "notes", fault)
            else:
                yield from judge(case, text)
