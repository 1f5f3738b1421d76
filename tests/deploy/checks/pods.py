"""What pods may do, what they run, and how they end."""

from bundle import dig, name_of, seconds

# Seconds that a replica may need after the two waits of its settings: docs/SETTINGS.md, Stopping.
REST_OF_STOP = 12
# docs/SETTINGS.md: the defaults of DRAIN_DELAY and DRAIN_TIME.
DRAIN_DELAY, DRAIN_TIME = "3s", "7s"
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}


def breaches(pod):
    """What of a pod the restricted pod security standard forbids."""
    spec, whole = pod.spec, pod.spec.get("securityContext") or {}
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is on; leave it out"
    for volume in spec.get("volumes") or []:
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f'volume {volume["name"]} is a {kind}, which is not allowed'
    for sysctl in whole.get("sysctls") or []:
        if sysctl["name"] not in SYSCTLS:
            yield f'sysctl {sysctl["name"]} is not allowed'
    for container in [*pod.containers, *(spec.get("ephemeralContainers") or [])]:
        own, name = container.get("securityContext") or {}, container["name"]
        both = whole | own
        if both.get("runAsNonRoot") is not True:
            yield f"container {name} may run as root; set runAsNonRoot to true"
        if both.get("runAsUser") == 0:
            yield f"container {name} runs as user 0; give it another"
        if dig(both, "seccompProfile", "type") not in ("RuntimeDefault", "Localhost"):
            yield f"container {name} has no seccomp profile; set seccompProfile.type to RuntimeDefault"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"container {name} may gain rights; set allowPrivilegeEscalation to false"
        if own.get("privileged"):
            yield f"container {name} is privileged; leave it out"
        if own.get("procMount", "Default") != "Default":
            yield f"container {name} has a procMount of its own; leave it out"
        if "ALL" not in dig(own, "capabilities", "drop", default=[]):
            yield f"container {name} keeps capabilities; drop ALL"
        for added in set(dig(own, "capabilities", "add", default=[])) - {"NET_BIND_SERVICE"}:
            yield f"container {name} has the capability {added}; leave it out"
        for port in container.get("ports") or []:
            if port.get("hostPort"):
                yield f'container {name} takes the node\'s port {port["hostPort"]}; leave it out'


def databases(bundle):
    """What a PostgreSQL keeps outlives its pod: replicas that run on do not make the schema anew."""
    for pod in bundle.pods:
        passing = {volume["name"] for volume in pod.spec.get("volumes") or [] if "emptyDir" in volume}
        for container in pod.containers:
            folder = bundle.environment(pod, container).get("PGDATA") or ""
            for mount in container.get("volumeMounts") or []:
                if mount["name"] in passing and folder.startswith(mount["mountPath"]):
                    yield bundle.problem("data", pod.owner, f'the data of {container["name"]} is in the emptyDir {mount["name"]}'
                                         " and goes with the pod; give it a volumeClaimTemplate")


def restricted(bundle):
    """Every pod, hooks and tests included, fits the restricted pod security standard."""
    for pod in bundle.pods:
        for breach in breaches(pod):
            yield bundle.problem("pod-security", pod.owner, breach)


def contained(bundle):
    """Our own containers write nowhere, and say what they take."""
    for pod in bundle.pods:
        for container in pod.containers:
            if dig(container, "securityContext", "readOnlyRootFilesystem") is not True:
                yield bundle.problem("read-only", pod.owner, f'container {container["name"]} can write to its image; set'
                                     " readOnlyRootFilesystem to true, and mount what it writes to")
            for kind, what in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
                if dig(container, "resources", kind, what) is None:
                    yield bundle.problem("resources", pod.owner, f'container {container["name"]} says nothing of'
                                         f" resources.{kind}.{what}")


def tokens(bundle):
    """Nobody gets the token of a service account: nothing here talks to Kubernetes."""
    for pod in bundle.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield bundle.problem("no-token", pod.owner, "its pods get a token; set automountServiceAccountToken to false")
        for volume in pod.spec.get("volumes") or []:
            if any("serviceAccountToken" in source for source in dig(volume, "projected", "sources", default=[])):
                yield bundle.problem("no-token", pod.owner, f'volume {volume["name"]} is a token; leave it out')
    for account in bundle.of_kind("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield bundle.problem("no-token", account, "set automountServiceAccountToken to false")


def images(bundle):
    """Everybody gets the same image tomorrow: a tag or a digest, and not latest."""
    for pod in bundle.pods:
        for container in pod.containers:
            image = container.get("image") or ""
            name, _, digest = image.partition("@")
            tag = name.rsplit("/", 1)[-1].partition(":")[2]
            if not (digest or tag) or (tag == "latest" and not digest):
                yield bundle.problem("image-tag", pod.owner, f'the image "{image}" of {container["name"]} may be another one'
                                     " tomorrow; give it a tag that stays, or a digest")


def pre_stop(container):
    """Seconds that a container sleeps before SIGTERM; None where it does something else."""
    hook = dig(container, "lifecycle", "preStop")
    if not hook:
        return 0
    return dig(hook, "sleep", "seconds")


def grace(bundle):
    """A replica has the time that its stop takes."""
    for pod in bundle.pods:
        for container in pod.replicas_of_apptlock:
            sleep = pre_stop(container)
            if sleep is None:
                yield bundle.problem("pre-stop", pod.owner, "its image has no shell to run a preStop command with; use sleep")
                sleep = 0
            settings = bundle.environment(pod, container)
            delay = settings.get("DRAIN_DELAY") or DRAIN_DELAY
            drain = settings.get("DRAIN_TIME") or DRAIN_TIME
            needed = sleep + seconds(delay) + seconds(drain) + REST_OF_STOP
            given = pod.spec.get("terminationGracePeriodSeconds", 30)
            if given <= needed:
                yield bundle.problem("grace", pod.owner, f"terminationGracePeriodSeconds {given} is not more than {needed:g},"
                                     f" which is preStop {sleep} + DRAIN_DELAY {delay} + DRAIN_TIME {drain} + {REST_OF_STOP}s")


def unique(bundle):
    """No object is there twice: the later one would replace the first."""
    seen = set()
    for thing in bundle.objects:
        key = (thing["apiVersion"].split("/")[0], thing["kind"], bundle.namespace_of(thing), thing["metadata"]["name"])
        if key in seen:
            yield bundle.problem("unique", thing, f"{name_of(thing)} is there twice; give one of them another name")
        seen.add(key)


CHECKS = [restricted, contained, tokens, images, grace, unique, databases]
