"""Whether manifests fit the schemas of Kubernetes, strictly, and of the makers of custom resources.

Kubernetes' own schemas come with kubernetes-validate. A kind that it does not know goes to crd.mjs; BackendConfig, of which
no package has a schema, to schemas/. A kind that nobody knows is a fault: it would pass unseen.
"""

import functools
import json

import jsonschema
from kubernetes_validate import utils

from bundle import dig, name_of
from common import HERE, Problem, run, said

# The library reads its definitions, megabytes, for every object; once is enough.
utils.schema_contents = functools.cache(utils.schema_contents)
NEWEST = utils.major_minor(utils.latest_version())


def describe(fault):
    """One line of a schema's complaint: the innermost of what it tried."""
    while fault.context:
        fault = min(fault.context, key=lambda inner: -len(inner.absolute_path))
    path = ".".join(str(step) for step in fault.absolute_path) or "the object"
    return f"{path}: {fault.message[:300]}"


class Validator:
    """Remembers objects that were good: most are the same in many renderings."""

    def __init__(self):
        self.good = set()
        # Objects of kinds that Kubernetes does not know: where, and the object.
        self.custom = []

    def check(self, where, objects, version):
        for thing in objects:
            key = (version, json.dumps(thing, sort_keys=True))
            if key in self.good:
                continue
            place = f"{where}: {name_of(thing)}"
            if not isinstance(thing.get("apiVersion"), str) or not dig(thing, "metadata", "name"):
                yield Problem(place, "schema", "it has no apiVersion or no name")
                continue
            try:
                utils.validate(thing, version, strict=True)
                self.good.add(key)
            except utils.ValidationError as fault:
                yield Problem(place, f"schema of Kubernetes {version}", describe(fault))
            except utils.SchemaNotFoundError:
                if (place, thing) not in self.custom:
                    self.custom.append((place, thing))
                self.good.add(key)

    def check_custom(self):
        """All custom resources at once, because starting node and reading the types is what takes time."""
        ours, theirs = [], []
        for place, thing in self.custom:
            file = HERE / "schemas" / f'{thing["kind"]}.json'
            (ours if file.exists() else theirs).append((place, thing, file))
        for place, thing, file in ours:
            for fault in jsonschema.Draft202012Validator(json.loads(file.read_text())).iter_errors(thing):
                yield Problem(place, f"schema of {thing['kind']}", describe(fault))
        if not theirs:
            return
        done = run("node", HERE / "crd.mjs", input=json.dumps([thing for _, thing, _ in theirs]))
        if done.returncode != 0:
            raise SystemExit(f"check-deploy: crd.mjs broke: {said(done)}")
        for index, fault in dict.fromkeys((fault["index"], fault["fault"]) for fault in json.loads(done.stdout)):
            place, thing, _ = theirs[index]
            if fault is None:
                fault = f'nobody here knows {thing["apiVersion"]} {thing["kind"]}; add its schema to tests/deploy/schemas'
            yield Problem(place, f"schema of {thing['kind']}", fault)
