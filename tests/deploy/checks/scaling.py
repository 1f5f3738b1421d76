"""How many replicas there are, who decides it, and how many may be away."""

from bundle import dig, matches, name_of


def autoscalers(bundle):
    """An autoscaler has bounds in order, a target that is there and leaves the number to it, and something to measure."""
    for scaler in bundle.of_kind("HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        least, most = spec.get("minReplicas", 1), spec["maxReplicas"]
        if least > most:
            yield bundle.problem("hpa-bounds", scaler, f"minReplicas {least} is more than maxReplicas {most}; lower the one")
        wanted = spec["scaleTargetRef"]
        target = bundle.find(wanted["kind"], wanted["name"], bundle.namespace_of(scaler))
        if not target:
            yield bundle.problem("hpa-target", scaler, f'it scales {wanted["kind"]}/{wanted["name"]}, which is not there')
            continue
        if "replicas" in target["spec"]:
            yield bundle.problem(
                "hpa-replicas", target, "an upgrade would undo what the autoscaler decided; leave replicas out beside it")
        if not spec.get("metrics"):
            yield bundle.problem("hpa-metrics", scaler, "it has nothing to decide by; give it a metric")
        by_cpu = [metric for metric in spec.get("metrics") or [] if dig(metric, "resource", "name") == "cpu"]
        for pod in bundle.pods if by_cpu else []:
            for container in pod.spec["containers"] if pod.owner is target else []:
                if dig(container, "resources", "requests", "cpu") is None:
                    yield bundle.problem(
                        "hpa-cpu", target, f'container {container["name"]} requests no CPU, so there is no share of it to'
                        " aim at; set resources.requests.cpu")


def lowest(bundle, workload):
    """The fewest replicas of a workload."""
    for scaler in bundle.of_kind("HorizontalPodAutoscaler"):
        wanted = scaler["spec"]["scaleTargetRef"]
        if (wanted["kind"], wanted["name"]) == (workload["kind"], workload["metadata"]["name"]):
            return scaler["spec"].get("minReplicas", 1)
    return workload["spec"].get("replicas", 1)


def share(bound, replicas):
    """A number, or a share in percent, which Kubernetes rounds up."""
    if isinstance(bound, str) and bound.endswith("%"):
        return -(-int(bound[:-1]) * replicas // 100)
    return int(bound)


def budgets(bundle):
    """A disruption budget has exactly one bound, covers one workload, and lets a node be drained at all."""
    for budget in bundle.of_kind("PodDisruptionBudget"):
        spec = budget["spec"]
        bounds = [name for name in ("minAvailable", "maxUnavailable") if spec.get(name) is not None]
        if len(bounds) != 1:
            yield bundle.problem("pdb-bounds", budget, f'it has {" and ".join(bounds) or "no bound"}; give it exactly one of'
                                 " minAvailable and maxUnavailable")
        owners = [pod.owner for pod in bundle.selected(spec.get("selector") or {}, bundle.namespace_of(budget))]
        if len(owners) != 1:
            yield bundle.problem("pdb-selector", budget, "its selector must match the pods of one workload, and matches"
                                 f' {", ".join(map(name_of, owners)) or "none"}')
            continue
        replicas = lowest(bundle, owners[0])
        for bound in bounds:
            may_go = share(spec[bound], replicas) if bound == "maxUnavailable" else replicas - share(spec[bound], replicas)
            if may_go < 1:
                yield bundle.problem("pdb-blocks", budget, f"{bound} {spec[bound]} of {replicas} replicas lets none go, so no"
                                     " node can be drained; allow one")


def spread(bundle):
    """What spreads pods counts those pods."""
    for pod in bundle.pods:
        for constraint in pod.spec.get("topologySpreadConstraints") or []:
            if not matches(constraint.get("labelSelector") or {"matchLabels": {"": ""}}, pod.labels):
                yield bundle.problem("spread-selector", pod.owner, f'the spread over {constraint["topologyKey"]} does not'
                                     " count its own pods; give it a labelSelector that matches their labels")


CHECKS = [autoscalers, budgets, spread]
