"""flambeau's main job from start to end: train, package, serve, scale, ask, stop.

    make demo                                  (or: python examples/digits/demo.py)

Everything that it writes goes to ``demo/``; what is there already is not made again. It talks to
the server as any client would: with plain HTTP requests from Python's standard library.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HERE = Path(__file__).resolve().parent
FLAMBEAU = Path(sys.executable).with_name("flambeau")  # the command in this Python's environment
START_DEADLINE = 60.0  # seconds
STEPS = itertools.count(1)
# A proxy that the environment names must not be asked for pages of this machine.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """A step failed; the message says which and why."""


class Server:
    """The addresses of a server on this machine."""

    def __init__(self, inference_port: int, management_port: int, metrics_port: int) -> None:
        self.inference = f"http://127.0.0.1:{inference_port}"
        self.management = f"http://127.0.0.1:{management_port}"
        self.metrics = f"http://127.0.0.1:{metrics_port}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Train, package and serve a digit classifier.")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where to write")
    folder = parser.parse_args().folder
    # Whoever ends the demo must not leave the server behind: SystemExit runs all cleanup.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        train(folder / "model")
        package(folder / "model", folder / "model_store")
        with serving(folder) as server:
            register(server)
            scale(server)
            predict(server, folder / "model" / "images")
            describe(server)
            show_metrics(server)
    except (DemoError, OSError) as exc:
        print(f"\nThe demo failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe demo was interrupted.", file=sys.stderr)
        return 130
    print(f"\nAll done in {time.monotonic() - started:.0f} s.")
    return 0


def train(model: Path) -> None:
    heading("Train a small network on real handwritten digits")
    weights = model / "digits.pt"
    if is_fresh(weights, [HERE / "train.py", HERE / "model.py"]):
        print(f"  {weights} is already there.")
    else:
        run([sys.executable, str(HERE / "train.py"), "--out", str(model)], shown_as="python")


def package(model: Path, store: Path) -> None:
    heading("Package it into an archive")
    files = [HERE / "model.py", model / "digits.pt", model / "index_to_name.json"]
    archive = store / "digits.mar"
    if is_fresh(archive, files):
        print(f"  {archive} is already there.")
        return
    store.mkdir(exist_ok=True)
    arguments: list[Any] = ["--model-name", "digits", "--version", "1.0"]
    arguments += ["--handler", "image_classifier"]
    arguments += ["--model-file", files[0], "--serialized-file", files[1]]
    arguments += ["--extra-files", files[2], "--export-path", store]
    run([FLAMBEAU, "archive", *arguments, *(["--force"] if archive.exists() else [])])


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A flambeau server on free ports; it is stopped however the block ends."""
    heading("Start the server")
    # Sockets want short paths, so theirs is not under the folder.
    with tempfile.TemporaryDirectory(prefix="flambeau-", ignore_cleanup_errors=True) as run_dir:
        server = Server(*free_ports(3))
        log = folder / "server.log"
        command = [FLAMBEAU, "start", "--model-store", folder / "model_store", "--run-dir", run_dir]
        command += ["--inference-address", server.inference]
        command += ["--management-address", server.management]
        command += ["--metrics-address", server.metrics]
        process = start(command, log, folder / "model_cache")
        try:
            with waiting("the server"):
                wait_until_healthy(server, process, log)
            print(f"  Ready at {server.inference}; it writes its log to {log}.")
            yield server
            heading("Stop the server")
            run([FLAMBEAU, "stop", "--run-dir", run_dir])
            process.wait(timeout=30)
            print("  Stopped.")
        except subprocess.TimeoutExpired as exc:
            raise DemoError("the server did not stop within 30 s.") from exc
        finally:
            end(process)


def register(server: Server) -> None:
    heading("Register the archive and start one worker")
    url = f"{server.management}/models?url=digits.mar&initial_workers=1&synchronous=true"
    with waiting("the worker"):
        answer = call("POST", url)
    print(f"  {json.loads(answer)['status']}")


def scale(server: Server) -> None:
    heading("Scale it to two workers")
    with waiting("the second worker"):
        answer = call("PUT", f"{server.management}/models/digits?min_worker=2&synchronous=true")
    print(f"  {json.loads(answer)['status']}")


def predict(server: Server, images: Path) -> None:
    heading("Send pictures of digits that it never saw")
    names = json.loads((images.parent / "index_to_name.json").read_text())
    print(f"  {'file':<8}{'shows':<8}{'answer':<8}{'probability':>12}{'latency':>12}")
    right = 0
    files = sorted(images.glob("*.png"))
    for file in files:
        body = file.read_bytes()
        started = time.perf_counter()
        answer = call("POST", f"{server.inference}/predictions/digits", body)
        milliseconds = (time.perf_counter() - started) * 1000
        scores: dict[str, float] = json.loads(answer)
        best = max(scores, key=scores.__getitem__)
        label = names[file.stem]
        right += best == label
        print(f"  {file.name:<8}{label:<8}{best:<8}{scores[best]:>12.4f}{milliseconds:>9.1f} ms")
    print(f"  {right} of {len(files)} are right.")
    if right < 0.8 * len(files):
        raise DemoError("the server's answers are not those of the network that was trained.")


def describe(server: Server) -> None:
    heading("Ask for the model's description")
    description = json.loads(call("GET", f"{server.management}/models/digits"))
    print(indented(json.dumps(description, indent=2)))


def show_metrics(server: Server) -> None:
    heading("Read some of the metrics")
    lines = call("GET", f"{server.metrics}/metrics").decode().splitlines()
    # Histograms come as many buckets; their count, their sum and the plain counters tell enough.
    samples = [line for line in lines if "digits" in line and "_bucket{" not in line]
    samples = [line for line in samples if "_created{" not in line]
    if not samples:
        raise DemoError("the metrics say nothing about the model.")
    print(indented("\n".join(samples[:12])))


def call(method: str, url: str, body: bytes | None = None) -> bytes:
    """Send one request; the answer's body."""
    request = urllib.request.Request(url, data=body, method=method)
    if body is not None:
        request.add_header("Content-Type", "image/png")
    try:
        with HTTP.open(request, timeout=120) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as exc:
        detail = exc.read().decode(errors="replace").strip()
        raise DemoError(f"{method} {url} was answered {exc.code}: {detail}") from exc
    except OSError as exc:
        raise DemoError(f"{method} {url} got no answer: {exc}") from exc


def start(command: list[Any], log: Path, model_cache: Path) -> subprocess.Popen[bytes]:
    show(command)
    environment = {**os.environ, "FLAMBEAU_MODEL_CACHE_DIR": str(model_cache.absolute())}
    with log.open("wb") as output:
        return subprocess.Popen(
            [*map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def wait_until_healthy(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE
    last = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise DemoError(f"the server ended with code {process.returncode}:\n{last_lines}")
        try:
            call("GET", f"{server.inference}/ping")
            return
        except DemoError as exc:
            last = str(exc)
            time.sleep(0.1)
    raise DemoError(f"the server was not ready after {START_DEADLINE:.0f} s; {last}")


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(command: list[Any], shown_as: str | None = None) -> None:
    show([shown_as, *command[1:]] if shown_as else command)
    code = subprocess.run([*map(str, command)], check=False).returncode
    if code != 0:
        raise DemoError(f"the command above ended with code {code}.")


def show(command: Iterable[Any]) -> None:
    def word(argument: Any) -> str:
        path = Path(argument)
        if path == FLAMBEAU:
            return "flambeau"
        if path.is_absolute() and path.is_relative_to(Path.cwd()):
            return str(path.relative_to(Path.cwd()))
        return str(argument)

    print("  $ " + shlex.join(map(word, command)), flush=True)


def is_fresh(result: Path, sources: Iterable[Path]) -> bool:
    """Whether ``result`` is there and younger than everything it was made from."""
    if not result.exists():
        return False
    return all(result.stat().st_mtime >= source.stat().st_mtime for source in sources)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # all are held open together, so that they differ
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal for how long we have been waiting, once that is more than a second."""
    done = threading.Event()

    def tick() -> None:
        seconds = 1
        while not done.wait(1.0):
            print(f"\r  Waiting for {what} {'.' * seconds} {seconds} s", end="", flush=True)
            seconds += 1
        if seconds > 1:
            print("\r\033[K", end="", flush=True)

    ticker = threading.Thread(target=tick, daemon=True)
    if sys.stdout.isatty():
        ticker.start()
    try:
        yield
    finally:
        done.set()
        if ticker.is_alive():
            ticker.join()


def heading(text: str) -> None:
    print(f"\n{next(STEPS)}. {text}", flush=True)


def indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


if __name__ == "__main__":
    raise SystemExit(main())
