"""Asks a real server what its own OpenAPI documents allow, and what they do not: ``make fuzz``.

    python tests/fuzz/api.py SCHEMATHESIS [--seconds 30]

SCHEMATHESIS is that command. Every answer must be one that the document promises, and the server
must not be surprised by any of it: no traceback in its log, and it serves as before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from real_server import RealServer  # noqa: E402 - found by the line above

CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"
MODEL = "obedient"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schemathesis", help="the command schemathesis")
    parser.add_argument("--seconds", type=int, default=30, help="for each document")
    arguments = parser.parse_args()
    command = str(Path(arguments.schemathesis).absolute())
    with tempfile.TemporaryDirectory(prefix="flambeau-fuzz-") as folder:
        server = RealServer(Path(folder), (), {"content_type": "auto"})
        server.store.folder(MODEL)
        try:
            server.start()
            server.serve(MODEL)
            failed = [
                name
                for name in ("inference", "management", "metrics")
                if not is_fine(command, server, name, arguments.seconds)
            ]
            failed += surprises(server)
        finally:
            server.stop()
    for each in failed:
        print(f"failed: {each}")
    return 1 if failed else 0


def is_fine(command: str, server: RealServer, listener: str, seconds: int) -> bool:
    print(f"The {listener} API, {seconds} s", flush=True)
    finished = subprocess.run(
        [
            *(command, "run", f"{server.addresses[listener]}/api-description"),
            *("--checks", CHECKS, "--max-time", str(seconds), "--continue-on-failure"),
            *("--request-timeout", "30", "--suppress-health-check", "all", "--warnings", "off"),
            # It starts workers, as many as it is told: nothing to do at random.
            *("--exclude-operation-id-regex", "etAutoScale$"),
        ],
        cwd=server.store.root.parent,
        check=False,
    )
    return finished.returncode == 0


def surprises(server: RealServer) -> list[str]:
    found = []
    if "Traceback" in server.log():
        found.append("there is a traceback in the server's log")
        print(server.log()[-20_000:])
    server.register(MODEL, model_name="afterwards")
    if server.predict("afterwards").status != 200:
        found.append("the server does not serve any more")
    return found


if __name__ == "__main__":
    sys.exit(main())
