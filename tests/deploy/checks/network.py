"""Who reaches whom: selectors match pods, ports are there, and nothing public leads to the management port."""

from bundle import dig, matches, name_of

MANAGEMENT = "management"
PATHS = {"/livez", "/readyz", "/metrics"}


def workloads(bundle):
    """A workload selects the pods that it makes."""
    for pod in bundle.pods:
        selector = dig(pod.owner, "spec", "selector") if pod.owner["kind"] != "Pod" else None
        if selector and not matches(selector, pod.labels):
            yield bundle.problem("workload-selector", pod.owner, "its selector does not match the labels of its own pods")


def services(bundle):
    """A service leads to the pods of one workload, at ports that they have."""
    for service in bundle.of_kind("Service"):
        if not dig(service, "spec", "selector"):
            continue
        pods = bundle.pods_of_service(service)
        if len(pods) != 1:
            yield bundle.problem("service-selector", service, "its selector must match the pods of one workload, and matches"
                                 f' {", ".join(name_of(pod.owner) for pod in pods) or "none"}')
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in pods:
                if not pod.port(target):
                    yield bundle.problem("service-port", service, f"targetPort {target} is no port of {name_of(pod.owner)}")


def policies(bundle):
    """A network policy is about pods that are there, and names ports that they have."""
    for policy in bundle.of_kind("NetworkPolicy"):
        pods = bundle.selected(dig(policy, "spec", "podSelector", default={}), bundle.namespace_of(policy))
        if not pods:
            yield bundle.problem("policy-selector", policy, "its podSelector matches no pod; correct the labels")
        for rule in dig(policy, "spec", "ingress", default=[]):
            for port in rule.get("ports") or []:
                # A range has an end and is nobody's own port.
                for pod in pods if "port" in port and "endPort" not in port else []:
                    if not pod.port(port["port"]):
                        yield bundle.problem("policy-port", policy, f'port {port["port"]} is no port of {name_of(pod.owner)}')
        yield from public_policy(bundle, policy, pods)


def public_policy(bundle, policy, pods):
    """The management port is open to named peers only."""
    for rule in dig(policy, "spec", "ingress", default=[]):
        if rule.get("from"):
            continue
        for pod in pods:
            management = pod.port(MANAGEMENT)
            asked = [port.get("port") for port in rule.get("ports") or []]
            if management and (not asked or MANAGEMENT in asked or management["containerPort"] in asked):
                yield bundle.problem("policy-management", policy, "everybody may reach the management port; name the peers"
                                     " that may, in from")


def monitors(bundle):
    """A monitor finds something to scrape, at a port that is there."""
    for monitor in bundle.of_kind("ServiceMonitor", "PodMonitor"):
        spec = monitor["spec"]
        namespaces = dig(spec, "namespaceSelector", "matchNames", default=[bundle.namespace_of(monitor)])
        everywhere = dig(spec, "namespaceSelector", "any", default=False)
        if monitor["kind"] == "ServiceMonitor":
            endpoints = spec["endpoints"]
            found = [
                {port.get("name") for port in service["spec"]["ports"]}
                for service in bundle.of_kind("Service")
                if (everywhere or bundle.namespace_of(service) in namespaces)
                and matches(spec["selector"], dig(service, "metadata", "labels"))
            ]
        else:
            endpoints = spec["podMetricsEndpoints"]
            found = [
                {port.get("name") for port in pod.ports}
                for pod in bundle.pods
                if (everywhere or pod.namespace in namespaces) and matches(spec["selector"], pod.labels)
            ]
        if not found:
            yield bundle.problem("monitor-selector", monitor, "it matches nothing; correct its selector or namespaceSelector")
            continue
        for endpoint in endpoints:
            having = [names for names in found if endpoint.get("port") in names]
            if len(having) != 1:
                yield bundle.problem("monitor-port", monitor, f'port {endpoint.get("port")} is that of {len(having)} of what it'
                                     " matches; it must be one, else nothing is scraped, or everything twice")
            if endpoint.get("path", "/metrics") not in PATHS:
                yield bundle.problem("monitor-path", monitor, f'{endpoint["path"]} is no path of metrics; it is /metrics')


def probes(bundle):
    """A probe asks a port of its own container, and of apptlock the path that answers that question."""
    for pod in bundle.pods:
        for container in pod.containers:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                asked = dig(container, kind, "httpGet") or dig(container, kind, "tcpSocket")
                if not asked:
                    continue
                numbers = {port.get("name") for port in container.get("ports") or []}
                numbers |= {port["containerPort"] for port in container.get("ports") or []}
                if asked["port"] not in numbers:
                    yield bundle.problem("probe-port", pod.owner, f'the {kind} of {container["name"]} asks port'
                                         f' {asked["port"]}, which the container does not have')
            if container not in pod.replicas_of_apptlock:
                continue
            for kind, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
                if dig(container, kind, "httpGet", "path") != path:
                    yield bundle.problem("probe-path", pod.owner, f"the {kind} of a replica must ask {path}")


def backends(bundle):
    """Kind of route, the service and the port of each of its backends."""
    for ingress in bundle.of_kind("Ingress"):
        found = [dig(ingress, "spec", "defaultBackend")]
        for rule in dig(ingress, "spec", "rules", default=[]):
            found += [path["backend"] for path in dig(rule, "http", "paths", default=[])]
        for backend in filter(None, found):
            port = dig(backend, "service", "port", default={})
            yield ingress, dig(backend, "service", "name"), port.get("name", port.get("number"))
    for route in bundle.of_kind("HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"):
        for rule in dig(route, "spec", "rules", default=[]):
            found = list(rule.get("backendRefs") or [])
            found += [item["requestMirror"]["backendRef"] for item in rule.get("filters") or [] if "requestMirror" in item]
            for backend in found:
                yield route, backend["name"], backend.get("port")


def leads_to_management(bundle, service, port):
    """Whether a port of a service is the management port of the pods behind it."""
    target = port.get("targetPort", port["port"])
    for pod in bundle.pods_of_service(service):
        management, reached = pod.port(MANAGEMENT), pod.port(target)
        if management and reached and management["containerPort"] == reached["containerPort"]:
            return True
    return False


def certificates(bundle):
    """A certificate of an Ingress is for a host that a rule has."""
    for ingress in bundle.of_kind("Ingress"):
        ruled = {rule.get("host") for rule in dig(ingress, "spec", "rules", default=[])}
        for tls in dig(ingress, "spec", "tls", default=[]):
            for host in sorted(set(tls.get("hosts") or []) - ruled):
                yield bundle.problem("route-tls", ingress, f"tls names {host}, which no rule has")


def routes(bundle):
    """A route leads to services and ports that are there, and never to metrics and probes."""
    for route, name, wanted in backends(bundle):
        service = bundle.find("Service", name, bundle.namespace_of(route))
        if not service:
            yield bundle.problem("route-service", route, f"it leads to the service {name}, which is not there")
            continue
        ports = [port for port in service["spec"]["ports"] if wanted in (port.get("name"), port["port"])]
        if not ports:
            yield bundle.problem("route-port", route, f"the service {name} has no port {wanted}")
        for port in ports:
            if leads_to_management(bundle, service, port):
                yield bundle.problem("route-management", route, f"it makes the management port public by way of {name}; metrics"
                                     " have no login: lead to the http port only")
    for service in bundle.of_kind("Service"):
        for port in service["spec"]["ports"] if service["spec"].get("type") in ("NodePort", "LoadBalancer") else []:
            if leads_to_management(bundle, service, port):
                yield bundle.problem("service-management", service, f'a {service["spec"]["type"]} makes the management port'
                                     " public; keep it to a ClusterIP service")


CHECKS = [workloads, services, policies, monitors, probes, certificates, routes]
