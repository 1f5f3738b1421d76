"""What containers are told: settings that apptlock knows, and secrets, ConfigMaps and accounts that are there."""

import re

from bundle import HOOK, dig, is_apptlock, keys_of

# What OpenTelemetry's library reads by itself, beside the variables that apptlock lists.
OPENTELEMETRY = {
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
}
# Names of what nobody may read; what says where a secret is, is none.
SECRET = re.compile(r"(TOKEN|PASSWORD|SECRET|PRIVATE_KEY)$")
# What Rust's own library reads.
RUST = {"RUST_BACKTRACE", "RUST_LIB_BACKTRACE", "RUST_MIN_STACK"}


def settings_of_help(text):
    """The variables that `apptlock serve --help` lists; it breaks its lines wherever they are full."""
    return set(re.findall(r"\[env:\s+([A-Z][A-Z0-9_]*)", text))


def settings_of_document(text):
    """The variables in the first column of the tables of docs/SETTINGS.md."""
    rows = re.findall(r"^\|((?:\s*`[A-Z][A-Z0-9_]*`,?)+)\s*\|", text, re.M)
    return {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]*)`", row)}


def names(bundle):
    """Every variable of a container with apptlock is one that apptlock reads, or one that another is made of."""
    for pod in bundle.pods:
        for container in filter(is_apptlock, pod.containers):
            found = bundle.environment(pod, container)
            used = {name for value in found.values() if value for name in re.findall(r"\$\(([A-Za-z_]\w*)\)", value)}
            for name in sorted(set(found) - bundle.known_settings - OPENTELEMETRY - RUST - used):
                yield bundle.problem("setting", pod.owner, f'{name} of {container["name"]} is nothing that apptlock reads;'
                                     " docs/SETTINGS.md lists what is")
            given = [variable["name"] for variable in container.get("env") or []]
            for name in sorted({name for name in given if given.count(name) > 1}):
                yield bundle.problem("setting-twice", pod.owner, f'{name} stands twice in env of {container["name"]}; leave'
                                     " out the one that does not count")


def references(pod):
    """Kind, name and key (None: all of it) of everything that a pod reads."""
    for container in pod.containers:
        for variable in container.get("env") or []:
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                reference = dig(variable, "valueFrom", field)
                if reference and not reference.get("optional"):
                    yield kind, reference["name"], reference["key"]
        for source in container.get("envFrom") or []:
            for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                reference = source.get(field)
                if reference and not reference.get("optional"):
                    yield kind, reference["name"], None
    for volume in pod.spec.get("volumes") or []:
        parts = [volume, *dig(volume, "projected", "sources", default=[])]
        for part in parts:
            for field, kind, name in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
                reference = part.get(field)
                if reference and not reference.get("optional"):
                    wanted = reference.get(name) or reference.get("name")
                    yield kind, wanted, None
                    for item in reference.get("items") or []:
                        yield kind, wanted, item["key"]
    account = pod.spec.get("serviceAccountName")
    if account and account != "default":
        yield "ServiceAccount", account, None


def credentials(bundle):
    """What is secret comes from a secret, and stands in no pod's specification and no ConfigMap."""
    for pod in bundle.pods:
        for container in pod.containers:
            for name, value in bundle.environment(pod, container).items():
                if value and (SECRET.search(name) or re.search(r"://[^/@]*:[^/@]+@", value)):
                    yield bundle.problem("credential", pod.owner, f'{name} of {container["name"]} is written out; take it'
                                         " from a secret (secretKeyRef)")


def hook_secrets(bundle):
    """A hook's secret goes when the hooks have ended, whether well or not: Helm itself never takes hooks away."""
    for secret in bundle.of_kind("Secret"):
        notes = dig(secret, "metadata", "annotations", default={})
        policy = {part.strip() for part in notes.get("helm.sh/hook-delete-policy", "").split(",")}
        missing = {"before-hook-creation", "hook-succeeded", "hook-failed"} - policy
        if HOOK in notes and missing:
            yield bundle.problem("hook-secret", secret, f'its delete policy lacks {", ".join(sorted(missing))}, so it may stay'
                                 " behind")


def is_there_in_time(pod, thing):
    """A hook that runs before the release finds only hooks that ran before it."""
    if not pod.hooks & {"pre-install"}:
        return True
    hooks = dig(thing, "metadata", "annotations", HOOK, default="")
    weights = [int(dig(it, "metadata", "annotations", "helm.sh/hook-weight", default="0")) for it in (thing, pod.owner)]
    return "pre-install" in hooks and weights[0] < weights[1]


def sources(bundle):
    """Everything that a pod reads is in these manifests, in time, with that key, or is known to come from elsewhere."""
    for pod in bundle.pods:
        for kind, name, key in references(pod):
            thing = bundle.find(kind, name, pod.namespace)
            what = f"{kind} {name}" + (f", key {key}" if key else "")
            if thing is None:
                if name not in bundle.external or (key and key not in bundle.external):
                    yield bundle.problem("reference", pod.owner, f"it reads {what}, which is neither here nor named in the"
                                         " values as one that is there already")
            elif key and key not in keys_of(thing):
                yield bundle.problem("reference", pod.owner, f"it reads {what}, and there is no such key")
            elif not is_there_in_time(pod, thing):
                yield bundle.problem("hook-order", pod.owner, f"it runs before {what} is there; make that a hook of a lower"
                                     " weight")


def mounts(bundle):
    """Every mount has its volume, and every volume is mounted."""
    for pod in bundle.pods:
        volumes = {volume["name"] for volume in pod.spec.get("volumes") or []}
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts") or []}
        # A workload's claims are volumes too.
        claims = {claim["metadata"]["name"] for claim in dig(pod.owner, "spec", "volumeClaimTemplates", default=[])}
        for name in sorted(mounted - volumes - claims):
            yield bundle.problem("volume", pod.owner, f"{name} is mounted and is no volume; add it to volumes")
        for name in sorted(volumes - mounted):
            yield bundle.problem("volume", pod.owner, f"volume {name} is mounted nowhere; leave it out")


CHECKS = [names, credentials, hook_secrets, sources, mounts]
