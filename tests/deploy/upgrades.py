"""Whether a release leaves the number of replicas alone where something else scales: Helm 3 and 4 install, switch, upgrade
and roll back against a stand-in for the API server, which records what they send.

Owns the stories; each has a server of its own. What is not as it should be is a Problem, and a command that fails ends its
story. The commands of docs/KUBERNETES.md that keep the pods during the switch-over are run as they stand there. Nothing
outlives a story, and Helm waits for nothing longer than WAIT.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import re
import tempfile
import urllib.request

from apiserver import DIRECT, ApiServer
from common import CHART, ROOT, Problem, run, said, tool
from refusals import BASE, over
from rendering import HELMS

GUIDE = "docs/KUBERNETES.md"
# As in the guide, whose commands are run.
RELEASE = NAMESPACE = "apptlock"
WAIT = "30s"
FIXED = over(BASE, {"redis": {"url": "redis://redis:6379"}, "replicaCount": 4})
SCALED = over(FIXED, {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 12}})
ELSEWHERE = over(FIXED, {"replicaCount": None})
HOOK = {"migrations": {"mode": "job"}}
# Headings of the guide.
WAYS = {"HELM3": "Helm 3: take the number out of the last revision", "HELM4": "Helm 4: give the number another manager"}
CHANGE = {"podAnnotations": {"changed": "yes"}}


class Surprise(Exception):
    """A command that did not do what it should: it ends a story."""


class Story:
    """One release of one Helm, and the server that it is on."""

    def __init__(self, helm, chart, server, folder):
        self.helm, self.chart, self.server, self.folder = helm, chart, server, folder
        self.since, self.faults = 0, []
        (folder / "bin").mkdir()
        self.uses(helm)
        (folder / "bin" / "kubectl").symlink_to(tool("KUBECTL"))
        (folder / "helm").mkdir()
        (folder / "helm" / "apptlock").symlink_to(chart)
        cluster = {"name": "x", "cluster": {"server": server.url}}
        context = {"name": "x", "context": {"cluster": "x", "user": "x", "namespace": NAMESPACE}}
        (folder / "config").write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context],
            "users": [{"name": "x", "user": {}}], "current-context": "x"}))

    def uses(self, helm):
        """What `helm` is from now on."""
        place = self.folder / "bin" / "helm"
        place.unlink(missing_ok=True)
        place.symlink_to(tool(helm))

    def command(self, *words, values=None):
        """A command as somebody types it in the repository, with `helm` and `kubectl` on the PATH."""
        if values is not None:
            (self.folder / "values.yaml").write_text(json.dumps(values))
        return run("env", f"HOME={self.folder}", f"KUBECONFIG={self.folder}/config", "sh", "-ec",
                   f'PATH="{self.folder}/bin:$PATH"; export PATH; "$@"', "sh", *words, cwd=self.folder)

    def run(self, verb, *words, values=None):
        """helm install, upgrade or rollback, which has to succeed."""
        chart = [] if verb == "rollback" else ["helm/apptlock"]
        files = [] if values is None else ["-f", "values.yaml"]
        options = ["-n", NAMESPACE, "--timeout", WAIT, *files]
        done = self.command("helm", verb, RELEASE, *chart, *options, *words, values=values)
        if done.returncode != 0:
            raise Surprise(f'helm {" ".join((verb, *words))} failed: {said(done)}')

    def is_refused(self, part, verb, *words, values=None):
        try:
            self.run(verb, *words, values=values)
        except Surprise as surprise:
            if part in str(surprise):
                return
            raise
        raise Surprise(f"helm {verb} succeeded, and {GUIDE} says that it is refused with {part}")

    def scale(self, number):
        """What an autoscaler does: it reads the subresource, and puts it back with another number."""
        place = f"{self.server.url}/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{RELEASE}/scale"
        with DIRECT.open(place, timeout=10) as answer:
            scale = json.load(answer)
        scale["spec"]["replicas"] = number
        headers = {"Content-Type": "application/json", "User-Agent": "kube-controller-manager/v1.33.0"}
        change = urllib.request.Request(place, json.dumps(scale).encode(), headers, method="PUT")
        DIRECT.open(change, timeout=10).close()

    def has(self, number, after):
        there = self.server.find("deployments", RELEASE, NAMESPACE)["spec"]["replicas"]
        if there != number:
            self.faults.append(f"after {after} there are {there} replicas, and there should be {number}")

    def mark(self):
        """From here on Helm may not send a number."""
        self.since = len(self.server.requests)

    def leaves(self, number, after):
        """Helm has sent no number since the last look, and there are as many as before."""
        self.faults += [f"{fault}, in {after}" for fault in sends_replicas(self.server.requests[self.since:])]
        self.mark()
        self.has(number, after)


def sends_replicas(requests):
    """Each request of Helm that has `replicas` of a Deployment, also where it takes it away with a null."""
    for request in requests:
        if not request.agent.startswith("Helm/") or (request.resource or "").split("/")[0] != "deployments":
            continue
        steps = request.body if isinstance(request.body, list) else []
        by_step = [step.get("value") for step in steps if step.get("path") == "/spec/replicas"]
        spec = request.body.get("spec") or {} if isinstance(request.body, dict) else {}
        for number in [*by_step, *([spec["replicas"]] if "replicas" in spec else [])]:
            yield f"Helm sends replicas: {json.dumps(number)} ({request.method}, {request.kind.split('/')[-1]})"


def guided(title):
    """The commands of the guide below a heading."""
    text = (ROOT / GUIDE).read_text()
    block = re.search(rf"^#+ {re.escape(title)}$.*?^```sh\n(.*?)^```$", text, re.S | re.M)
    if not block:
        raise Surprise(f'{GUIDE} has no commands below "{title}"')
    return block[1]


def hand_over(story, way):
    """The guide's way for one of the Helms. Without it Helm 3 would send a null."""
    story.mark()
    done = story.command("bash", "-euo", "pipefail", "-c", guided(WAYS[way]), values=SCALED)
    if done.returncode != 0:
        raise Surprise(f"the commands of {GUIDE} failed: {said(done)}")
    if not story.server.find("horizontalpodautoscalers", RELEASE, NAMESPACE):
        raise Surprise(f"the commands of {GUIDE} do not upgrade: {said(done)}")


def takes_back(story, number, *command, values=None):
    """A revision with a number: Helm 4 asks before it takes the field from the autoscaler, Helm 3 does not."""
    if story.helm == "HELM4":
        story.is_refused(".spec.replicas", *command, values=values)
        story.has(10, "what was refused")
        command = (*command, "--force-conflicts")
    story.run(*command, values=values)
    story.has(number, "the way back")


def autoscaler(story):
    """An autoscaler scales, and neither an upgrade nor a rollback undoes it."""
    fixed, scaled = over(FIXED, HOOK), over(SCALED, HOOK)
    story.run("install", values=fixed)
    story.has(4, "the installation")
    story.run("upgrade", values=scaled)
    story.mark()
    story.scale(10)
    story.run("upgrade", values=over(scaled, CHANGE))
    story.leaves(10, "an upgrade")
    story.run("rollback", "2")
    story.leaves(10, "a rollback")


def elsewhere(story):
    """`replicaCount: null`: no number from the first revision on, also where values are reused."""
    story.run("install", values=ELSEWHERE)
    story.leaves(1, "the installation")
    story.scale(10)
    story.run("upgrade", "--reuse-values", "--set", "podAnnotations.changed=yes")
    story.leaves(10, "an upgrade")
    story.run("rollback", "1")
    story.leaves(10, "a rollback")


def switched(story):
    """What the guide warns of: the switch-over without precautions leaves one pod, and a rollback before it has a number."""
    story.run("install", values=FIXED)
    story.run("upgrade", values=SCALED)
    story.has(1, "the switch-over without precautions")
    story.scale(10)
    takes_back(story, 4, "rollback", "1")


def handed_over(story):
    """The commands of the guide keep the pods during the switch-over."""
    story.run("install", values=FIXED)
    hand_over(story, story.helm)
    story.leaves(4, "the switch-over as in the guide")
    story.scale(10)
    story.run("upgrade", values=over(SCALED, CHANGE))
    story.leaves(10, "an upgrade")
    story.run("rollback", "2")
    story.leaves(10, "a rollback")
    if story.helm == "HELM3":
        story.run("rollback", "1")
        story.leaves(10, "a rollback to the revision without its number")


def inherited(story):
    """A release that Helm 3 installed: Helm 4 updates it as Helm 3 does, so the guide's way for Helm 3 is taken."""
    if story.helm == "HELM3":
        return
    story.uses("HELM3")
    story.run("install", values=FIXED)
    story.uses("HELM4")
    hand_over(story, "HELM3")
    story.leaves(4, "the switch-over as in the guide")


def back(story):
    """Back to a fixed number."""
    story.run("install", values=SCALED)
    story.scale(10)
    takes_back(story, 5, "upgrade", values=over(FIXED, {"replicaCount": 5}))


STORIES = (autoscaler, elsewhere, switched, handed_over, inherited, back)


def told(pair, chart=CHART):
    """The Problems of one story with one Helm."""
    helm, story = pair
    where = f'helm/apptlock: {helm.lower()}, {story.__name__.replace("_", " ")}'
    with contextlib.ExitStack() as ends:
        folder = pathlib.Path(ends.enter_context(tempfile.TemporaryDirectory()))
        server = ends.enter_context(ApiServer())
        it = Story(helm, chart, server, folder)
        try:
            story(it)
        except Surprise as surprise:
            it.faults.append(str(surprise))
    return [Problem(where, "replicas", fault) for fault in it.faults]


def problems(chart=CHART, stories=STORIES):
    for helm in HELMS:
        # Unpacked before two want it at once.
        tool(helm)
    tool("KUBECTL")
    pairs = [(helm, story) for story in stories for helm in HELMS]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda pair: told(pair, chart), pairs):
            yield from found
