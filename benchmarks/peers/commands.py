"""How each server is set up and started."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from processes import HERE

from peers.environments import python_of
from peers.sizes import BATCHES, MIXED, STREAM
from peers.workloads import in_rows, open_inference, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Command = list[object]
_SHARED = ("peers/answers.py", "peers/sizes.py", "conv_handler.py")
_LARGEST = 10**8
"""Bytes of a request, where a server has a limit."""
_COMPILES = 18.0
"""Seconds of load in which Java compiles what is used often: TorchServe's rate rises threefold."""


@dataclass(frozen=True)
class Place:
    """Where a server runs. The first of its ports is the one that is asked."""

    server: str
    folder: Path
    workload: str
    blocks: int
    ports: tuple[int, ...]

    def copy(self, script: str, into: Path | None = None) -> None:
        """What serves, and the models beside it."""
        for each in (*_SHARED, f"peers/{script}"):
            shutil.copy(HERE / each, into or self.folder)

    def batch(self) -> tuple[int, int]:
        """Batch size, and the delay in milliseconds."""
        return BATCHES.get(self.workload, (1, 0))

    def script(self) -> str:
        """What serves this workload with this server."""
        kind = "stream" if self.workload == STREAM else "serve"
        return f"{kind}_{self.server}.py"

    def command(self, name: str) -> Path:
        """A command of the server's environment."""
        return python_of(self.server).with_name(name)

    def environ(self) -> dict[str, str]:
        """Nothing of the caller's configuration, no GPU, one thread; all files in the folder."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TS_", "FLAMBEAU_", "MOSEC_", "MLSERVER_", "BENTOML_", "RAY_"))
        }
        commands, others = python_of(self.server).parent, os.environ.get("PATH", os.defpath)
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            **inherited,
            "PATH": f"{commands}{os.pathsep}{others}",
            "PYTHONPATH": str(self.folder),
            "TEMP": str(temporary),
            "TMPDIR": str(temporary),
            "HOME": str(self.folder),
            "WORKLOAD": self.workload,
            "BLOCKS": str(self.blocks),
            "PORT": str(self.ports[0]),
            "PORTS": ",".join(map(str, self.ports)),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }


@dataclass(frozen=True)
class Server:
    """``prepare`` writes what a server needs and answers its command; ``words`` are how to ask.

    ``scales``: it has TorchServe's management API, at its second port. ``cannot`` says why it does
    not stream. ``warm_up``: seconds of load until it is as quick as it will be, if that is long.
    """

    path: str
    prepare: Callable[[Place], Command]
    words: Callable[[str, bytes], tuple[bytes, str]] = plain
    scales: bool = False
    cannot: str = ""
    warm_up: float = 0.0


def _model_directory(place: Place) -> None:
    """The same for flambeau and TorchServe: one worker, the same handler."""
    model = place.folder / "store" / "peer"
    (model / "MAR-INF").mkdir(parents=True)
    streams = place.workload == STREAM
    handler = "stream_handler.py" if streams else "handler.py"
    place.copy(handler, model)
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": "peer",
            "modelVersion": "1.0",
            "handler": handler,
            "configFile": "model-config.yaml",
        },
    }
    size, delay = place.batch()
    config: dict[str, object] = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": size,
        "maxBatchDelay": delay,
        # So that none is refused at 512 connections.
        "jobQueueSize": 2000,
        "handler": {"workload": place.workload, "blocks": place.blocks},
    }
    if streams:
        config["asyncCommunication"] = True
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (model / "model-config.yaml").write_text(yaml.safe_dump(config))


def _flambeau(place: Place) -> Command:
    _model_directory(place)
    command: Command = ["env", f"FLAMBEAU_MAX_REQUEST_SIZE={_LARGEST}", place.command("flambeau")]
    command += ["start", "--model-store", "store"]
    command += ["--models", "peer=peer", "--run-dir", "run"]
    for api, port in zip(("inference", "management", "metrics"), place.ports, strict=False):
        command += [f"--{api}-address", f"http://127.0.0.1:{port}"]
    return command


def _torchserve(place: Place) -> Command:
    _model_directory(place)
    values: dict[str, object] = {
        f"{api}_address": f"http://127.0.0.1:{port}"
        for api, port in zip(("inference", "management", "metrics"), place.ports, strict=False)
    }
    values |= {
        "grpc_inference_port": place.ports[3],
        "grpc_management_port": place.ports[4],
        "initial_worker_port": place.ports[5],
        "default_workers_per_model": 1,
        "number_of_gpu": 0,
        "max_request_size": _LARGEST,
        # Its collector is a process every minute, which would disturb the others' windows.
        "disable_system_metrics": "true",
    }
    lines = [f"{key}={value}\n" for key, value in values.items()]
    (place.folder / "config.properties").write_text("".join(lines))
    command: Command = [place.command("torchserve"), "--start", "--foreground", "--ncs"]
    command += ["--model-store", "store", "--models", "peer=peer", "--disable-token-auth"]
    return [*command, "--ts-config", "config.properties"]


def _mosec(place: Place) -> Command:
    command = [*_script(place), "--address", "127.0.0.1"]
    command += ["--port", place.ports[0], "--capacity", 2000]
    return [*command, "--max-request-size", _LARGEST]


def _mlserver(place: Place) -> Command:
    place.copy("serve_mlserver.py")
    size, delay = place.batch()
    settings = {
        "host": "127.0.0.1",
        "http_port": place.ports[0],
        "grpc_port": place.ports[1],
        "metrics_port": place.ports[2],
        "parallel_workers": 1,
        "debug": False,
    }
    model: dict[str, object] = {"name": "peer", "implementation": "serve_mlserver.Peer"}
    # It joins tensors of one shape only, and fails requests with different ones that it has joined.
    if size > 1 and place.workload != MIXED:
        model |= {"max_batch_size": size, "max_batch_time": delay / 1000}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [place.command("mlserver"), "start", place.folder]


def _bentoml(place: Place) -> Command:
    place.copy(place.script())
    name = place.script().removesuffix(".py")
    command: Command = [place.command("bentoml"), "serve", f"{name}:Peer"]
    return [*command, "--host", "127.0.0.1", "--port", place.ports[0]]


def _pytriton(place: Place) -> Command:
    """Its stub is linked to libpython, and must find that of the interpreter it is used from."""
    libraries = sysconfig.get_config_var("LIBDIR")
    return ["env", f"LD_LIBRARY_PATH={libraries}", *_script(place)]


def _script(place: Place) -> Command:
    """All others that need no more than a script."""
    place.copy(place.script())
    return [place.command("python"), place.script()]


SERVERS = {
    "flambeau": Server("/predictions/peer", _flambeau, scales=True),
    "mosec": Server("/inference", _mosec),
    "torchserve": Server("/predictions/peer", _torchserve, scales=True, warm_up=_COMPILES),
    "litserve": Server("/predict", _script),
    "mlserver": Server(
        "/v2/models/peer/infer",
        _mlserver,
        open_inference,
        cannot="it streams only without worker processes (parallel_workers 0)",
    ),
    "bentoml": Server("/peer", _bentoml, in_rows),
    "ray": Server("/", _script),
    "pytriton": Server(
        "/v2/models/peer/infer",
        _pytriton,
        open_inference,
        cannot="models with several answers are served by gRPC only",
    ),
}
