"""Whether a heading with nothing below it, which takes the default away, is refused in plain words or does no harm.

Every map and every list of values.yaml is set to null once. A template that stumbles over that says where it stumbled, and
nobody who reads it knows what to write.
"""

import concurrent.futures

import yaml

from common import CHART, Loader, Problem, helm_template, objects_of, said
from refusals import over

# How templates stumble.
STUMBLES = ("nil pointer", "wrong type", "error calling", "range can't iterate", "invalid value", "YAML parse error")
# What the chart itself refuses is said by fail, which is a call too.
REFUSAL = "execution error at"


def headings(values, path=()):
    for key, inner in values.items():
        if isinstance(inner, (dict, list)):
            yield (*path, key)
        if isinstance(inner, dict):
            yield from headings(inner, (*path, key))


def judge(path, done):
    where = f'helm/apptlock: {".".join(path)} is null'
    if done.returncode != 0 and REFUSAL not in done.stderr and any(part in done.stderr for part in STUMBLES):
        return [Problem(where, "null", f"require it in values.schema.json, or bear it: {said(done)}")]
    try:
        objects_of(done.stdout)
    except yaml.YAMLError as fault:
        return [Problem(where, "null", f"no YAML: {' '.join(str(fault).split())}")]
    return []


def without(base, path):
    change = None
    for key in reversed(path):
        change = {key: change}
    return judge(path, helm_template("HELM4", values=over(base, change)))


def problems():
    base = yaml.load((CHART / "ci" / "everything-values.yaml").read_text(), Loader)
    paths = headings(yaml.load((CHART / "values.yaml").read_text(), Loader))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda path: without(base, path), paths):
            yield from found
