"""Each check is fed what is broken, and must say so; and what is sound, and must be silent.

The checks of manifests get sample.yaml with one fault each. A rule without a fault here fails the last test of Semantics,
so that a check which can never complain does not pass for one.
"""

import copy
import pathlib
import re
import tarfile
import tempfile
import unittest

import refusals
import run as runner
import security
import values
from bundle import Bundle, seconds
from checks import ALL
from checks.environment import settings_of_document, settings_of_help
from common import CHART, HERE, RENDERED, helm_template, objects_of, run, tool
from rendering import Rendering
from schemas import NEWEST, Validator

SAMPLE = objects_of((HERE / "sample.yaml").read_text())
SETTINGS = frozenset({"DATABASE_URL", "DRAIN_DELAY", "DRAIN_TIME"})
RULES = next(thing["spec"] for thing in SAMPLE if thing["kind"] == "PrometheusRule")
EXTERNAL = frozenset({"outside", "ca.crt"})


def complaints(objects):
    bundle = Bundle("sample", objects, SETTINGS, RULES, EXTERNAL)
    return [problem for check in ALL for problem in check(bundle)]


def broken(kind, name, *path, to):
    """The sample with one place changed: a path of keys and indices; `to` is a value, or a function of what is there."""
    objects = copy.deepcopy(SAMPLE)
    at = next(thing for thing in objects if (thing["kind"], thing["metadata"]["name"]) == (kind, name))
    for step in path[:-1]:
        at = at.setdefault(step, {}) if isinstance(at, dict) else at[step]
    value = to(copy.deepcopy(at.get(path[-1]) if isinstance(at, dict) else at[path[-1]])) if callable(to) else to
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return objects


DEPLOYMENT = ("Deployment", "app", "spec", "template", "spec")
CONTAINER = (*DEPLOYMENT, "containers", 0)
JOB = ("Job", "app-migrate", "spec", "template", "spec")
PORT = ("spec", "ports", 0, "targetPort")

# The rule, what its complaint says, and the fault: where, and what to put there (None: take it away).
FAULTS = [
    ("hpa-bounds", "minReplicas 6", ("HorizontalPodAutoscaler", "app", "spec", "minReplicas"), 6),
    ("hpa-target", "Deployment/other", ("HorizontalPodAutoscaler", "app", "spec", "scaleTargetRef", "name"), "other"),
    ("hpa-replicas", "leave replicas out", ("Deployment", "app", "spec", "replicas"), 2),
    ("hpa-metrics", "nothing to decide by", ("HorizontalPodAutoscaler", "app", "spec", "metrics"), []),
    ("hpa-cpu", "requests no CPU", (*CONTAINER, "resources", "requests", "cpu"), None),
    ("pdb-bounds", "minAvailable and maxUnavailable", ("PodDisruptionBudget", "app", "spec", "minAvailable"), 1),
    ("pdb-bounds", "no bound", ("PodDisruptionBudget", "app", "spec", "maxUnavailable"), None),
    ("pdb-selector", "none", ("PodDisruptionBudget", "app", "spec", "selector", "matchLabels", "app"), "other"),
    ("pdb-selector", "Job/app-migrate", ("PodDisruptionBudget", "app", "spec", "selector"), {}),
    ("pdb-blocks", "lets none go", ("PodDisruptionBudget", "app", "spec", "maxUnavailable"), 0),
    ("pdb-blocks", "lets none go", ("PodDisruptionBudget", "app", "spec"),
     lambda spec: {"selector": spec["selector"], "minAvailable": "51%"}),
    ("spread-selector", "own pods", (*DEPLOYMENT, "topologySpreadConstraints", 0, "labelSelector"), None),
    ("workload-selector", "own pods", ("Deployment", "app", "spec", "selector", "matchLabels", "version"), "2"),
    ("service-selector", "none", ("Service", "app", "spec", "selector", "app"), "other"),
    ("service-selector", "Job/app-migrate", ("Job", "app-migrate", "spec", "template", "metadata", "labels", "app"), "app"),
    ("service-port", "targetPort web", ("Service", "app", *PORT), "web"),
    ("service-port", "targetPort 3001", ("Service", "app", *PORT), 3001),
    ("service-management", "LoadBalancer", ("Service", "app-management", "spec", "type"), "LoadBalancer"),
    ("policy-selector", "no pod", ("NetworkPolicy", "app", "spec", "podSelector", "matchLabels", "app"), "other"),
    ("policy-port", "port web", ("NetworkPolicy", "app", "spec", "ingress", 0, "ports", 0, "port"), "web"),
    ("policy-management", "everybody", ("NetworkPolicy", "app", "spec", "ingress", 1, "from"), None),
    ("policy-management", "everybody", ("NetworkPolicy", "app", "spec", "ingress", 0, "ports"), None),
    ("monitor-selector", "matches nothing", ("ServiceMonitor", "app", "spec", "namespaceSelector"), None),
    ("monitor-selector", "matches nothing", ("PodMonitor", "app", "spec", "selector", "matchLabels", "app"), "other"),
    ("monitor-port", "port metrics", ("ServiceMonitor", "app", "spec", "endpoints", 0, "port"), "metrics"),
    ("monitor-path", "/metricz", ("PodMonitor", "app", "spec", "podMetricsEndpoints", 0, "path"), "/metricz"),
    ("probe-port", "port probes", (*CONTAINER, "livenessProbe", "httpGet", "port"), "probes"),
    ("probe-path", "/readyz", (*CONTAINER, "readinessProbe", "httpGet", "path"), "/livez"),
    ("probe-path", "/livez", (*CONTAINER, "livenessProbe"), None),
    ("route-service", "service gone", ("HTTPRoute", "app", "spec", "rules", 0, "backendRefs", 0, "name"), "gone"),
    ("route-port", "port 81", ("HTTPRoute", "app", "spec", "rules", 0, "backendRefs", 0, "port"), 81),
    ("route-tls", "names other", ("Ingress", "app", "spec", "tls"), [{"secretName": "tls", "hosts": ["other"]}]),
    ("route-management", "app-management", ("HTTPRoute", "app", "spec", "rules", 0, "backendRefs", 0),
     {"name": "app-management", "port": 9090}),
    ("route-management", "by way of app", ("Service", "app", *PORT), "management"),
    ("route-management", "app-management", ("Ingress", "app", "spec", "defaultBackend"),
     {"service": {"name": "app-management", "port": {"number": 9090}}}),
    ("pod-security", "as root", (*DEPLOYMENT, "securityContext", "runAsNonRoot"), None),
    ("pod-security", "as root", (*CONTAINER, "securityContext", "runAsNonRoot"), False),
    ("pod-security", "user 0", (*CONTAINER, "securityContext", "runAsUser"), 0),
    ("pod-security", "seccomp", (*JOB, "securityContext", "seccompProfile"), None),
    ("pod-security", "gain rights", (*JOB, "containers", 0, "securityContext", "allowPrivilegeEscalation"), None),
    ("pod-security", "privileged", (*CONTAINER, "securityContext", "privileged"), True),
    ("pod-security", "procMount", (*CONTAINER, "securityContext", "procMount"), "Unmasked"),
    ("pod-security", "drop ALL", (*CONTAINER, "securityContext", "capabilities", "drop"), ["NET_RAW"]),
    ("pod-security", "NET_ADMIN", (*CONTAINER, "securityContext", "capabilities", "add"), ["NET_ADMIN"]),
    ("pod-security", "hostNetwork", (*DEPLOYMENT, "hostNetwork"), True),
    ("pod-security", "node's port", (*CONTAINER, "ports", 0, "hostPort"), 3000),
    ("pod-security", "hostPath", (*DEPLOYMENT, "volumes", 0), {"name": "ca", "hostPath": {"path": "/"}}),
    ("pod-security", "sysctl", (*DEPLOYMENT, "securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}]),
    ("read-only", "readOnlyRootFilesystem", (*CONTAINER, "securityContext", "readOnlyRootFilesystem"), None),
    ("resources", "limits.memory", (*JOB, "containers", 0, "resources", "limits"), None),
    ("no-token", "automount", (*JOB, "automountServiceAccountToken"), None),
    ("no-token", "automount", ("ServiceAccount", "app", "automountServiceAccountToken"), True),
    ("no-token", "is a token", (*DEPLOYMENT, "volumes", 0),
     {"name": "ca", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
    ("image-tag", "example.com:5000/apptlock", (*CONTAINER, "image"), "example.com:5000/apptlock"),
    ("image-tag", "latest", (*CONTAINER, "image"), "apptlock:latest"),
    ("grace", "27", (*DEPLOYMENT, "terminationGracePeriodSeconds"), 27),
    ("grace", "DRAIN_TIME 1m 30s", ("ConfigMap", "app", "data", "DRAIN_TIME"), "1m 30s"),
    ("grace", "DRAIN_DELAY 30s", (*CONTAINER, "env", 1), {"name": "DRAIN_DELAY", "value": "30s"}),
    ("grace", "preStop 20", (*CONTAINER, "lifecycle", "preStop", "sleep", "seconds"), 20),
    ("pre-stop", "no shell", (*CONTAINER, "lifecycle", "preStop"), {"exec": {"command": ["sleep", "5"]}}),
    ("setting", "LOCK_TLL", ("ConfigMap", "app", "data", "LOCK_TLL"), "5m"),
    ("setting", "POD of", (*CONTAINER, "env", 2), {"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "a=b"}),
    ("setting", "OTEL_EXPORTER", (*JOB, "containers", 0, "env", 0), {"name": "OTEL_EXPORTER_URL", "value": "http://c"}),
    ("setting-twice", "POD", (*CONTAINER, "env"), lambda env: [*env, {"name": "POD", "value": "two"}]),
    ("reference", "no such key", (*CONTAINER, "env", 0, "valueFrom", "secretKeyRef", "key"), "URL"),
    ("reference", "Secret other", (*CONTAINER, "env", 0, "valueFrom", "secretKeyRef", "name"), "other"),
    ("reference", "ConfigMap other", (*CONTAINER, "envFrom", 0, "configMapRef", "name"), "other"),
    ("reference", "key ca.pem", (*DEPLOYMENT, "volumes", 0, "secret", "items", 0, "key"), "ca.pem"),
    ("reference", "ServiceAccount other", (*DEPLOYMENT, "serviceAccountName"), "other"),
    ("hook-order", "Secret app", (*JOB, "containers", 0, "env", 0, "valueFrom", "secretKeyRef", "name"), "app"),
    ("hook-order", "Secret app-migrate", ("Secret", "app-migrate", "metadata", "annotations", "helm.sh/hook-weight"), "0"),
    ("credential", "TOKEN of migrate", (*JOB, "containers", 0, "env", 0), {"name": "TOKEN", "value": "a.test.token"}),
    ("credential", "REDIS_URL", ("ConfigMap", "app", "data", "REDIS_URL"), "redis://app:demo@redis"),
    ("hook-secret", "hook-failed", ("Secret", "app-migrate", "metadata", "annotations", "helm.sh/hook-delete-policy"),
     "before-hook-creation,hook-succeeded"),
    ("data", "emptyDir ca", DEPLOYMENT, lambda spec: {**spec, "volumes": [{"name": "ca", "emptyDir": {}}], "containers": [
        {**spec["containers"][0], "env": [{"name": "PGDATA", "value": "/ca/data"}]}]}),
    ("volume", "mounted and is no volume", (*CONTAINER, "volumeMounts", 0, "name"), "tmp"),
    ("volume", "mounted nowhere", (*CONTAINER, "volumeMounts"), []),
    ("rules", "app", ("PrometheusRule", "app", "spec", "groups", 0, "rules", 0, "annotations", "summary"), " is gone"),
    ("dashboard", "not JSON", ("ConfigMap", "app-dashboard", "data", "app.json"), "{'title': 'App'}"),
]


class Semantics(unittest.TestCase):
    def test_sound(self):
        self.assertEqual([], list(map(str, complaints(SAMPLE))))

    def test_broken(self):
        for rule, part, path, to in FAULTS:
            with self.subTest(rule=rule, path=path, to=to):
                found = [problem for problem in complaints(broken(*path, to=to)) if problem.rule == rule]
                self.assertTrue(any(part in problem.fault for problem in found), list(map(str, found)))

    def test_twice(self):
        found = complaints([*SAMPLE, SAMPLE[1]])
        self.assertIn("unique", {problem.rule for problem in found})

    def test_every_rule_can_fail(self):
        rules = set()
        for file in (HERE / "checks").glob("*.py"):
            rules |= set(re.findall(r'bundle\.problem\(\s*"([\w-]+)"', file.read_text()))
        self.assertEqual(set(), rules - {fault[0] for fault in FAULTS} - {"unique"})

    def test_durations(self):
        self.assertEqual([0.05, 45, 5400, 0], list(map(seconds, ("50ms", "45s", "1h 30m", "0s"))))
        self.assertRaises(ValueError, seconds, "5x")

    def test_settings(self):
        text = "--a <A>\n  Some [env:\n     LOCK_TTL] [default: 5m]\n --b [env: REDIS_URL]"
        self.assertEqual({"LOCK_TTL", "REDIS_URL"}, settings_of_help(text))
        text = "| variable | |\n|---|---|\n| `A_B`, `C` | `D_E` |\n\n`F` is text\n| `GRPC` x | |\n"
        self.assertEqual({"A_B", "C"}, settings_of_document(text))


class Schemas(unittest.TestCase):
    def faults(self, thing, version=NEWEST):
        validator = Validator()
        return [str(fault) for fault in [*validator.check("here", [thing], version), *validator.check_custom()]]

    def test_sound(self):
        for thing in SAMPLE:
            with self.subTest(kind=thing["kind"]):
                self.assertEqual([], self.faults(thing))

    def test_broken(self):
        def thing(kind, version, **spec):
            return {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}

        monitoring, gateway = "monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"
        for part, one in (
            ("prots", thing("Service", "v1", prots=[])),
            ("'80'", thing("Service", "v1", ports=[{"port": "80"}])),
            ("nobody here knows", thing("Ingress", "extensions/v1beta1")),
            ("nobody here knows", thing("Sandwich", "example.com/v1")),
            ("nobody here knows", thing("Sandwich", monitoring)),
            ("selector", thing("PodMonitor", monitoring, podMetricsEndpoints=[])),
            ("pathh", thing("PodMonitor", monitoring, selector={}, podMetricsEndpoints=[{"pathh": "/"}])),
            ("interval", thing("ServiceMonitor", monitoring, selector={}, endpoints=[{"interval": "often"}])),
            ("rulez", thing("PrometheusRule", monitoring, rulez=[])),
            ("parentRefs/0/name", thing("HTTPRoute", gateway, parentRefs=[{"name": 3}])),
            ("FOREVER", thing("BackendConfig", "cloud.google.com/v1", sessionAffinity={"affinityType": "FOREVER"})),
        ):
            with self.subTest(part=part, thing=one):
                self.assertTrue(any(part in fault for fault in self.faults(one)), self.faults(one))

    def test_old_version_knows_less(self):
        sleeping = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"containers": [{"name": "x", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]},
        }
        self.assertEqual([], self.faults(sleeping))
        self.assertIn("sleep", "".join(self.faults(sleeping, "1.27")))


class Values(unittest.TestCase):
    TEMPLATE = """
{{- /* .Values.comment is none */}}
a: {{ .Values.a | quote }}
{{- with .Values.b }}
b: {{ .one }}
{{- range .list }}{{ .name }}{{ end }}
{{- else }}
none: {{ $.Values.c.d }}
{{- end }}
{{- $e := .Values.e }}
e: {{ $e.one }}
{{- with .Values.open }}{{ toYaml . | nindent 2 }}{{ end }}
text: {{ "}} .Values.text" }}
"""
    VALUES = {
        "a": 1, "b": {"one": 1, "list": []}, "c": {"d": 1}, "e": {"one": 1}, "open": {"what": {"ever": 1}},
    }
    SCHEMA = {
        "type": "object", "additionalProperties": False,
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "object", "additionalProperties": False, "properties": {
                "one": {"$ref": "#/definitions/one"}, "list": {"type": "array"}}},
            "c": {"type": "object", "additionalProperties": False, "properties": {"d": {"type": "integer"}}},
            "e": {"type": "object", "additionalProperties": False, "properties": {"one": {"type": "integer"}}},
            "open": {"type": "object"},
        },
        "definitions": {"one": {"type": "integer"}},
    }

    def faults(self, declared=None, template=TEMPLATE, schema=None):
        declared = self.VALUES | (declared or {})
        reader = values.Reader()
        reader.read_template(template, "x.yaml")
        return [str(fault) for fault in [
            *values.declared_and_used(declared, reader), *values.covered(declared, schema or self.SCHEMA, reader)]]

    def assert_said(self, part, faults):
        self.assertTrue(any(part in fault for fault in faults), faults)

    def test_sound(self):
        self.assertEqual([], self.faults())

    def test_unused(self):
        self.assert_said("more is read by no template", self.faults({"more": 1}))
        self.assert_said("b.two is read by no template", self.faults({"b": self.VALUES["b"] | {"two": 2}}))
        self.assert_said("e.two is read by no template", self.faults({"e": {"one": 1, "two": 2}}))
        self.assert_said("text is read by no template", self.faults({"text": 1}))
        self.assert_said("comment is read by no template", self.faults({"comment": 1}))

    def test_undeclared(self):
        for line, part in (
            ("{{ .Values.x }}", ".Values.x is read"),
            ("{{ $.Values.b.x }}", "no b.x"),
            ("{{ with .Values.b }}{{ .x }}{{ end }}", "no b.x"),
            ("{{ (.Values.x).y }}", "no x"),
            ("{{ $v := .Values.c }}{{ if eq $v.x 1 }}{{ end }}", "no c.x"),
            ("{{ (index . 0).Values.c.x }}", "no c.x"),
        ):
            with self.subTest(line=line):
                self.assert_said(part, self.faults(template=self.TEMPLATE + line))

    def test_schema(self):
        def changed(**properties):
            return self.SCHEMA | {"properties": self.SCHEMA["properties"] | properties}

        self.assert_said("b lets unknown names pass", self.faults(schema=changed(b={"type": "object", "properties": {
            "one": {"type": "integer"}, "list": {"type": "array"}}})))
        self.assert_said("a has no type", self.faults(schema=changed(a={})))
        self.assert_said("c.d is in values.yaml and not here", self.faults(schema=changed(
            c={"type": "object", "additionalProperties": False})))
        self.assert_said("gone is not in values.yaml", self.faults(schema=changed(gone={"type": "string"})))
        self.assert_said("the root lets unknown names pass", self.faults(schema=self.SCHEMA | {"additionalProperties": True}))


class Tools(unittest.TestCase):
    def setUp(self):
        # Inside of target: what is checked is named by its path in the repository.
        RENDERED.mkdir(parents=True, exist_ok=True)
        self.scratch = tempfile.TemporaryDirectory(dir=RENDERED.parent)
        self.addCleanup(self.scratch.cleanup)
        self.folder = pathlib.Path(self.scratch.name)

    def test_values_that_do_not_render(self):
        file = self.folder / "x-values.yaml"
        for text, part in (("replicaCount: many", "helm3 lint"), ("replicaCount: 1", "there is none")):
            file.write_text(text)
            found = list(map(str, Rendering(SETTINGS).chart_with(file)))
            self.assertTrue(any(part in fault for fault in found), found)

    def test_packed(self):
        done = run(tool("HELM4"), "package", "--destination", self.folder, CHART)
        self.assertEqual(0, done.returncode, done.stderr)
        packed = next(self.folder.glob("apptlock-*.tgz"))
        with tarfile.open(packed) as archive:
            names = set(archive.getnames())
        self.assertLessEqual({f"apptlock/{name}" for name in (
            "README.md", "values.schema.json", "files/rules.yaml", "files/tests/common.sh", "templates/NOTES.txt")}, names)
        self.assertFalse({name for name in names if "/ci/" in name})
        self.assertEqual(0, helm_template("HELM3", values=refusals.BASE, chart=packed).returncode)

    def test_drift(self):
        script = self.folder / "generator"
        script.write_text("#!/bin/sh\necho 'it differs' >&2\nexit 1\n")
        script.chmod(0o755)
        before = runner.GENERATORS
        self.addCleanup(setattr, runner, "GENERATORS", before)
        runner.GENERATORS = (str(script), str(self.folder / "gone"))
        found = list(map(str, runner.drift(None)))
        self.assertIn("it differs", found[0])
        self.assertIn("is not there", found[1])

    def test_checkov(self):
        (self.folder / "pod.yaml").write_text(
            "apiVersion: v1\nkind: Pod\nmetadata: { name: x, namespace: here }\n"
            "spec: { hostNetwork: true, containers: [{ name: x, image: 'x:1', securityContext: { privileged: true } }] }\n")
        rules = {problem.rule for problem in security.problems(self.folder)}
        self.assertLessEqual({"CKV_K8S_16", "CKV_K8S_19"}, rules)
        self.assertFalse(rules & set(security.SKIPPED))


if __name__ == "__main__":
    unittest.main()
