#!/usr/bin/env python3
"""Checks everything that is deployed to Kubernetes: the chart, its values and notes, and the kustomizations.

    run.py [STAGE...]     all stages, or those that are named: run.py --list

Needs no cluster: for upgrades it starts a stand-in for the API server on 127.0.0.1, and ends it. Each fault is one line, FILE: RULE: FAULT; what was rendered stays in
target/deploy-rendered. Ends with 1 where there was any fault.
"""

import argparse
import sys
import time

import big_numbers
import checks
import naming
import notes
import nulls
import refusals
import security
import upgrades
import values
from checks.environment import settings_of_document, settings_of_help
from common import CHART, ROOT, Problem, ci_values, run, said, tool
from rendering import KUSTOMIZATIONS, Rendering
from schemas import Validator

BINARY = ROOT / "target" / "debug" / "apptlock"
# Scripts that make files from the chart, and say with --check whether those are still what they make.
GENERATORS = ("scripts/render-k8s", "scripts/chart-readme")


def known_settings():
    """From the binary where it is built, else from its documentation."""
    if BINARY.exists():
        found, source = set(), "apptlock serve --help, and migrate --help"
        for command in ("serve", "migrate"):
            found |= settings_of_help(run(BINARY, command, "--help").stdout)
    else:
        found, source = settings_of_document((ROOT / "docs" / "SETTINGS.md").read_text()), "docs/SETTINGS.md"
    # Fewer would mean that the list was not understood.
    if len(found) < 20 or "DATABASE_URL" not in found:
        sys.exit(f"check-deploy: {source} lists only {len(found)} settings; tests/deploy does not understand it any more")
    return found, source


def render(state):
    state.rendering = Rendering(state.settings)
    state.rendering.chart()
    state.rendering.kustomize()
    yield from state.rendering.problems


def schema(state):
    validator = Validator()
    for version, bundle in state.rendering.bundles:
        yield from validator.check(bundle.where, bundle.objects, version)
    yield from validator.check_custom()


def semantics(state):
    for _, bundle in state.rendering.bundles:
        for check in checks.ALL:
            yield from check(bundle)


def drift(_):
    """Generated files are what their generators make."""
    for script in GENERATORS:
        if not (ROOT / script).exists():
            yield Problem(script, "drift", "is not there")
            continue
        # As `make` calls it: a script finds its helm in HELM.
        done = run("env", f"HELM={tool('HELM4')}", ROOT / script, "--check", cwd=ROOT)
        if done.returncode != 0:
            yield Problem(script, "drift", f"what it makes is out of date; run it and commit: {said(done)}")


STAGES = {
    "render": (render, "helm lint and template (3 and 4), kubectl kustomize"),
    "schema": (schema, "schemas of Kubernetes and of custom resources"),
    "semantics": (semantics, "selectors, ports, settings, security, grace…"),
    "values": (lambda _: values.problems(), "values that are declared, used and in the schema"),
    "refusals": (lambda _: refusals.problems(), "values that must be refused"),
    "nulls": (lambda _: nulls.problems(), "headings with nothing below"),
    "names": (lambda _: naming.problems(), "names and labels, whatever the release is called"),
    "numbers": (lambda _: big_numbers.problems(), "big numbers, from a file and by --set"),
    "notes": (lambda _: notes.problems(), "warnings of NOTES.txt"),
    "upgrades": (lambda _: upgrades.problems(), "replicas through upgrades and rollbacks, on a stand-in for a cluster"),
    "drift": (drift, "files that are made from the chart"),
    "checkov": (lambda _: security.problems(), "checkov"),
}
# These look at what the first one has rendered.
NEED_RENDERING = {"schema", "semantics", "checkov"}


class State:
    def __init__(self):
        self.settings, self.source = known_settings()
        self.rendering = None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of: {', '.join(STAGES)}")
    parser.add_argument("--list", action="store_true", help="say what the stages are")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{name:10} {what}" for name, (_, what) in STAGES.items()))
        return
    for name in asked.stages:
        if name not in STAGES:
            sys.exit(f'check-deploy: "{name}" is no stage; they are {", ".join(STAGES)}')
    wanted = set(asked.stages or STAGES)
    if wanted & NEED_RENDERING:
        wanted.add("render")
    if not CHART.exists():
        sys.exit(f"check-deploy: there is no chart in {CHART}")
    state, faults = State(), 0
    print(f"{len(state.settings)} settings known, from {state.source}", flush=True)
    for name, (stage, what) in STAGES.items():
        if name not in wanted:
            continue
        began = time.monotonic()
        # The same fault of many renderings is told once for each file, not for each version.
        found = list(dict.fromkeys(stage(state)))
        faults += len(found)
        verdict = f"{len(found)} faults" if found else "good"
        print(f"{name:10} {verdict:10} {time.monotonic() - began:5.1f} s  {what}", flush=True)
        for problem in found:
            print(f"  {problem}", flush=True)
    print(f"{len(ci_values())} files of values, {len(KUSTOMIZATIONS)} kustomizations: {faults or 'no'} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
