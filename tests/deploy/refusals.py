"""Whether wrong values are refused, by the schema or by the chart's own checks, with a message that names the fault.

The cases are in refusals.yaml. Both Helms are asked: they write a schema's complaint in different ways ("database.url:" and
"at '/database/url'"), so a path with slashes there stands for either. The base of all cases is shown to install first.
"""

import concurrent.futures
import copy

import yaml

from common import HERE, Loader, Problem, helm_template, said
from rendering import HELMS

TABLE = HERE / "refusals.yaml"
WHERE = "tests/deploy/refusals.yaml"
# What installs; each case changes something.
BASE = {
    "database": {"url": "postgres://apptlock:demo@postgres:5432/apptlock"},
    "jwt": {"secret": "of-32-bytes-or-more-and-for-tests-only"},
}
KEYS = {"what", "base", "set", "says", "kubernetes"}


def over(base, changes):
    """Maps, the second put over the first, as helm does with files of values."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = over(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return result


def is_said(wanted, text):
    """Whether a message has the words, or the path in either Helm's spelling."""
    return wanted in text or ("/" in wanted and wanted.replace("/", ".") in text)


def judge(case, helm, template=helm_template):
    """The Problems of one case with one Helm."""
    where = f'{WHERE}: "{case["what"]}"'
    values = over({} if case.get("base") == "none" else BASE, case["set"])
    done = template(helm, values=values, kube_version=case.get("kubernetes"))
    if done.returncode == 0:
        return [Problem(where, "refusal", f"{helm.lower()} installs this; refuse it in values.schema.json or _checks.tpl")]
    if not is_said(case["says"], done.stderr):
        return [Problem(where, "refusal", f'{helm.lower()} does not say "{case["says"]}" but: {said(done)}')]
    return []


def problems():
    for helm in HELMS:
        done = helm_template(helm, values=BASE)
        if done.returncode != 0:
            yield Problem("tests/deploy/refusals.py: BASE", "refusal", f"{helm.lower()} refuses what should install: {said(done)}")
            return
    cases = yaml.load(TABLE.read_text(), Loader)
    for case in cases:
        if set(case) - KEYS or not {"what", "set", "says"} <= set(case):
            yield Problem(f'{WHERE}: {case.get("what")}', "refusal", f"a case has {', '.join(sorted(KEYS))}")
            return
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda pair: judge(*pair), [(case, helm) for case in cases for helm in HELMS]):
            yield from found
