"""Changes a server while it is asked, and counts what clients notice: nothing, it should be.

    python benchmarks/changes.py restart [--requests 10000] [--connections 16] [--tls]
    python benchmarks/changes.py scale
    python benchmarks/changes.py rollout

``restart`` replaces the server by a new process, twice. ``scale`` gives the model more workers and
fewer. ``rollout`` replaces the model, once by one that cannot be loaded. Three clients in four keep
their connections, the others open one for each request, and one more reads answers that come in
pieces. They ask until as many requests as wanted have been answered and the changes are over. Exit
code 1 if one request failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asking import Asking
from echo import say
from models import write_echo, write_slow
from processes import BenchmarkError
from protection import KEY, KEYS, make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = (4, 1, 3, 2, 1)
"""Numbers of workers that ``scale`` goes through."""
RESTARTS = 2
ROLLOUTS = 5


class Background:
    """A server that ``flambeau start --background`` has started, with its folder."""

    def __init__(self, folder: Path, run_dir: str, scheme: str) -> None:
        self._folder = folder
        self._scheme = scheme
        self._run_dir = run_dir
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TS_", "FLAMBEAU_"))},
            "FLAMBEAU_MODEL_CACHE_DIR": str(folder / "cache"),
            "FLAMBEAU_DEFAULT_WORKERS_PER_MODEL": "1",
            "FLAMBEAU_PRELOAD": "none",
            "FLAMBEAU_API_KEY": KEYS[0]["key"],
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, **settings: object) -> None:
        """Start it with the models ``echo`` and ``slow``."""
        config = self._folder / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        addresses = [
            f"--{api}-address={self._scheme}://127.0.0.1:0"
            for api in ("inference", "management", "metrics")
        ]
        self.command(
            "start", "--background", f"--config={config}", "--model-store", self._folder / "store",
            "--models", "echo=echo,slow=slow", *addresses,
        )  # fmt: skip

    def command(self, name: str, *words: object) -> str:
        """What ``flambeau name`` says; BenchmarkError if it fails."""
        command = [sys.executable, "-m", "flambeau.frontend.cli", name]
        done = subprocess.run(
            [*command, f"--run-dir={self._run_dir}", *map(str, words)],
            env=self._environ,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchmarkError(f"flambeau {name}: {done.stderr.strip()}\n{done.stdout}")
        return done.stdout

    def models(self, *words: object) -> bool:
        """Run ``flambeau models ...``; False if that says that it cannot be done."""
        command = [sys.executable, "-m", "flambeau.frontend.cli", "models", *map(str, words)]
        command += ["--management", self.addresses["management"]]
        done = subprocess.run(command, env=self._environ, capture_output=True, check=False)
        return done.returncode == 0

    def write_broken(self) -> str:
        """An archive of the model ``echo`` that cannot be loaded: its url."""
        model = self._folder / "store" / "broken"
        shutil.copytree(self._folder / "store" / "echo", model)
        (model / "echo_handler.py").write_text("import nothing_of_this_name\n")
        return model.name

    @property
    def _state(self) -> dict[str, object]:
        (state,) = Path(self._run_dir, "servers").glob("*.json")
        found: dict[str, object] = json.loads(state.read_text())
        return found

    @property
    def pid(self) -> int:
        return int(str(self._state["pid"]))

    @property
    def addresses(self) -> dict[str, str]:
        return dict(self._state["addresses"])  # type: ignore[call-overload]


def restart(server: Background, asking: Asking, requests: int) -> None:
    """Replace the server, and the one that comes then."""
    for number in range(1, RESTARTS + 1):
        asking.wait(requests * number // (RESTARTS + 1))
        before = server.pid
        server.command("restart")
        if server.pid == before:
            raise BenchmarkError("the server is the same process as before.")
        say(f"process {before} is replaced by {server.pid}")


def scale(server: Background, asking: Asking, requests: int) -> None:
    """Change the number of workers all the time."""
    for number, workers in enumerate(STEPS, 1):
        asking.wait(requests * number // (len(STEPS) + 1))
        if not server.models("scale", "echo", f"--min-worker={workers}"):
            raise BenchmarkError(f"there are not {workers} workers.")
        say(f"{workers} workers")


def rollout(server: Background, asking: Asking, requests: int) -> None:
    """Replace the model again and again, and once by what cannot be loaded."""
    broken = server.write_broken()
    for number in range(1, ROLLOUTS + 1):
        asking.wait(requests * number // (ROLLOUTS + 1))
        url = broken if number == 2 else "echo"
        if server.models("replace", "echo", url) != (url != broken):
            raise BenchmarkError(f"the model was, or was not, replaced by {url}.")
        say(f"replaced by {url}" if url != broken else "an archive that is broken was refused")


SCENARIOS: dict[str, Callable[[Background, Asking, int], None]] = {
    "restart": restart,
    "scale": scale,
    "rollout": rollout,
}


def measure(scenario: str, requests: int, connections: int, tls: bool) -> Asking:
    """Run one scenario, to its end."""
    with tempfile.TemporaryDirectory(prefix="flambeau-") as place:
        folder = Path(place)
        write_echo(folder / "store")
        write_slow(folder / "store")
        settings: dict[str, object] = {"api_keys": _escaped(KEYS), "drain_timeout": 20}
        certificate = None
        if tls:
            certificate, key = make_certificate(folder)
            settings.update(certificate_file=certificate, private_key_file=key)
        with running(folder, "https" if tls else "http", settings) as server:
            single = max(1, connections // 4)
            asking = Asking(
                server.addresses["inference"],
                max(1, connections - single),
                single,
                1,
                {"Authorization": f"Bearer {KEY}0"},
                certificate,
            )
            with asking:
                SCENARIOS[scenario](server, asking, requests)
                asking.wait(requests)
    return asking


@contextmanager
def running(folder: Path, scheme: str, settings: dict[str, object]) -> Iterator[Background]:
    """A server in the background, stopped however the block ends."""
    # Sockets want short paths, so theirs is not under the folder.
    with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as run_dir:
        server = Background(folder, run_dir, scheme)
        server.start(**settings)
        try:
            yield server
        finally:
            server.command("stop", "--force")


def _escaped(keys: list[dict[str, object]]) -> str:
    return json.dumps([{**keys[0], "scopes": ["infer", "manage"]}])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--tls", action="store_true", help="HTTPS; needs openssl")
    options = parser.parse_args()
    try:
        asking = measure(options.scenario, options.requests, options.connections, options.tls)
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(asking.report.text())
    return 1 if asking.report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
