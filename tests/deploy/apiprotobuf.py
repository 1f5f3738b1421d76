"""Reads the Secret in which Helm keeps a release: its client sends that in Kubernetes' protobuf, and does not fall back.

Owns the few fields that Helm sets. Another kind, and bytes that are no such message, raise ValueError.
"""

import base64

MAGIC = b"k8s\0"
# Numbers of fields, from Kubernetes' generated.proto of meta/v1 and core/v1.
META = {1: "name", 3: "namespace", 5: "uid", 6: "resourceVersion"}
LABELS, ANNOTATIONS = 11, 12


def varint(data, at):
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a number is cut off")
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """Each field of a message: its number, and a number or bytes."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            raise ValueError(f"a field of the type {tag & 7}")
        yield tag >> 3, value


def entry(data):
    """An entry of a map: 1 is its key, 2 its value."""
    pair = dict(fields(data))
    return pair.get(1, b"").decode(), pair.get(2, b"")


def secret(data):
    """The object, as it would be in JSON."""
    if not data.startswith(MAGIC):
        raise ValueError("neither JSON nor Kubernetes' protobuf")
    envelope = dict(fields(data[len(MAGIC):]))
    kind = {number: value.decode() for number, value in fields(envelope.get(1, b""))}
    if kind != {1: "v1", 2: "Secret"}:
        raise ValueError(f"protobuf with {kind}")
    result = {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {}}
    for number, value in fields(envelope.get(2, b"")):
        if number == 1:
            for inner, text in fields(value):
                if inner in META and text:
                    result["metadata"][META[inner]] = text.decode()
                elif inner in (LABELS, ANNOTATIONS):
                    key, label = entry(text)
                    result["metadata"].setdefault("labels" if inner == LABELS else "annotations", {})[key] = label.decode()
        elif number == 2:
            key, content = entry(value)
            result["data"][key] = base64.b64encode(content).decode()
        elif number == 3:
            result["type"] = value.decode()
    return result
