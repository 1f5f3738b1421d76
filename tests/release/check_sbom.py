#!/usr/bin/env python3
"""check_sbom.py FILE   holds a bill of materials against CycloneDX's own schema, and against what must be inside

The first fault ends it with exit code 1 and one line.
"""

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

# Some of what apptlock cannot do without; and what only tests it.
INSIDE = {"tokio", "axum", "sqlx", "fred", "socketioxide", "rustls", "socket.io-client", "swagger-ui-dist"}
OUTSIDE = {"insta", "proptest", "reqwest", "apptlock-load", "apptlock-support"}


def main() -> None:
    file = Path(sys.argv[1])
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text())
    if fault:
        sys.exit(f"{file}: is not CycloneDX 1.6: {fault}")
    document = json.loads(file.read_text())
    names = {component["name"] for component in document["components"]}
    if not INSIDE <= names:
        sys.exit(f"{file}: lacks {', '.join(sorted(INSIDE - names))}")
    if OUTSIDE & names:
        sys.exit(f"{file}: has {', '.join(sorted(OUTSIDE & names))}, which are not in the binary")
    known = {component["bom-ref"] for component in document["components"]}
    unknown = {ref for entry in document["dependencies"] for ref in entry["dependsOn"]} - known
    if unknown:
        sys.exit(f"{file}: depends on what it does not list: {', '.join(sorted(unknown))}")
    print(f"{file}: {len(names)} components, valid")


if __name__ == "__main__":
    main()
