"""Asks the real TorchServe every row of the contract and prints where flambeau differs.

    python tests/contract/oracle.py [--venv DIR] [--only TEXT] [--keep]

``--venv`` is an environment with TorchServe 0.12, made and filled if it is not there (Java must be
installed). Exit code 1 if a row says of TorchServe what it does not do: then the contract is
written down wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from typing import TYPE_CHECKING

from contract.exchange import exchange
from contract.models import fill
from contract.profiles import PROFILES, Profile
from contract.rows import Case, Row
from contract.tables import CASES
from real_server import Store, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGES = ("torch==2.13.0", "torchserve==0.12.0", "numpy", "psutil", "pyyaml")
START_LIMIT = 90.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--venv", type=Path, default=Path(".make/oracle"))
    parser.add_argument("--only", default="", help="ask only cases whose id holds this text")
    options = parser.parse_args()
    commands = environment(options.venv.absolute()) / "bin"
    cases = [case for case in CASES if options.only in case.id]
    wrong = on_purpose = rows = 0
    for name in dict.fromkeys(case.profile for case in cases):
        with (
            tempfile.TemporaryDirectory(prefix="oracle") as base,
            torchserve(commands, Path(base), PROFILES[name]) as addresses,
        ):
            for case in cases:
                if case.profile == name:
                    rows += len(case.rows)
                    key_file = Path(base, "key_file.json") if name == "tokens" else None
                    found = ask(addresses, case, key_file)
                    wrong += found
                    on_purpose += sum(row.torchserve is not None for row in case.rows)
    print(f"{rows} rows: {wrong} not as the contract says; {on_purpose} differ on purpose")
    return 1 if wrong else 0


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def environment(venv: Path) -> Path:
    """The environment, made if need be."""
    if not (venv / "bin" / "torchserve").exists():
        print(f"Installing TorchServe into {venv}: about two minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *PACKAGES], check=True)
    return venv


@contextlib.contextmanager
def torchserve(commands: Path, base: Path, profile: Profile) -> Iterator[Mapping[str, str]]:
    """A real TorchServe with folders and ports of its own; where it listens."""
    store = Store(base / "store")
    fill(store)
    ports = {name: free_port() for name in ("inference", "management", "metrics")}
    if profile.one_address:
        ports["management"] = ports["inference"]
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    settings = {
        **profile.settings,
        **{f"{name}_address": url for name, url in addresses.items()},
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "initial_worker_port": 9000,
    }
    config = base / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    scratch = base / "tmp"
    scratch.mkdir()
    environ = {
        **os.environ,
        **profile.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "TMPDIR": str(scratch),
        "TEMP": str(scratch),
    }
    environ.pop("PYTHONPATH", None)
    command = [commands / "torchserve", "--start", "--foreground", "--ncs"]
    command += ["--model-store", store.root, "--ts-config", config, *profile.torchserve_flags]
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=base, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_ready(ports, base / "log", process)
        yield addresses
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(
    ports: Mapping[str, int], log: Path, process: subprocess.Popen[bytes]
) -> None:
    """Until the model that is loaded at the start has a worker that answers."""
    deadline = time.monotonic() + START_LIMIT
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    row = Row("GET", "/models/telling", port="management")
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, socket.timeout):
            reply = exchange(addresses, row)
            if b'"READY"' in reply.body or reply.status == 400:
                return
        time.sleep(0.2)
    raise SystemExit(f"TorchServe did not start:\n{log.read_text()[-4000:]}")


def ask(addresses: Mapping[str, str], case: Case, key_file: Path | None) -> int:
    """Ask the rows of a case; how many are not as written down."""
    wrong = 0
    for number, row in enumerate(case.rows, start=1):
        expect = row.expect if row.torchserve is None else row.torchserve.expect
        try:
            faults = expect.faults(exchange(addresses, row, key_file))
        except OSError as error:
            faults = [f"{type(error).__name__}: {error}"]
        if row.torchserve is not None:
            print(f"on purpose  {case.id}, row {number}, {row}: {row.torchserve.why}")
        if faults:
            wrong += 1
            print(f"UNEXPECTED  {case.id}, row {number}, {row}: {'; '.join(faults)}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
