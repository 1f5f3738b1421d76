"""The alerts and the dashboard that the chart embeds are those of its files."""

import json

from bundle import dig


def embedded_rules(bundle):
    """A PrometheusRule with our alerts has them unchanged: helm must not have taken Prometheus's templates for its own."""
    for rule in bundle.of_kind("PrometheusRule"):
        if bundle.rules is None:
            yield bundle.problem("rules", rule, "there is no helm/apptlock/files/rules.yaml to compare it with")
        elif rule["spec"] != bundle.rules:
            ours = {group["name"]: group for group in bundle.rules["groups"]}
            theirs = {group["name"]: group for group in rule["spec"].get("groups") or []}
            other = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
            yield bundle.problem("rules", rule, "its spec is not what helm/apptlock/files/rules.yaml says; groups that differ:"
                                 f' {", ".join(other) or "none, but there is more beside them"}')


def embedded_dashboards(bundle):
    """A ConfigMap's JSON files are JSON."""
    for thing in bundle.of_kind("ConfigMap"):
        for key, text in dig(thing, "data", default={}).items():
            if key.endswith(".json"):
                try:
                    json.loads(text)
                except ValueError as fault:
                    yield bundle.problem("dashboard", thing, f"{key} is not JSON: {fault}")


CHECKS = [embedded_rules, embedded_dashboards]
