"""checkov over everything that was rendered; without its skips it would ask for what does not fit this service."""

import json
import pathlib
import re
import sys

from common import RENDERED, Problem, run, said

CHECKOV = pathlib.Path(sys.executable).with_name("checkov")

# Each with the reason why it does not apply here.
SKIPPED = {
    # Throttling by a CPU limit delays everybody's events; the request keeps the share.
    "CKV_K8S_11": "CPU limits",
    # Whoever wants to pin a digest does so (image.digest); a chart that is generated from a version has its tag.
    "CKV_K8S_43": "image by digest",
    # Every new pod pulling its image would make the registry a part of every restart; tags are never reused.
    "CKV_K8S_15": "imagePullPolicy Always",
    # DATABASE_URL and the others are read from the environment alone, as the settings' document says.
    "CKV_K8S_35": "secrets as files",
}
# The same for some objects only: a pattern of the resource, and the reason.
SKIPPED_FOR = {
    # A test ends by itself; nobody waits for it to be ready.
    ("CKV_K8S_8", r"^Pod\.\w+\.(shop-apptlock|locks)-test-\w+$"): "liveness probe",
    ("CKV_K8S_9", r"^Pod\.\w+\.(shop-apptlock|locks)-test-\w+$"): "readiness probe",
    # The official images of PostgreSQL and Redis come with users of low numbers; these two are for a try only.
    ("CKV_K8S_40", r"^(Deployment|StatefulSet)\.apptlock-dev\.(postgres|redis)$"): "high user id",
    # The base is made to be used by overlays, which say where; and objects of one's own name a place themselves, or none.
    ("CKV_K8S_21", r"\.default\."): "default namespace",
    # Whom to let in is for each cluster to say, so there is a policy only where somebody asks for it.
    ("CKV2_K8S_6", r""): "network policy",
}


def is_skipped(fault):
    return any(fault["check_id"] == check and re.search(pattern, fault["resource"]) for check, pattern in SKIPPED_FOR)


def problems(folder=RENDERED):
    done = run(
        CHECKOV, "--directory", folder, "--framework", "kubernetes", "--compact", "--quiet", "--skip-download",
        "--output", "json", "--skip-check", ",".join(SKIPPED),
    )
    try:
        answer = json.loads(done.stdout)
        # Without a failure it answers the summary alone.
        summary = answer.get("summary", answer)
        passed, unread = summary["passed"], summary["parsing_errors"]
    except (ValueError, KeyError, AttributeError):
        sys.exit(f"check-deploy: checkov did not answer: {said(done)}")
    if not passed or unread:
        yield Problem(str(folder), "checkov", f"{passed} checks passed, {unread} files could not be read")
    for fault in answer.get("results", {}).get("failed_checks", []):
        if not is_skipped(fault):
            yield Problem(f'{fault["file_path"].strip("/")}: {fault["resource"]}', fault["check_id"], fault["check_name"])
