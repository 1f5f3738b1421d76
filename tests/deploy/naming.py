"""Whether names and labels are valid, whatever the release is called: with dots, of 53 characters, a word of YAML.

What a name may be is the API's: of a service a label of DNS that begins with a letter, of all else at most a subdomain.
"""

import concurrent.futures
import re

import yaml

from common import Problem, helm_template, objects_of, said
from rendering import HELMS
from refusals import BASE, over

# Everything that has a name of its own.
ALL = {
    "migrations": {"mode": "job"},
    "autoscaling": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "ingress": {"enabled": True, "preset": "gke"},
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}]},
    "monitoring": {"dashboard": {"enabled": True}, "serviceMonitor": {"enabled": True}},
    "tests": {"token": {"value": "a.test.token"}},
}
# The release, and what is set besides.
CASES = [
    ("my.app", {}),
    ("my.apptlock", {}),
    # 53 characters, which is the most; the 45th is a dot, a dash, and one of several dashes.
    ("a" * 44 + "." + "b" * 8, {}),
    ("a" * 44 + "-" + "b" * 8, {}),
    ("a" * 40 + "-----" + "b" * 8, {}),
    ("apptlock" + "a" * 36 + "." + "b" * 8, {}),
    # Words of YAML.
    ("true", {"nameOverride": "true"}),
    ("x", {"nameOverride": "null"}),
    ("1234567", {"fullnameOverride": "locks"}),
    ("x", {"fullnameOverride": "null"}),
    ("x", {"fullnameOverride": "locks.of.records"}),
    ("x", {"nameOverride": "a" * 62 + ".b"}),
    # Names of others, and keys there.
    ("x", {"serviceAccount": {"name": "1e6"}}),
    ("x", {"database": {"url": "", "existingSecret": {"name": "123", "key": "1e6"}}, "priorityClassName": "on"}),
]
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def wrong_with(name, kind):
    """What the API would say of a name, or None."""
    if not isinstance(name, str):
        return "is no text"
    parts = [name] if kind == "Service" else name.split(".")
    if len(name) > 63 or not all(DNS.fullmatch(part) for part in parts):
        return "is no name"
    if kind == "Service" and not name[0].isalpha():
        return "is no name of a service"
    return None


def references(value):
    """Every text or number under a key that names something."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("secretKeyRef", "configMapKeyRef"):
                yield from inner.values()
            elif key in ("serviceAccountName", "priorityClassName"):
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def labels(value):
    """Every map of labels, those of selectors too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("labels", "matchLabels") and isinstance(inner, dict):
                yield inner
            yield from labels(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from labels(inner)


def judge(where, objects):
    for thing in objects:
        name = thing["metadata"]["name"]
        fault = wrong_with(name, thing["kind"])
        if fault:
            yield Problem(where, "name", f'{thing["kind"]} {name} {fault}')
        for found in labels(thing):
            for key, value in found.items():
                if not isinstance(value, str) or len(value) > 63 or not LABEL.fullmatch(value):
                    yield Problem(where, "label", f'{thing["kind"]} {name} has the label {key}: {value!r}, which is none')
        for reference in references(thing):
            if not isinstance(reference, str):
                yield Problem(where, "reference", f'{thing["kind"]} {name} names {reference!r}, which is no text')


def rendered(helm, release, changes):
    where = f"helm/apptlock: release {release}" + (f" with {changes}" if changes else "")
    done = helm_template(helm, values=over(over(BASE, ALL), changes), release=release)
    if done.returncode != 0:
        return [Problem(where, f"{helm.lower()} template", said(done))]
    try:
        # What is wrong with one name is wrong with all that share it.
        return list(judge(where, objects_of(done.stdout)))[:3]
    except yaml.YAMLError as fault:
        return [Problem(where, "name", f"no YAML: {' '.join(str(fault).split())}")]


def problems():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda pair: rendered(*pair), [(helm, *case) for case in CASES for helm in HELMS]):
            yield from found
