"""The stage "upgrades" finds a chart that gets it wrong, and the stand-in it trusts answers as an API server does.

What Kubernetes does is written down here from its documentation of server-side apply and of patches.
"""

import base64
import json
import pathlib
import shutil
import tempfile
import unittest
import urllib.error
import urllib.request

import upgrades
from apiobjects import Managers, Refused, as_fields, as_paths, json_patch, merge_patch, strategic_patch, with_defaults
from apiprotobuf import secret
from apiserver import DIRECT, ApiServer, Request, selected
from common import CHART

LOOKUP = """
  {{- with lookup "apps/v1" "Deployment" .Release.Namespace (include "apptlock.fullname" .) }}
  replicas: {{ int .spec.replicas }}
  {{- end }}
"""
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}


class Stage(unittest.TestCase):
    def test_a_number_that_is_looked_up(self):
        with tempfile.TemporaryDirectory() as folder:
            chart = pathlib.Path(shutil.copytree(CHART, pathlib.Path(folder) / "apptlock"))
            template = chart / "templates" / "deployment.yaml"
            template.write_text(template.read_text().replace("\nspec:\n", f"\nspec:{LOOKUP}", 1))
            found = [str(problem) for problem in upgrades.problems(chart, [upgrades.autoscaler])]
        for part in (
            "helm3, autoscaler: replicas: Helm sends replicas: 4 (PATCH, strategic-merge-patch+json), in a rollback",
            "helm3, autoscaler: replicas: after a rollback there are 4 replicas, and there should be 10",
            "helm4, autoscaler: replicas: Helm sends replicas: 10 (PATCH, apply-patch+yaml), in an upgrade",
            "helm4, autoscaler: replicas: helm rollback 2 failed",
        ):
            self.assertTrue(any(part in fault for fault in found), f"{part} is not among {found}")

    def test_what_counts_as_sent(self):
        def sent(body, agent="Helm/4", path="deployments/a"):
            place = f"/apis/apps/v1/namespaces/b/{path}"
            return len(list(upgrades.sends_replicas([Request(agent, "PATCH", place, {}, "", body)])))

        self.assertEqual(1, sent({"spec": {"replicas": 3}}))
        self.assertEqual(1, sent({"spec": {"replicas": None}}))
        self.assertEqual(1, sent([{"op": "add", "path": "/spec/replicas", "value": 3}]))
        self.assertEqual(1, sent({"spec": {"replicas": 3}}, path="deployments/a/scale"))
        self.assertEqual(0, sent({"spec": {"replicas": 3}}, agent="kubectl/1"))
        self.assertEqual(0, sent({"spec": {"replicas": 3}}, path="replicasets/a"))
        self.assertEqual(0, sent({"spec": {"revisionHistoryLimit": 3}}) + sent(None))

    def test_commands_that_are_gone(self):
        with self.assertRaisesRegex(upgrades.Surprise, 'no commands below "Nowhere"'):
            upgrades.guided("Nowhere")


class Merges(unittest.TestCase):
    def test_a_number_that_goes_is_one(self):
        live = DEPLOYMENT | {"spec": {"replicas": 4}}
        for merge in (merge_patch, strategic_patch):
            self.assertEqual(1, with_defaults(merge(live, {"spec": {"replicas": None}}))["spec"]["replicas"])

    def test_lists_by_key(self):
        live = {"spec": {"containers": [{"name": "a", "env": [{"name": "x", "value": "1"}], "args": ["1", "2"]}, {"name": "b"}]}}
        change = {"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [
            {"name": "b", "$patch": "delete"}, {"name": "a", "env": [{"name": "y", "value": "2"}], "args": ["3"]}]}}
        self.assertEqual({"spec": {"containers": [{"name": "a", "env": [
            {"name": "x", "value": "1"}, {"name": "y", "value": "2"}], "args": ["3"]}]}}, strategic_patch(live, change))
        self.assertEqual({"type": "Recreate"}, strategic_patch(
            {"type": "RollingUpdate", "rollingUpdate": {}}, {"$retainKeys": ["type"], "type": "Recreate"}))
        with self.assertRaises(Refused):
            strategic_patch({}, {"$unknown": 1})

    def test_steps(self):
        live = {"metadata": {"a/b": 1, "c": [1]}}
        self.assertEqual({"metadata": {"a/b": 2}}, json_patch(live, [
            {"op": "replace", "path": "/metadata/a~1b", "value": 2}, {"op": "remove", "path": "/metadata/c"}]))
        with self.assertRaises(Refused):
            json_patch(live, [{"op": "test", "path": "/metadata/a~1b", "value": 2}])


class Fields(unittest.TestCase):
    """`owned` of Managers: who has which field."""

    def setUp(self):
        self.managers = Managers({})
        self.live = with_defaults(self.managers.applied(DEPLOYMENT, DEPLOYMENT | {"spec": {"replicas": 4}}, "helm", False))
        self.bare = DEPLOYMENT | {"spec": {"paused": False}}

    def number_without(self):
        return with_defaults(self.managers.applied(self.live, self.bare, "helm", False))["spec"]["replicas"]

    def scaled(self, number):
        after = merge_patch(self.live, {"spec": {"replicas": number}})
        self.managers.updated(self.live, after, "kube-controller-manager", "scale")
        self.live = after

    def test_a_field_that_its_only_manager_gives_up_goes(self):
        self.assertEqual(1, self.number_without())

    def test_a_field_with_a_second_manager_stays(self):
        self.live = self.managers.applied(self.live, DEPLOYMENT | {"spec": {"replicas": 4}}, "handover", False)
        self.assertEqual(4, self.number_without())

    def test_a_field_that_was_changed_is_the_changers(self):
        self.scaled(10)
        self.assertNotIn(("spec", "replicas"), self.managers.owned["helm", "Apply", ""])
        self.assertEqual(10, self.number_without())

    def test_a_conflict_unless_it_is_forced(self):
        self.scaled(10)
        with self.assertRaisesRegex(Refused, r'"kube-controller-manager" with subresource "scale": .spec.replicas'):
            self.managers.applied(self.live, DEPLOYMENT | {"spec": {"replicas": 5}}, "helm", False)
        forced = self.managers.applied(self.live, DEPLOYMENT | {"spec": {"replicas": 5}}, "helm", True)
        self.assertEqual(5, forced["spec"]["replicas"])
        self.assertFalse(self.managers.owned["kube-controller-manager", "Update", "scale"])

    def test_notation(self):
        paths = {("spec", "replicas"), ("metadata", "labels", "a.b/c")}
        self.assertEqual(paths, as_paths(as_fields(paths)))
        self.assertEqual({("spec", "ports")}, as_paths({"f:spec": {"f:ports": {".": {}, 'k:{"port":1}': {"f:port": {}}}}}))
        written = self.managers.write({"apiVersion": "apps/v1", "metadata": {}})
        self.assertEqual(self.managers.owned, Managers(written).owned)


class Server(unittest.TestCase):
    def call(self, path, method="GET", body=None, kind="application/json"):
        request = urllib.request.Request(self.server.url + path, body, {"Content-Type": kind}, method=method)
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def test_what_it_does_not_know_it_refuses(self):
        with ApiServer() as self.server:
            self.assertEqual(404, self.call("/apis/apps/v1/namespaces/a/statefulsets")[0])
            self.assertEqual(404, self.call("/apis/apps/v1/namespaces/a/secrets")[0])
            self.assertEqual(404, self.call("/nowhere")[0])
            secrets = "/api/v1/namespaces/a/secrets"
            self.assertEqual(415, self.call(secrets, "POST", b"k8s\0rubbish", "application/vnd.kubernetes.protobuf")[0])
            thing = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}).encode()
            self.assertEqual([201, 409], [self.call(secrets, "POST", thing)[0] for _ in range(2)])
            self.assertEqual(415, self.call(f"{secrets}/x", "PATCH", thing, "application/x")[0])
            self.assertEqual([200, 404], [self.call(f"{secrets}/x", "DELETE")[0] for _ in range(2)])
            recorded = self.server.requests[-1]
            self.assertEqual(("DELETE", "secrets"), (recorded.method, recorded.resource))
        with self.assertRaises(urllib.error.URLError):
            self.call("/version")

    def test_a_job_is_complete(self):
        with ApiServer() as self.server:
            jobs = "/apis/batch/v1/namespaces/a/jobs"
            self.call(jobs, "POST", json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}).encode())
            watch = f"{self.server.url}{jobs}?watch=true&fieldSelector=metadata.name%3Dx"
            with DIRECT.open(watch, timeout=10) as events:
                event = json.loads(events.readline())
        self.assertEqual("ADDED", event["type"])
        self.assertIn("Complete", [condition["type"] for condition in event["object"]["status"]["conditions"]])

    def test_selectors(self):
        thing = {"metadata": {"name": "x", "labels": {"a": "1", "b": "2"}}}
        for query, wanted in (("a=1,b=2", True), ("a==1", True), ("a!=1", False), ("a=1,c", False), ("b in (1,2),a=1", True)):
            self.assertEqual(wanted, selected(thing, {"labelSelector": query}), query)
        self.assertFalse(selected(thing, {"fieldSelector": "metadata.name=y"}))

    def test_protobuf(self):
        def field(number, data):
            return bytes([number << 3 | 2, len(data)]) + data

        label = field(11, field(1, b"owner") + field(2, b"helm"))
        raw = field(1, field(1, b"x") + label) + field(2, field(1, b"release") + field(2, b"\0\1")) + field(3, b"t")
        message = b"k8s\0" + field(1, field(1, b"v1") + field(2, b"Secret")) + field(2, raw)
        self.assertEqual({
            "apiVersion": "v1", "kind": "Secret", "type": "t", "metadata": {"name": "x", "labels": {"owner": "helm"}},
            "data": {"release": base64.b64encode(b"\0\1").decode()}}, secret(message))
        for wrong in (b"{}", b"k8s\0", b"k8s\0\xff", message.replace(b"Secret", b"Socket")):
            with self.assertRaises(ValueError):
                secret(wrong)


if __name__ == "__main__":
    unittest.main()
