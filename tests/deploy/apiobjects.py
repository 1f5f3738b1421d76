"""What an API server makes of a change: defaults, the merges of PATCH, and who manages which field.

Owns no state and no network: apiserver.py stores the answers. It knows as much as the chart's objects need; lists have one
owner as a whole, and only the lists in MERGE_KEYS are merged entry by entry. A change that it does not understand raises
Refused, which the client gets as it would from a cluster. Managers are kept in `metadata.managedFields` in Kubernetes' own
notation, since Helm 4 reads and rewrites them.
"""

import copy
import json

# Of lists that a strategic merge patch merges: where they are, by the last two steps of the path, and the key.
MERGE_KEYS = {
    ("spec", "containers"): "name",
    ("spec", "initContainers"): "name",
    ("spec", "volumes"): "name",
    ("spec", "imagePullSecrets"): "name",
    ("spec", "topologySpreadConstraints"): "topologyKey",
    ("spec", "ports"): "port",
    ("containers", "ports"): "containerPort",
    ("containers", "env"): "name",
    ("containers", "volumeMounts"): "mountPath",
    ("initContainers", "env"): "name",
    ("initContainers", "volumeMounts"): "mountPath",
}
# What has no manager: it identifies the object, or the server writes it.
UNMANAGED = {("apiVersion",), ("kind",), ("status",), *(("metadata", name) for name in (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"))}


class Refused(Exception):
    """An error answer: `code`, `reason` and the message, and the fields of a conflict."""

    def __init__(self, code, reason, message, causes=()):
        super().__init__(message)
        self.code, self.reason, self.causes = code, reason, list(causes)


def with_defaults(thing):
    """The object with the defaults that matter here: a Deployment without a number of replicas has one."""
    if thing["kind"] == "Deployment":
        spec = thing.setdefault("spec", {})
        for field, default in (("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)):
            if spec.get(field) is None:
                spec[field] = default
    return thing


def merge_patch(value, change):
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    result = dict(value) if isinstance(value, dict) else {}
    for key, inner in change.items():
        if inner is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), inner)
    return result


def strategic_patch(value, change, path=()):
    """Kubernetes' own patch: as a merge patch, but some lists are merged by a key, and `$` begins a directive."""
    if isinstance(change, list):
        return merged_list(value or [], change, path)
    if not isinstance(change, dict):
        return change
    if change.get("$patch") == "replace":
        return {key: inner for key, inner in change.items() if key != "$patch"}
    result = dict(value) if isinstance(value, dict) else {}
    for key in [key for key in result if "$retainKeys" in change and key not in change["$retainKeys"]]:
        del result[key]
    for key, inner in change.items():
        if key == "$retainKeys" or key.startswith("$setElementOrder/"):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [entry for entry in result.get(name, []) if entry not in inner]
        elif key.startswith("$"):
            raise Refused(400, "BadRequest", f"the stand-in does not know the directive {key}")
        elif inner is None:
            result.pop(key, None)
        else:
            result[key] = strategic_patch(result.get(key), inner, (*path, key))
    return result


def merged_list(entries, changes, path):
    key = MERGE_KEYS.get(path[-2:])
    if key is None or not all(isinstance(change, dict) for change in changes):
        return changes
    result = list(entries)
    for change in changes:
        place = next((place for place, entry in enumerate(result) if entry.get(key) == change.get(key)), None)
        if change.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(strategic_patch({}, change, path))
        else:
            result[place] = strategic_patch(result[place], change, path)
    return result


def json_patch(value, steps):
    """RFC 6902, without what nobody sends here."""
    result = copy.deepcopy(value)
    for step in steps:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        at = result
        for part in way:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if step["op"] == "test" and at.get(last) != step["value"]:
            raise Refused(409, "Conflict", f'{step["path"]} is another one by now')
        if step["op"] in ("add", "replace"):
            at[last] = step["value"]
        elif step["op"] == "remove":
            del at[last]
        elif step["op"] != "test":
            raise Refused(400, "BadRequest", f'the stand-in does not know the operation {step["op"]}')
    return result


def leaves(value, path=()):
    """Each managed field: its path and value. A list is one field."""
    if path in UNMANAGED:
        return
    if isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def as_fields(paths):
    """Paths in the notation of managedFields: {"f:spec": {"f:replicas": {}}}."""
    result = {}
    for path in sorted(paths):
        at = result
        for step in path:
            at = at.setdefault(f"f:{step}", {})
    return result


def as_paths(fields, path=()):
    """The other way. A field of a list's entry (`k:…`) counts as the list."""
    inner = {key[2:]: below for key, below in fields.items() if key.startswith("f:")}
    if not inner:
        return {path} if path else set()
    return set().union(*(as_paths(below, (*path, key)) for key, below in inner.items()))


class Managers:
    """Who manages which field of one object. A manager is its name, its operation and its subresource."""

    def __init__(self, thing):
        entries = thing.get("metadata", {}).get("managedFields") or []
        self.owned = {}
        for entry in entries:
            who = entry["manager"], entry["operation"], entry.get("subresource", "")
            self.owned[who] = self.owned.get(who, set()) | as_paths(entry.get("fieldsV1") or {})

    def write(self, thing):
        thing["metadata"]["managedFields"] = [
            {"manager": name, "operation": operation, "apiVersion": thing["apiVersion"], "time": "2020-01-01T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": as_fields(paths), **({"subresource": part} if part else {})}
            for (name, operation, part), paths in self.owned.items() if paths]
        return thing

    def updated(self, before, after, manager, part=""):
        """Any change but an apply: what changed is the changer's alone."""
        old, new = dict(leaves(before)), dict(leaves(after))
        changed = {path for path in new if path not in old or old[path] != new[path]}
        gone = set(old) - set(new)
        for paths in self.owned.values():
            paths -= changed | gone
        self.owned.setdefault((manager, "Update", part), set()).update(changed)

    def applied(self, live, config, manager, force):
        """A server-side apply: answers the object with it, or refuses where others manage what it changes."""
        who, wanted, has = (manager, "Apply", ""), dict(leaves(config)), dict(leaves(live))
        conflicts = [(other, path) for other, paths in self.owned.items() if other != who
                     for path in sorted(paths) if path in wanted and has.get(path) != wanted[path]]
        if conflicts and not force:
            raise Refused(409, "Conflict", f"Apply failed with {len(conflicts)} conflicts: " + "; ".join(
                f'conflict with "{name}"{f" with subresource {json.dumps(part)}" if part else ""}: .{".".join(path)}'
                for (name, _, part), path in conflicts), conflicts)
        for other, path in conflicts:
            self.owned[other].discard(path)
        before = self.owned.get(who, set())
        self.owned[who] = set(wanted)
        kept = set().union(*self.owned.values())
        result = copy.deepcopy(live)
        for path in before - kept:
            # Not where it was an empty map that has got something in it.
            if not any(other[:len(path)] == path for other in kept):
                remove(result, path)
        for path, value in wanted.items():
            at = result
            for step in path[:-1]:
                if not isinstance(at.get(step), dict):
                    at[step] = {}
                at = at[step]
            at[path[-1]] = copy.deepcopy(value)
        return result


def remove(thing, path):
    """Takes a field away, and the maps that are empty without it."""
    inner = thing.get(path[0])
    if len(path) == 1:
        thing.pop(path[0], None)
    elif isinstance(inner, dict):
        remove(inner, path[1:])
        if not inner:
            del thing[path[0]]
