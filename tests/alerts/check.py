#!/usr/bin/env python3
"""Consistency of alerts, dashboard, product and runbook, which promtool and Grafana do not check.

  check.py                 checks this repository, prints each fault on a line, and exits with 1 if there is one
  check.py --metrics FILE  takes the product's metrics from another file than src/telemetry/metrics.rs

Four checks: every alert has a case in which it fires and one in which it does not. Its runbook_url leads to an existing
section. Every metric used exists in the product, and the dashboard shows every metric of the product. The dashboard is
readable: a description and a unit for each panel, no overlaps, and no invented figure without a replica.

Plain Python without packages: YAML is read line by line, in the layout of rules.yaml and the tests; anything in another
layout is a fault, so that nothing is skipped.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm/apptlock/files/rules.yaml"
DASHBOARD = ROOT / "helm/apptlock/files/dashboard.json"
RUNBOOK = ROOT / "docs/RUNBOOK.md"
METRICS = ROOT / "src/telemetry/metrics.rs"
TESTS = sorted((ROOT / "tests/alerts").glob("*.test.yaml"))

RUNBOOK_URL = "https://github.com/apptlock/apptlock/blob/main/docs/RUNBOOK.md"
SEVERITIES = {"critical", "warning"}
# What the process says of itself comes from a library, so its names are in no source of ours.
PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
}
# What a histogram is called in a query.
SUFFIXES = ("_bucket", "_count", "_sum")
# All that whoever runs the dashboard's expressions elsewhere has to replace.
VARIABLES = {"$namespace", "$job", "$pod", "$instance", "$__rate_interval"}
# Grafana's names for units; one that is not here it would print behind the figure as it is.
UNITS = {"short", "none", "s", "bytes", "percentunit", "reqps", "ops", "cps", "pps"}
# Figures that stay where there is no replica: they are about just that. Any other would be made up.
WITHOUT_REPLICAS = {"Replicas ready", "Alerts firing"}
METRIC = re.compile(r"(?<![\w:.$])(?:apptlock|process)_\w+")

faults = []


def fault(where, what):
    faults.append(f"{where.relative_to(ROOT) if where.is_relative_to(ROOT) else where}: {what}")


def read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        sys.exit(f"check.py: {path}: {error.strerror}")


def product(path):
    """The names in the product's list: all text literals that begin like one, in what is not a test."""
    code = read(path).split("#[cfg(test)]")[0]
    names = set(re.findall(r'"(apptlock_[a-z0-9_]+)"', code))
    if not names:
        sys.exit(f'check.py: {path}: no "apptlock_..." is there; is it the list of metrics?')
    return names


def alerts():
    """The alerts of rules.yaml: name, and the fields of the block under it."""
    found = {}
    blocks = re.split(r"^ *- (?=alert:|record:|name:)", read(RULES), flags=re.M)[1:]
    for block in blocks:
        if not block.startswith("alert:"):
            continue
        name = re.match(r"alert: (\w+)\n", block)
        if not name:
            fault(RULES, f"cannot read this alert's name: {block.splitlines()[0]}")
            continue
        fields = {"expr": "", "for": "", "severity": "", "summary": "", "description": "", "runbook_url": ""}
        for field in fields:
            value = re.search(rf"^( +){field}: (.*(?:\n\1  +.*)*)", block, flags=re.M)
            fields[field] = re.sub(r"^[|>]-?\s*", "", value[2]).strip() if value else ""
        if name[1] in found:
            fault(RULES, f"{name[1]} is there twice")
        found[name[1]] = fields
    if len(found) != read(RULES).count("- alert:") or not found:
        fault(RULES, f"read {len(found)} alerts of {read(RULES).count('- alert:')}")
    return found


def anchors():
    """The anchors of the runbook's headings, as GitHub makes them, outside of code."""
    text = re.sub(r"^```.*?^```", "", read(RUNBOOK), flags=re.M | re.S)
    heads = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def check_texts(found):
    known = anchors()
    for name, fields in found.items():
        for field, value in fields.items():
            if not value:
                fault(RULES, f"{name} has no {field}")
        if fields["severity"] not in SEVERITIES:
            fault(RULES, f"{name}: severity {fields['severity']!r} is none of {', '.join(sorted(SEVERITIES))}")
        if fields["runbook_url"] != f"{RUNBOOK_URL}#{name.lower()}":
            fault(RULES, f"{name}: its runbook_url is not {RUNBOOK_URL}#{name.lower()}")
        if name.lower() not in known:
            fault(RUNBOOK, f"{name} has no section")
    for head in re.findall(r"^### +(Apptlock\w+)", read(RUNBOOK), flags=re.M):
        if head not in found:
            fault(RUNBOOK, f"{head} is no alert")


def check_cases(found):
    """Cases are queries for ALERTS: with one in exp_samples it fires, by name and with none it does not."""
    fires, quiet = set(), set()
    for path in TESTS:
        text = read(path)
        cases = re.findall(r"^ +- expr: (.*)\n +eval_time: \w+\n +exp_samples:(.*(?:\n {10}.*)*)", text, flags=re.M)
        if len(cases) != text.count("- expr:") or not (cases or "alert_rule_test:" in text):
            fault(path, f"read {len(cases)} cases of {text.count('- expr:')}")
        for query, samples in cases:
            if 'alertstate="firing"' not in query:
                fault(path, f"asks for alerts that are not firing: {query}")
            fires.update(re.findall(r'alertname="(\w+)"', samples))
            if samples.strip() == "[]":
                quiet.update(re.findall(r'alertname="(\w+)"', query))
            elif "value: 1" not in samples:
                fault(path, f"cannot read what is expected of {query}")
        for name in sorted(set(re.findall(r'alertname="(\w+)"', text)) - set(found)):
            fault(path, f"{name} is no alert")
    for name in found:
        if name not in fires:
            fault(RULES, f"{name} has no test in which it fires")
        if name not in quiet:
            fault(RULES, f"{name} has no test in which it does not fire")


def check_names(where, text, names):
    """Says which metrics are none, and returns those that are."""
    used = set()
    for name in sorted(set(METRIC.findall(text))):
        bare = next((name.removesuffix(s) for s in SUFFIXES if name.removesuffix(s) in names), name)
        if name in PROCESS or bare in names:
            used.add(bare)
        else:
            fault(where, f"{name} is no metric of the product")
    return used


def overlap(a, b):
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def check_dashboard(names):
    try:
        dashboard = json.loads(read(DASHBOARD))
    except ValueError as error:
        return fault(DASHBOARD, f"is not JSON: {error}")
    panels, text = [], ""
    for panel in dashboard["panels"]:
        panels += [panel, *panel.get("panels", [])]
    ids = [panel.get("id") for panel in panels]
    for number in sorted({number for number in ids if ids.count(number) > 1}):
        fault(DASHBOARD, f"{ids.count(number)} panels have the id {number}")
    for at, panel in enumerate(panels):
        name, place = f"panel {panel.get('title')!r}", panel["gridPos"]
        if not panel.get("title"):
            fault(DASHBOARD, f"panel {panel.get('id')} has no title")
        if place["x"] + place["w"] > 24 or min(place.values()) < 0 or place["w"] < 1 or place["h"] < 1:
            fault(DASHBOARD, f"{name} is off the grid")
        for other in panels[:at]:
            if overlap(place, other["gridPos"]):
                fault(DASHBOARD, f"{name} lies over {other.get('title')!r}")
        if panel["type"] == "row":
            continue
        if len(panel.get("description", "")) < 20:
            fault(DASHBOARD, f"{name} has no description")
        unit = panel["fieldConfig"]["defaults"].get("unit")
        if unit not in UNITS:
            fault(DASHBOARD, f"{name}: the unit {unit!r} is none of {', '.join(sorted(UNITS))}")
        expressions = [target["expr"] for target in panel.get("targets", [])]
        if not expressions:
            fault(DASHBOARD, f"{name} asks for nothing")
        for expression in expressions:
            if "vector(" in expression and panel.get("title") not in WITHOUT_REPLICAS:
                fault(DASHBOARD, f"{name}: vector() is a figure even where there is no replica; take apptlock_build_info")
            for variable in sorted(set(re.findall(r"\$\{?\w+", expression)) - VARIABLES):
                fault(DASHBOARD, f"{name}: {variable} is none of {', '.join(sorted(VARIABLES))}")
            for metric in re.finditer(r"(?:apptlock|process)_\w+\b(?!\{namespace=~)", expression):
                fault(DASHBOARD, f"{name}: {metric[0]} is not narrowed by the dashboard's variables")
        text += "\n".join(expressions) + "\n"
    used = check_names(DASHBOARD, text, names)
    for variable in dashboard["templating"]["list"]:
        check_names(DASHBOARD, str(variable.get("definition", "")), names)
    for name in sorted((names | PROCESS) - used):
        fault(DASHBOARD, f"{name} is shown nowhere")


def main():
    arguments = sys.argv[1:]
    if arguments and (len(arguments) != 2 or arguments[0] != "--metrics"):
        sys.exit("usage: check.py [--metrics FILE]")
    names = product(Path(arguments[1]).resolve() if arguments else METRICS)
    found = alerts()
    check_texts(found)
    check_cases(found)
    check_names(RULES, "\n".join(fields["expr"] for fields in found.values()), names)
    recorded = re.findall(r"^ *- record: \S+\n +expr: \|\n((?: {10}.*\n)+)", read(RULES), flags=re.M)
    if len(recorded) != read(RULES).count("- record:"):
        fault(RULES, f"read {len(recorded)} recorded series of {read(RULES).count('- record:')}")
    check_names(RULES, "\n".join(recorded), names)
    asked = set(re.findall(r"\w+:apptlock_\w+:\w+", " ".join(fields["expr"] for fields in found.values())))
    for name in sorted(asked ^ set(re.findall(r"- record: (\S+)", read(RULES)))):
        fault(RULES, f"{name} is recorded and not asked for, or asked for and not recorded")
    check_dashboard(names)
    for line in faults:
        print(line, file=sys.stderr)
    if faults:
        sys.exit(1)


main()
