"""The real TorchServe 0.12 in processes of its own, for the scripts that ask it things."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from real_server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

TORCH = "torch==2.13.0"
PACKAGES = (
    TORCH,
    "torchserve==0.12.0",
    "torch-model-archiver==0.12.0",
    "captum==0.9.0",
    "numpy",
    "onnxruntime",
    "pillow",
    "psutil",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    # Later ones do not know what the handlers of TorchServe's time pass to a tokenizer.
    "transformers==4.44.2",
)
ALONE = ("torchvision==0.28.0",)
"""Installed without what they ask for: torch is there, in whichever build the machine has."""

START_LIMIT = 90.0

# Its wheel is built for CUDA: beside a torch without, its C++ library cannot be loaded, and then
# its Python code fails on operators that nobody has defined. Transforms and most models need none.
TORCHVISION_WITHOUT_CUDA = """
import importlib.abc
import sys


class Before(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                self.kept = torch.library.Library("torchvision", "DEF")
                for operator in ("nms", "qnms"):
                    self.kept.define(
                        operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    )
                sys.modules["torchvision_without_cuda"].library = self.kept
        return None


sys.meta_path.insert(0, Before())
"""


def environment(venv: Path) -> Path:
    """The folder of commands of an environment with TorchServe, made and filled if need be."""
    python, done = venv / "bin" / "python", venv / "packages"
    wanted = "\n".join([*PACKAGES, *ALONE])
    if not done.exists() or done.read_text() != wanted:
        print(f"Installing TorchServe into {venv}: about three minutes", flush=True)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", *ALONE], check=True)
        (site,) = venv.glob("lib/python3*/site-packages")
        (site / "torchvision_without_cuda.py").write_text(TORCHVISION_WITHOUT_CUDA)
        (site / "torchvision_without_cuda.pth").write_text("import torchvision_without_cuda\n")
        done.write_text(wanted)
    return venv / "bin"


@contextlib.contextmanager
def torchserve(
    commands: Path,
    base: Path,
    settings: Mapping[str, object],
    ready: Callable[[Mapping[str, str]], bool],
    flags: Sequence[str] = ("--disable-token-auth", "--enable-model-api"),
    environ: Mapping[str, str] | None = None,
    one_address: bool = False,
) -> Iterator[Mapping[str, str]]:
    """A server on free ports, with the model store ``base/store``; where it listens.

    It counts as started once ``ready`` says so of its addresses; an OSError there means not yet.
    With ``one_address`` inference and management share theirs.
    """
    ports = {name: free_port() for name in ("inference", "management", "metrics")}
    if one_address:
        ports["management"] = ports["inference"]
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    everything = {
        **settings,
        **{f"{name}_address": url for name, url in addresses.items()},
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "initial_worker_port": 9000,
    }
    config = base / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in everything.items()))
    scratch = base / "tmp"
    scratch.mkdir()
    environment = {
        **os.environ,
        **(environ or {}),
        "PATH": f"{commands}:{os.environ['PATH']}",
        "TMPDIR": str(scratch),
        "TEMP": str(scratch),
    }
    environment.pop("PYTHONPATH", None)
    command = [commands / "torchserve", "--start", "--foreground", "--ncs"]
    command += ["--model-store", base / "store", "--ts-config", config, *flags]
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=base, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(lambda: ready(addresses), process, base / "log")
        yield addresses
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.2)
    raise SystemExit(f"TorchServe did not start:\n{log.read_text()[-4000:]}")
