"""Whether values.yaml, the templates and values.schema.json speak of the same values.

The templates are read, not run: a small reader of Go's template actions follows what the dot, and each variable, stands for.
It finds every path below .Values that is read, and knows whether the whole of it is passed on (toYaml .) or only entered
(with .Values.a). What it cannot follow it ignores, so a value that is used in a new way shows up as unused: teach it that.
"""

import json
import re

import yaml

from common import CHART, Loader, Problem, short

ACTION = re.compile(r"\{\{-?\s*(?!/\*)((?:\"(?:\\.|[^\"])*\"|`[^`]*`|[^}\"`]|\}(?!\}))*?)\s*-?\}\}", re.S)
COMMENT = re.compile(r"\{\{-?\s*/\*.*?\*/\s*-?\}\}", re.S)
STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|`[^`]*`")
# .Values.a, $.Values.a, (index . 0).Values.a: whatever is before, it is the values.
VALUES = re.compile(r"\.Values((?:\.\w+)*)")
# A path from the dot or from a variable.
LOCAL = re.compile(r"(?<![\w)])(\$\w*)?((?:\.\w+)+|(?<!\w)\.(?!\w))|(?<![\w.])(\$\w+)")
# .Values may be empty there, so these are guarded by brackets: (.Values.global).imageRegistry
GUARDED = re.compile(r"\((\$?\.Values(?:\.\w+)*)\)")


class Reader:
    """Collects what a template reads. `reads`: paths; `whole`: those whose all is passed on."""

    def __init__(self):
        self.reads, self.whole = {}, set()

    def read_template(self, text, file):
        text = COMMENT.sub("", text)
        # What the dot is, as a path below .Values; None: something else. Each block has a copy of the variables.
        stack = [(None, {})]
        for match in ACTION.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            action = GUARDED.sub(r"\1", STRING.sub('""', match.group(1)))
            word = action.split(None, 1)[0] if action.split() else ""
            if word == "end":
                if len(stack) > 1:
                    stack.pop()
                continue
            dot, names = stack[-1]
            if word == "else":
                # `else if` is what it says; `else with` has a dot of its own. A plain one has the dot from outside.
                stack.pop()
                dot, names = stack[-1][0], dict(names)
                word = (action.split() + [""])[1]
                rest = action.split(None, 2)[2:] or [""]
                if word not in ("if", "with"):
                    stack.append((dot, names))
                    continue
                action = f"{word} {rest[0]}"
            if word == "define":
                stack.append((None, {}))
            elif word in ("if", "with", "range", "block"):
                expression = action.split(None, 1)[1]
                entered = self.read(expression, dot, names, file, line, only_entered=word in ("with", "range"))
                inner = dict(names)
                variable = re.match(r"(\$\w+)(?:\s*,\s*(\$\w+))?\s*:=", expression)
                if word == "range":
                    # Of a map given by the template itself nothing more is known; of a list or map of values, its entries.
                    if entered is not None:
                        self.whole.add(entered)
                    entered = None
                if variable:
                    inner[variable.group(2) or variable.group(1)] = entered
                stack.append((dot if word == "if" else entered, inner))
            else:
                assigned = re.match(r"(\$\w+)\s*:?=\s*(.*)", action, re.S)
                if assigned:
                    only = self.read(assigned.group(2), dot, names, file, line, only_entered=True)
                    names[assigned.group(1)] = only
                else:
                    self.read(action, dot, names, file, line)

    def read(self, expression, dot, names, file, line, only_entered=False):
        """Notes what an expression reads; answers the path that it is, where it is nothing but one."""
        bare = re.sub(r"^\$\w+(\s*,\s*\$\w+)?\s*:=\s*", "", expression).strip()
        found = [tuple(path.split(".")[1:]) for path in VALUES.findall(bare)]
        for variable, path, alone in LOCAL.findall(VALUES.sub(" ", bare)):
            name = variable or alone
            base = names.get(name) if name else dot
            if base is not None and name != "$":
                found.append((*base, *[step for step in path.split(".") if step]))
        is_path = len(found) == 1 and re.fullmatch(r"\(?(\$\w*)?(\.\w+|\.)*\)?", bare)
        for path in found:
            self.reads.setdefault(path, f"{file}:{line}")
            if not (is_path and only_entered):
                self.whole.add(path)
        return found[0] if is_path else None


def read_templates(chart):
    reader = Reader()
    for file in sorted((chart / "templates").rglob("*")):
        if file.is_file():
            reader.read_template(file.read_text(), file.relative_to(chart))
    return reader


def leaves(values, path=()):
    """Every path of values.yaml that is no map with something in it."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def prefixes(path):
    return [path[:length] for length in range(1, len(path) + 1)]


def declared_and_used(values, reader, chart=CHART):
    """Every value of values.yaml is read by a template, and every value that a template reads is there."""
    where = short(chart / "values.yaml") if chart == CHART else "values.yaml"
    for leaf in leaves(values):
        if leaf not in reader.reads and not any(prefix in reader.whole for prefix in prefixes(leaf)):
            yield Problem(where, "value-used", f'{".".join(leaf)} is read by no template; use it or leave it out')
    for path, place in reader.reads.items():
        at = values
        for length, step in enumerate(path):
            if at in ({}, [], None, ""):
                # Whatever somebody writes there is theirs.
                break
            if not isinstance(at, dict) or step not in at:
                yield Problem(str(place), "value-declared", f'.Values.{".".join(path)} is read here, and values.yaml has no'
                              f' {".".join(path[:length + 1])}; declare it')
                break
            at = at[step]


def resolve(schema, root):
    """A schema, where it is a reference to another one."""
    while isinstance(schema, dict) and "$ref" in schema:
        target = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        schema = target | {key: value for key, value in schema.items() if key != "$ref"}
    return schema


def says_something(schema):
    return isinstance(schema, dict) and bool({"type", "enum", "const", "anyOf", "oneOf", "allOf"} & set(schema))


def covered(values, schema, reader, path=(), root=None):
    """The schema has every value, with a type; and it is closed wherever templates read one value after the other."""
    root = root or schema
    where = "helm/apptlock/values.schema.json"
    schema = resolve(schema, root)
    properties = schema.get("properties") or {}
    inside = ".".join(path) or "the root"
    whole = any(prefix in reader.whole for prefix in prefixes(path))
    if path != ("global",) and not whole and schema.get("additionalProperties") is not False:
        yield Problem(where, "schema-closed", f'{inside} lets unknown names pass; set its "additionalProperties" to false')
    for key, value in values.items():
        if key not in properties:
            if not whole:
                yield Problem(where, "schema-covers", f'{".".join([*path, key])} is in values.yaml and not here; add it')
            continue
        inner = resolve(properties[key], root)
        if not says_something(inner):
            yield Problem(where, "schema-typed", f'{".".join([*path, key])} has no type; give it one')
        elif isinstance(value, dict) and value:
            yield from covered(value, inner, reader, (*path, key), root)
    for key in properties:
        # `enabled` is what an umbrella chart's condition reads, and no template.
        if key not in values and not whole and (*path, key) != ("enabled",):
            yield Problem(where, "schema-known", f'{".".join([*path, key])} is not in values.yaml; declare it there')


def problems():
    values = yaml.load((CHART / "values.yaml").read_text(), Loader)
    schema = json.loads((CHART / "values.schema.json").read_text())
    reader = read_templates(CHART)
    yield from declared_and_used(values, reader)
    yield from covered(values, schema, reader)
