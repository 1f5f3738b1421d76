"""Renders what is checked: the chart with every file of ci/, by Helm 3 and 4, for the oldest and the newest Kubernetes, and
the kustomizations. Whatever does not render is a Problem, and so is a file that the two Helms do not agree on.
"""

import concurrent.futures
import re

import yaml

from bundle import Bundle
from common import CHART, NAMESPACE, RELEASE, RENDERED, ROOT, Loader, Problem, ci_values, helm_template, objects_of, run
from common import said, short, tool
from schemas import NEWEST

HELMS = ("HELM3", "HELM4")
KUSTOMIZATIONS = ("k8s/base", "k8s/overlays/dev", "k8s/overlays/prod")
# The overlay that brings everything it needs, so that nothing may come from elsewhere.
SELF_CONTAINED = "k8s/overlays/dev"


def oldest():
    """The oldest Kubernetes that the chart lets itself be installed on."""
    return re.search(r">=\s*(\d+\.\d+)", load(CHART / "Chart.yaml")["kubeVersion"]).group(1)


def load(path):
    return yaml.load(path.read_text(), Loader) or {}


def texts(value):
    """Every text in values; the release's name is put in where a template stands for it."""
    if isinstance(value, str):
        yield re.sub(r"\{\{\s*\.Release\.Name\s*\}\}", RELEASE, value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


class Rendering:
    """`bundles`: pairs of a version of Kubernetes and a Bundle. `problems`: what went wrong on the way."""

    def __init__(self, known_settings):
        self.known_settings = known_settings
        rules = CHART / "files" / "rules.yaml"
        self.rules = load(rules) if rules.exists() else None
        self.bundles, self.problems = [], []
        RENDERED.mkdir(parents=True, exist_ok=True)
        for old in RENDERED.glob("*.yaml"):
            old.unlink()

    def add(self, where, objects, versions, external):
        for version in versions:
            self.bundles.append((version, Bundle(where, objects, self.known_settings, self.rules, external)))

    def chart(self):
        files = ci_values()
        if not files:
            self.problems.append(Problem("helm/apptlock/ci", "ci-values", "there is no *-values.yaml to render the chart with"))
        for helm in HELMS:
            # Unpacked before two want it at once.
            tool(helm)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for found in pool.map(self.chart_with, files):
                self.problems += found

    def chart_with(self, file):
        """The chart with one file of values; answers its Problems."""
        where, first = short(file), oldest()
        external = {*texts(load(CHART / "values.yaml")), *texts(load(file))}
        for helm in HELMS:
            done = run(tool(helm), "lint", "--strict", "--namespace", NAMESPACE, "--values", file, CHART)
            if done.returncode != 0:
                return [Problem(where, f"{helm.lower()} lint", said(done))]
        done = helm_template("HELM4", values=file, kube_version=first)
        # Values may ask for more than the chart does; then that version is the oldest for them.
        needs = re.search(r"needs Kubernetes (\d+\.\d+) or newer", done.stderr)
        if done.returncode != 0 and needs:
            first = needs.group(1)
        problems = []
        for version in dict.fromkeys((first, NEWEST)):
            answers = {}
            for helm in HELMS:
                done = helm_template(helm, values=file, kube_version=version)
                if done.returncode != 0:
                    return [Problem(where, f"{helm.lower()} template, Kubernetes {version}", said(done))]
                try:
                    answers[helm] = objects_of(done.stdout)
                except yaml.YAMLError as fault:
                    return [Problem(where, f"{helm.lower()} template, Kubernetes {version}", f"no YAML: {' '.join(str(fault).split())}")]
            if sorted(map(str, answers["HELM3"])) != sorted(map(str, answers["HELM4"])):
                problems.append(Problem(where, "both helms", f"for Kubernetes {version} they do not render the same objects"))
            self.add(where, answers["HELM4"], [version], external)
            if version == NEWEST:
                self.keep(where, answers["HELM4"])
        return problems

    def kustomize(self):
        base = {*texts(load(CHART / "values.yaml")), *texts(load(ROOT / "k8s/base/values.yaml"))}
        for folder in KUSTOMIZATIONS:
            done = run(tool("KUBECTL"), "kustomize", ROOT / folder)
            # It is content with what it warns of (deprecated fields); we are not.
            if done.returncode != 0 or done.stderr.strip():
                self.problems.append(Problem(folder, "kustomize", said(done)))
                continue
            objects = objects_of(done.stdout)
            own = ROOT / folder / "values.yaml"
            external = base | (set(texts(load(own))) if own.exists() else set())
            self.add(folder, objects, (oldest(), NEWEST), set() if folder == SELF_CONTAINED else external)
            self.keep(folder, objects)

    @staticmethod
    def keep(where, objects):
        """As files, for checkov and for people who look for what a Problem means."""
        name = where.replace("helm/apptlock/ci/", "").replace("-values.yaml", "").replace("/", "-")
        (RENDERED / f"{name}.yaml").write_text(yaml.safe_dump_all(objects, sort_keys=False))
