"""What must be true of manifests beyond their schemas. Each module has functions that take a Bundle and yield Problems."""

from . import environment, network, pods, rules, scaling

ALL = [
    *environment.CHECKS,
    *network.CHECKS,
    *pods.CHECKS,
    *rules.CHECKS,
    *scaling.CHECKS,
]
