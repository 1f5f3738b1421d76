#!/usr/bin/env python3
"""Asks the API what its own OpenAPI document allows, and what it does not, at random (schemathesis).

Starts target/debug/apptlock on free ports of 127.0.0.1: `dev` with its own PostgreSQL, where identities are
trusted, then `serve` on the same PostgreSQL with signed tokens. Ends what it has started, by process id.
The examples are the same in every run; API_FUZZ_SEED and API_FUZZ_EXAMPLES change that.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BINARY = HERE.parent.parent / "target" / "debug" / "apptlock"
SCHEMATHESIS = pathlib.Path(sys.executable).with_name("schemathesis")
EXAMPLES = os.environ.get("API_FUZZ_EXAMPLES", "30")
SEED = os.environ.get("API_FUZZ_SEED", "1")
# Seconds. Everything together takes much less; these only keep a fault from taking for ever.
START_LIMIT, STOP_LIMIT, FUZZ_LIMIT = 60, 30, 240


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def apptlock(folder, *arguments, **settings):
    """The service, ready; yields its public URL and its process."""
    port, management = free_port(), free_port()
    # Nobody else's settings or database.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    environment |= {
        "LISTEN_ADDR": f"127.0.0.1:{port}",
        "MANAGEMENT_ADDR": f"127.0.0.1:{management}",
        "RATE_LIMIT_PER_SECOND": "0",
        "DRAIN_DELAY": "0s",
        "DRAIN_TIME": "0s",
    } | settings
    said = folder / f"{arguments[0]}.log"
    with said.open("wb") as log:
        service = subprocess.Popen([BINARY, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_LIMIT
        while not is_ready(management):
            if service.poll() is not None or time.monotonic() > until:
                sys.exit(f"apptlock {arguments[0]} did not start:\n{said.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", service
        if service.poll() is not None or not is_ready(management):
            sys.exit(f"apptlock {arguments[0]} did not live through it:\n{said.read_text(errors='replace')[-2000:]}")
        log = said.read_text(errors="replace")
        if "panicked" in log:
            sys.exit(f"something panicked:\n{log[-4000:]}")
    finally:
        if service.poll() is None:
            service.send_signal(signal.SIGTERM)
            try:
                service.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


def database_of(service, folder):
    """The URL of the PostgreSQL that `apptlock dev` has started: its port is in the file that PostgreSQL keeps."""
    for place in (folder / ".run", pathlib.Path(tempfile.gettempdir())):
        for file in place.glob(f"apptlock-postgres-{service.pid}-*/data/postmaster.pid"):
            return f"postgres://apptlock@127.0.0.1:{file.read_text().splitlines()[3]}/postgres"
    sys.exit("the PostgreSQL of apptlock dev was not found")


def token(secret, **claims):
    """A JSON Web Token, signed with HS256."""
    def part(content):
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    signed = b".".join(part(json.dumps(piece).encode()) for piece in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (signed + b"." + part(hmac.digest(secret.encode(), signed, hashlib.sha256))).decode()


def fuzz(title, url, folder, *arguments):
    print(f"\n--- {title}", flush=True)
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    began = time.monotonic()
    done = subprocess.run(
        [
            SCHEMATHESIS, "--config-file", HERE / "schemathesis.toml", "run", f"{url}/api/openapi.json",
            "--max-examples", EXAMPLES, "--seed", SEED, "--generation-database", "none",
            # Most of what random requests ask for is refused, as it should be.
            "--no-color", "--warnings", "off",
            *arguments,
        ],
        cwd=folder, env=environment, timeout=FUZZ_LIMIT,
    )
    print(f"--- {title}: {time.monotonic() - began:.0f} s", flush=True)
    return done.returncode == 0


def main():
    if not BINARY.exists():
        sys.exit(f'{BINARY} is not there: run "make build" first')
    good = True
    # PostgreSQL refuses to run as root, so a root's runs as another user, who has to be let through.
    with tempfile.TemporaryDirectory(prefix="apptlock-api-fuzz-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        with apptlock(folder, "dev", "--replicas", "1") as (url, dev):
            good &= fuzz(
                "identities are trusted, any text", url, folder,
                # Which of two fields must be there depends on AUTH_MODE, and JSON Schema measures text in
                # characters where the bounds are in bytes: here some of what the document allows is refused.
                # And nobody is asked for a token. The other run, where neither is so, has all checks.
                "--exclude-checks", "positive_data_acceptance,ignored_auth,missing_required_header",
                "--generation-with-security-parameters", "false",
            )
            secret = secrets.token_urlsafe(48)
            bearer = token(secret, sub="ann", name="Ann", roles=["admin"], exp=int(time.time()) + 3600)
            with apptlock(folder, "serve", DATABASE_URL=database_of(dev, folder), AUTH_MODE="jwt", JWT_SECRET=secret) as (url, _):
                good &= fuzz(
                    "an admin's token, ASCII", url, folder,
                    "--header", f"Authorization: Bearer {bearer}", "--generation-codec", "ascii",
                )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
