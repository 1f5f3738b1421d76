"""A stand-in for a Kubernetes API server: holds objects in memory, runs nothing, and records every request.

    with ApiServer() as server: …    server.url, server.requests, server.find("deployments", "shop", "booking")

Owns the HTTP side: discovery, the routes, lists, watches, the subresource `scale`. What a change makes of an object is in
apiobjects.py. It listens on 127.0.0.1 on a port that is free, and its threads end with it. A Job is complete as soon as it
is there, so that hooks pass. What it does not know it answers with an error, as a cluster would; it never guesses.
"""

import copy
import dataclasses
import http.server
import json
import re
import threading
import time
import urllib.parse
import urllib.request

from apiobjects import Managers, Refused, json_patch, merge_patch, strategic_patch, with_defaults
from apiprotobuf import secret

VERSION = {"major": "1", "minor": "33", "gitVersion": "v1.33.0", "platform": "linux/amd64"}
# Group and version, resource, kind. All of these are namespaced.
KINDS = (
    ("v1", "secrets", "Secret"), ("v1", "configmaps", "ConfigMap"), ("v1", "services", "Service"),
    ("v1", "serviceaccounts", "ServiceAccount"), ("v1", "pods", "Pod"), ("v1", "events", "Event"),
    ("apps/v1", "deployments", "Deployment"), ("apps/v1", "replicasets", "ReplicaSet"), ("batch/v1", "jobs", "Job"),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
)
ROUTE = re.compile(r"/(?:api/(v1)|apis/([a-z0-9.]+/v\d))/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?(?:/([a-z]+))?")
# A watch that nobody ends ends by itself; longer than any test.
LONGEST_WATCH = 60


@dataclasses.dataclass
class Request:
    """One request as it came: `agent` is the program that sent it, `body` is the JSON in it or None."""
    agent: str
    method: str
    path: str
    query: dict
    kind: str
    body: object

    @property
    def resource(self):
        route = ROUTE.fullmatch(self.path)
        return route and "/".join(part for part in route.group(4, 6) if part)


# A proxy of whoever runs this does not lead to this machine.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ApiServer:
    def __init__(self):
        self.requests, self.objects, self.events, self.number = [], {}, [], 0
        self.changed = threading.Condition(threading.RLock())
        self.ended = False
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"api": self}))
        self.http.daemon_threads, self.http.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        self.http.shutdown()
        self.http.server_close()

    def find(self, resource, name, namespace):
        with self.changed:
            return copy.deepcopy(self.objects.get((resource, namespace, name)))

    def store(self, event, key, thing):
        """Puts an object there, or takes it away, and tells those that watch."""
        self.number += 1
        thing["metadata"]["resourceVersion"] = str(self.number)
        if event == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = thing
        self.events.append((self.number, event, key, copy.deepcopy(thing)))
        self.changed.notify_all()
        return thing

    def write(self, key, before, after, manager=None, part=""):
        """An object as somebody wants it, made complete. Without a manager its managers are settled already."""
        after = with_defaults(after)
        meta = after["metadata"]
        meta.setdefault("namespace", key[1])
        meta.setdefault("uid", f"00000000-0000-0000-0000-{self.number:012}")
        meta.setdefault("creationTimestamp", "2020-01-01T00:00:00Z")
        is_new_spec = (before or {}).get("spec") != after.get("spec")
        meta["generation"] = (before or after)["metadata"].get("generation", 0) + is_new_spec
        if manager:
            managers = Managers(before or {})
            managers.updated(before or {}, after, manager, part)
            managers.write(after)
        if after["kind"] == "Job":
            after["status"] = {"succeeded": 1, "conditions": [
                {"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]}
        if after["kind"] == "Deployment":
            counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            ready = dict.fromkeys(counts, after["spec"]["replicas"])
            after["status"] = {"observedGeneration": meta["generation"], **ready, "conditions": [
                {"type": kind, "status": "True", "reason": "NewReplicaSetAvailable"} for kind in ("Available", "Progressing")]}
        return self.store("MODIFIED" if before else "ADDED", key, after)


def scale_of(thing):
    meta = {name: thing["metadata"][name] for name in ("name", "namespace", "resourceVersion", "uid")}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta,
            "spec": {"replicas": thing["spec"]["replicas"]}, "status": {"replicas": thing["spec"]["replicas"]}}


def selected(thing, query):
    """By labels (a=b, a!=b, a in (b,c), a) and by the fields of metadata."""
    labels = thing["metadata"].get("labels") or {}
    for part in re.findall(r"[^,(]+(?:\([^)]*\))?", query.get("labelSelector", "")):
        one_of = re.fullmatch(r"(\S+) in \(([^)]*)\)", part.strip())
        equal = re.fullmatch(r"([^!=]+)(!?)==?([^=]*)", part)
        if one_of:
            fits = labels.get(one_of[1]) in one_of[2].split(",")
        elif equal:
            fits = (labels.get(equal[1]) == equal[3]) != bool(equal[2])
        else:
            fits = part in labels
        if not fits:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = part.partition("=")
        if thing["metadata"].get(name.removeprefix("metadata.")) != value.removeprefix("="):
            return False
    return True


def discovery(path):
    """What is served, in the notation that clients of any age read; None for another path."""
    groups = sorted({group for group, _, _ in KINDS if "/" in group})
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
            {"name": group.split("/")[0], "versions": [served], "preferredVersion": served}
            for group in groups for served in [{"groupVersion": group, "version": group.split("/")[1]}]]}
    if path == "/openapi/v3":
        return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}?hash=0"} for place in ("api/v1", *(
            f"apis/{group}" for group in groups))}}
    served = re.fullmatch(r"(/openapi/v3)?/(?:api/(v1)|apis/([a-z0-9.]+/v\d))", path)
    if not served:
        return None
    version = served[2] or served[3]
    kinds = [(resource, kind) for group, resource, kind in KINDS if group == version]
    if not served[1]:
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [
            {"name": resource, "singularName": "", "namespaced": True, "kind": kind,
             "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]} for resource, kind in kinds]}
    # Just enough that clients leave the check of fields to the server.
    group, _, short = version.rpartition("/")
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "0"}, "paths": {
        f"/{resource}/{{name}}": {"patch": {
            "x-kubernetes-group-version-kind": {"group": group, "version": short, "kind": kind}, "responses": {},
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]}}
        for resource, kind in kinds}}


def read(kind, data):
    return secret(data) if kind == "application/vnd.kubernetes.protobuf" else json.loads(data)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api = None

    def log_message(self, *_):
        """Nothing: what came is in `requests`."""

    def answer(self, code, body):
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def handle_request(self):
        place = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(place.query))
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.headers.get("Content-Type", "").split(";")[0]
        try:
            try:
                # Nothing in the options of a deletion matters here.
                body = None if not data or self.command == "DELETE" else read(kind, data)
            except ValueError as fault:
                raise Refused(415, "UnsupportedMediaType", f"the stand-in cannot read {kind}: {fault}") from fault
            request = Request(self.headers.get("User-Agent", ""), self.command, place.path, query, kind, body)
            with self.api.changed:
                self.api.requests.append(copy.deepcopy(request))
            found = discovery(place.path) if self.command == "GET" else None
            if found:
                return self.answer(200, found)
            route = ROUTE.fullmatch(place.path)
            if not route or not any((group, resource) == (route[1] or route[2], route[4]) for group, resource, _ in KINDS):
                raise Refused(404, "NotFound", f"the stand-in does not serve {place.path}")
            if self.command == "GET" and query.get("watch") in ("1", "true"):
                return self.watch(route, query)
            with self.api.changed:
                code, result = self.serve(route, request)
            return self.answer(code, result)
        except Refused as refusal:
            return self.answer(refusal.code, {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": refusal.code,
                "reason": refusal.reason, "message": str(refusal), "details": {"causes": [
                    {"reason": "FieldManagerConflict", "message": f'conflict with "{who[0]}"', "field": "." + ".".join(path)}
                    for who, path in refusal.causes]}})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

    def serve(self, route, request):
        """A code and a body, for one object or a list of them."""
        _, _, namespace, resource, name, part = route.groups()
        api, method = self.api, request.method
        if method == "GET" and not name:
            return 200, self.listed(route, request.query)
        if method == "POST":
            name = request.body["metadata"]["name"]
        key = (resource, namespace, name)
        live = api.objects.get(key)
        if request.query.get("dryRun") or part not in (None, "scale") or (part and resource != "deployments"):
            raise Refused(400, "BadRequest", f"the stand-in does not serve {method} {request.path} {request.query}")
        applies = request.kind == "application/apply-patch+yaml"
        if live is None and method != "POST" and not applies:
            raise Refused(404, "NotFound", f'{resource} "{name}" not found')
        if method == "GET":
            return 200, scale_of(live) if part else live
        if method == "DELETE":
            api.store("DELETED", key, copy.deepcopy(live))
            return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        # As clients are called that do not name themselves.
        manager = request.query.get("fieldManager") or request.agent.split("/")[0]
        if method == "POST":
            if live:
                raise Refused(409, "AlreadyExists", f'{resource} "{name}" already exists')
            return 201, api.write(key, None, request.body, manager)
        if applies:
            return 201 if live is None else 200, self.apply(key, live, request, manager)
        before = copy.deepcopy(live)
        after = self.changed(scale_of(live) if part else copy.deepcopy(live), request)
        if part:
            after = merge_patch(copy.deepcopy(live), {"spec": {"replicas": after["spec"]["replicas"]}})
        elif request.kind == "application/json-patch+json" and any(
                step["path"].startswith("/metadata/managedFields") for step in request.body):
            # Helm 4 makes the fields of an update its own by apply.
            return 200, api.write(key, before, after)
        after["metadata"]["managedFields"] = before["metadata"].get("managedFields")
        return 200, scale_of(api.write(key, before, after, manager, part)) if part else api.write(key, before, after, manager)

    def apply(self, key, live, request, manager):
        config, before = request.body, live or {}
        empty = {"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {"name": key[2]}}
        managers = Managers(before)
        after = managers.applied(before or empty, config, manager, request.query.get("force") == "true")
        return self.api.write(key, live, managers.write(after))

    @staticmethod
    def changed(thing, request):
        if request.method == "PUT":
            return {**{key: thing[key] for key in ("status",) if key in thing}, **request.body, "metadata": {
                **{key: thing["metadata"][key] for key in ("uid", "creationTimestamp") if key in thing["metadata"]},
                **request.body["metadata"]}}
        change = {"application/json-patch+json": json_patch, "application/merge-patch+json": merge_patch,
                  "application/strategic-merge-patch+json": strategic_patch}.get(request.kind)
        if not change:
            raise Refused(415, "UnsupportedMediaType", f"the stand-in does not know patches of the type {request.kind}")
        return change(thing, request.body)

    def listed(self, route, query):
        version, resource = route[1] or route[2], route[4]
        kind = next(kind for group, name, kind in KINDS if (group, name) == (version, resource))
        return {"apiVersion": version, "kind": f"{kind}List", "metadata": {"resourceVersion": str(self.api.number)}, "items": [
            thing for (of, namespace, _), thing in sorted(self.api.objects.items())
            if (of, namespace) == (resource, route[3]) and selected(thing, query)]}

    def watch(self, route, query):
        """Events from a version on, each a line, until the client goes or the time is over."""
        if query.get("sendInitialEvents"):
            # Clients then list first, as with servers that have no such watch.
            raise Refused(422, "Invalid", "sendInitialEvents: Forbidden: not served here")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen, until = int(query.get("resourceVersion") or 0), time.monotonic() + LONGEST_WATCH
        try:
            while time.monotonic() < until and not self.api.ended:
                with self.api.changed:
                    news = [event for event in self.api.events if event[0] > seen]
                    if not news:
                        self.api.changed.wait(0.5)
                for number, event, (resource, namespace, _), thing in news:
                    seen = number
                    if (resource, namespace) == (route[4], route[3]) and selected(thing, query):
                        line = json.dumps({"type": event, "object": thing}).encode() + b"\n"
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                        self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = True
