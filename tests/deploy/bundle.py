"""Manifests that are applied together, and the questions that checks ask of them: which pods are there, whom does a
selector match, what environment does a container get. A Bundle judges nothing.
"""

import functools
import re

from common import Problem

# Where each workload keeps the template of its pods.
WORKLOADS = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}
HOOK = "helm.sh/hook"
# Units of the durations that apptlock takes, in seconds.
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def dig(value, *path, default=None):
    """What is at a path of maps, or the default, also where a null stands."""
    for step in path:
        if not isinstance(value, dict):
            return default
        value = value.get(step)
    return default if value is None else value


def seconds(text):
    """A duration such as 45s, 50ms or 1h 30m."""
    parts = re.findall(r"(\d+)\s*(ms|s|m|h|d|w)", text)
    if not parts or re.sub(r"\d+\s*(ms|s|m|h|d|w)|\s", "", text):
        raise ValueError(f'"{text}" is not a duration')
    return sum(int(number) * UNITS[unit] for number, unit in parts)


def matches(selector, labels):
    """Whether a label selector, with expressions or not, matches labels. An empty one matches everything."""
    labels = labels or {}
    for key, wanted in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != wanted:
            return False
    for expression in selector.get("matchExpressions") or []:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        if not {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]:
            return False
    return True


class Pod:
    """A pod, or the template of one, and the workload that it belongs to."""

    def __init__(self, owner, template):
        self.owner = owner
        self.labels = dig(template, "metadata", "labels", default={})
        self.spec = template["spec"]
        self.namespace = dig(owner, "metadata", "namespace", default="default")
        self.hooks = {hook.strip() for hook in dig(owner, "metadata", "annotations", HOOK, default="").split(",")} - {""}

    @property
    def containers(self):
        return [*(self.spec.get("initContainers") or []), *(self.spec.get("containers") or [])]

    @property
    def ports(self):
        return [port for container in self.spec.get("containers") or [] for port in container.get("ports") or []]

    def port(self, wanted):
        """The container port that a name or a number means."""
        for port in self.ports:
            if wanted in (port.get("name"), port["containerPort"]):
                return port
        return None

    @property
    def replicas_of_apptlock(self):
        """The containers that serve."""
        return [container for container in self.containers if is_apptlock(container) and command(container) == "serve"]


def command(container):
    """What apptlock is told to do: serve, migrate…"""
    return next(iter([*(container.get("command") or []), *(container.get("args") or [])][-1:]), None)


def is_apptlock(container):
    """Whether a container runs our image, by its name or by what it is told to do."""
    repository = container.get("image", "").split("@")[0].rsplit("/", 1)[-1].split(":")[0]
    return repository == "apptlock" or (container.get("args") or [None])[0] in ("serve", "migrate")


def name_of(thing):
    return f'{thing["kind"]}/{dig(thing, "metadata", "name", default="?")}'


class Bundle:
    """`external` are the names, and keys, of secrets and ConfigMaps that somebody else brings."""

    def __init__(self, where, objects, known_settings=frozenset(), rules=None, external=frozenset()):
        self.where, self.objects = where, objects
        self.known_settings, self.rules, self.external = known_settings, rules, external

    def problem(self, rule, thing, fault):
        return Problem(f"{self.where}: {name_of(thing)}", rule, fault)

    def of_kind(self, *kinds):
        return [thing for thing in self.objects if thing["kind"] in kinds]

    def find(self, kind, name, namespace=None):
        for thing in self.of_kind(kind):
            if thing["metadata"]["name"] == name and namespace in (None, self.namespace_of(thing)):
                return thing
        return None

    @staticmethod
    def namespace_of(thing):
        return dig(thing, "metadata", "namespace", default="default")

    @functools.cached_property
    def pods(self):
        found = []
        for thing in self.objects:
            if thing["kind"] in WORKLOADS:
                template = thing
                for step in WORKLOADS[thing["kind"]]:
                    template = template[step]
                found.append(Pod(thing, template))
        return found

    def selected(self, selector, namespace):
        return [pod for pod in self.pods if pod.namespace == namespace and matches(selector, pod.labels)]

    def pods_of_service(self, service):
        selector = dig(service, "spec", "selector", default={})
        return self.selected({"matchLabels": selector}, self.namespace_of(service)) if selector else []

    def environment(self, pod, container):
        """Name and value of each variable of a container; None where a secret or another place has the value."""
        found = {}
        for source in container.get("envFrom") or []:
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                thing = field in source and self.find(kind, source[field].get("name"), pod.namespace)
                if thing:
                    for key in keys_of(thing):
                        found[source.get("prefix", "") + key] = dig(thing, "data", key) if kind == "ConfigMap" else None
        for variable in container.get("env") or []:
            reference = dig(variable, "valueFrom", "configMapKeyRef")
            thing = reference and self.find("ConfigMap", reference.get("name"), pod.namespace)
            found[variable["name"]] = dig(thing, "data", reference["key"]) if thing else variable.get("value")
        return found


def keys_of(thing):
    return {*dig(thing, "data", default={}), *dig(thing, "stringData", default={}), *dig(thing, "binaryData", default={})}
