#!/usr/bin/env python3
"""Reads docker-compose.yml and all that it mounts, without any engine, and says what is wrong in one line each.

That the file is one of Compose is checked before, against the specification's schema (`make check-compose`). This owns
what a schema cannot know: that images have a version, that nothing is published beyond 127.0.0.1, that what is waited
for has a health check, that every setting exists, that files to mount are there, and that the parts of the
observability profile fit together. Grafana's files are checked here alone where no image of it can be had.
"""

import json
import re
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent.parent
faults: list[str] = []


def fault(text: str) -> None:
    faults.append(text)


def load(path: Path):
    return YAML(typ="safe").load(path.read_text())


def default_of(value: str) -> str:
    """`${NAME:-value}` as it is when nothing is set."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", str(value))


def known_settings() -> set[str]:
    """Every variable in the table of docs/SETTINGS.md, which a test of its own holds against the binary."""
    table = re.findall(r"^\| (`[A-Z].*?) \|", (ROOT / "docs/SETTINGS.md").read_text(), re.MULTILINE)
    return {name for cell in table for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", cell)}


def check_service(name: str, service: dict, services: dict) -> None:
    image = default_of(service["image"])
    _, _, tag = image.rpartition("/")[2].partition(":")
    if not tag or tag == "latest":
        fault(f"{name}: the image {image} has no version")
    if "build" not in service and tag != "local" and not re.search(r"\d+\.\d+", tag):
        fault(f"{name}: the image {image} is not pinned to a release")
    for port in service.get("ports", []):
        if not default_of(port).startswith("127.0.0.1:"):
            fault(f"{name}: {port} is published beyond 127.0.0.1, and whoever reaches it can act as anybody")
    for other, how in service.get("depends_on", {}).items():
        if other not in services:
            fault(f"{name}: waits for {other}, which is no service")
        elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
            fault(f"{name}: waits until {other} is healthy, and {other} has no health check")
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            continue
        if not (ROOT / volume["source"]).exists():
            fault(f"{name}: mounts {volume['source']}, which is not there")
        if volume.get("bind", {}).get("create_host_path") is not False or not volume.get("read_only"):
            fault(f"{name}: mounts {volume['source']} without read_only and create_host_path: false")


def check_apptlock(services: dict) -> None:
    known = known_settings()
    if len(known) < 20:
        fault("docs/SETTINGS.md: its table of settings was not understood")
    for name in ("migrate", "apptlock"):
        service = services[name]
        for variable in service["environment"]:
            if variable not in known:
                fault(f"{name}: sets {variable}, which docs/SETTINGS.md does not know")
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            fault(f"{name}: is not read-only without capabilities, as the image promises to run")
        if service["image"] != services["migrate"]["image"]:
            fault(f"{name}: has another image than migrate")
    if services["apptlock"]["depends_on"]["migrate"]["condition"] != "service_completed_successfully":
        fault("apptlock: starts before migrate is done")
    if int(default_of(services["apptlock"]["deploy"]["replicas"])) < 2:
        fault("apptlock: has fewer than two replicas")


def uids(node) -> set[str]:
    """The data sources that a dashboard names, wherever in it."""
    found = set()
    if isinstance(node, dict):
        source = node.get("datasource")
        if isinstance(source, dict) and "uid" in source:
            found.add(source["uid"])
        for value in node.values():
            found |= uids(value)
    elif isinstance(node, list):
        for value in node:
            found |= uids(value)
    return found


def check_observability() -> None:
    prometheus = load(ROOT / "compose/prometheus.yml")
    if prometheus["rule_files"] != ["/etc/prometheus/rules/*.yaml"]:
        fault("compose/prometheus.yml: reads rules elsewhere than docker-compose.yml mounts them")
    rules = ROOT / "helm/apptlock/files/rules.yaml"
    if rules.exists() and not any(group.get("rules") for group in load(rules).get("groups", [])):
        fault("helm/apptlock/files/rules.yaml: has no rules")
    sources = load(ROOT / "compose/grafana/datasources/prometheus.yml")["datasources"]
    providers = load(ROOT / "compose/grafana/dashboards/apptlock.yml")["providers"]
    if [provider["options"]["path"] for provider in providers] != ["/etc/grafana/dashboards"]:
        fault("compose/grafana/dashboards: looks elsewhere than docker-compose.yml mounts the dashboard")
    dashboard = ROOT / "helm/apptlock/files/dashboard.json"
    if not dashboard.exists():
        return
    content = json.loads(dashboard.read_text())
    if not content.get("title") or not content.get("panels"):
        fault("helm/apptlock/files/dashboard.json: has no title or no panels")
    if "__inputs" in content:
        fault("helm/apptlock/files/dashboard.json: asks for inputs, which a provisioned dashboard is not given")
    # A variable of the dashboard is filled by Grafana; a fixed uid must be that of the source provisioned here.
    known = {source["uid"] for source in sources} | {"grafana", "-- Grafana --"}
    for uid in sorted(uids(content)):
        if not uid.startswith("$") and uid not in known:
            fault(f"helm/apptlock/files/dashboard.json: asks the data source {uid}, which is not provisioned")


def main() -> int:
    services = load(ROOT / "docker-compose.yml")["services"]
    for name, service in services.items():
        check_service(name, service, services)
    check_apptlock(services)
    check_observability()
    for text in faults:
        print(f"docker-compose.yml: {text}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
