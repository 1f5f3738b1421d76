"""Whether big whole numbers stay whole numbers: Helm reads those of a file as floats, which a template writes as 1e+06.

Every value that the schema says is an integer gets the biggest that is allowed, so that a new one is tried by itself; once
from a file and once by --set, which gives Helm an integer. Both must render the same, and nothing with an exponent.
"""

import json
import re

import yaml

from common import CHART, Problem, helm_template, objects_of, said
from refusals import BASE, over
from rendering import HELMS
from values import resolve

BIG = 12_000_000
EXPONENT = re.compile(r"(?<![\w.])[0-9](?:\.[0-9]+)?e\+[0-9]+")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# What has to be switched on for every number to be rendered; of some there is only one at a time.
ON = {
    "config": {
        "tracing": {"enabled": True, "endpoint": "http://collector:4318", "samplerArg": 1},
    },
    "ingress": {"enabled": True, "preset": "gke"},
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}]},
    "networkPolicy": {"enabled": True},
    "service": {"type": "NodePort"},
    "migrations": {"mode": "job"},
    "redis": {"url": "redis://redis:6379"},
    # Two that may not be the same, and one that must not be less.
    "containerPorts": {"http": 65534},
    "podSecurityContext": {"runAsUser": BIG},
}
CASES = {
    "a number of replicas": {"podDisruptionBudget": {"minAvailable": None}},
    "what must stay": {"podDisruptionBudget": {"maxUnavailable": None}},
    "an autoscaler": {"autoscaling": {"enabled": True}, "podDisruptionBudget": {"minAvailable": None}},
    "an ALB": {"ingress": {"preset": "alb"}, "podDisruptionBudget": {"minAvailable": None}},
}


def biggest(schema):
    """For each integer of a schema the biggest that it allows."""
    found = {}
    for name, inner in (schema.get("properties") or {}).items():
        inner = resolve(inner, SCHEMA)
        kinds = inner.get("type")
        if "integer" in (kinds if isinstance(kinds, list) else [kinds]):
            found[name] = min(inner.get("maximum", BIG), inner.get("const", BIG), BIG)
        elif kinds == "array" and resolve(inner.get("items", {}), SCHEMA).get("type") == "integer":
            found[name] = [resolve(inner["items"], SCHEMA).get("maximum", BIG)]
        else:
            below = biggest(inner)
            if below:
                found[name] = below
    return found


def leaves(values, path=""):
    """As --set takes them: a.b[0].c=1."""
    if isinstance(values, dict) and values:
        for key, inner in values.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(values, list):
        for place, inner in enumerate(values):
            yield from leaves(inner, f"{path}[{place}]")
    else:
        yield f"{path}={json.dumps(values) if not isinstance(values, str) else values}"


def judge(where, file, flags):
    for how, text in (("a file", file), ("--set", flags)):
        for line in text.splitlines():
            if EXPONENT.search(line):
                yield Problem(where, "number", f"by {how} it renders {line.strip()}; write int before it")
    try:
        if objects_of(file) != objects_of(flags):
            yield Problem(where, "number", "a file of values and --set do not render the same objects")
    except yaml.YAMLError as fault:
        yield Problem(where, "number", f"no YAML: {' '.join(str(fault).split())}")


def problems():
    everything = over(over(biggest(SCHEMA), BASE), ON)
    for what, changes in CASES.items():
        values, where = over(everything, changes), f"helm/apptlock: big numbers, {what}"
        for helm in HELMS:
            flags = [part for leaf in leaves(values) for part in ("--set", leaf)]
            answers = [helm_template(helm, values=values), helm_template(helm, *flags)]
            failed = [done for done in answers if done.returncode != 0]
            if failed:
                yield Problem(where, f"{helm.lower()} template", said(failed[0]))
            else:
                yield from judge(where, *[done.stdout for done in answers])
