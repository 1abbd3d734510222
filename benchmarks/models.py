"""The models that are measured, written as directories or archives into a model store."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from array import array
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import yaml
from processes import HERE, BenchmarkError
from served import FLAMBEAU

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = HERE.parent / "examples" / "digits"
TRAINED = HERE.parent / "demo" / "model"
"""What ``make demo`` has trained, if somebody ran it."""
IMAGE_SHAPE = (3, 96, 96)


@dataclass(frozen=True)
class Digits:
    """Files of the trained example."""

    archive: str
    image: Path
    shows: str


def write_echo(store: Path) -> None:
    """``echo``: batch size 1."""
    _write(store / "echo", "echo_handler.py", {"batchSize": 1})


def write_slow(store: Path) -> None:
    """``slow``, which answers in pieces."""
    _write(store / "slow", "slow_handler.py", {"batchSize": 1})


def write_conv(store: Path, blocks: int) -> None:
    """``conv``, which takes batches of 8, and ``conv_single``, the same one by one."""
    network: dict[str, Any] = {"handler": {"blocks": blocks}, "responseTimeout": 30}
    batches = {"batchSize": 8, "maxBatchDelay": 20}
    _write(store / "conv", "conv_handler.py", {**batches, **network})
    _write(store / "conv_single", "conv_handler.py", {"batchSize": 1, **network})


def write_sleep(store: Path, name: str, milliseconds: float, config: dict[str, Any]) -> None:
    """A model whose batches, of one, take so long."""
    settings = {"batchSize": 1, "handler": {"milliseconds": milliseconds}, **config}
    _write(store / name, "sleep_handler.py", settings)


def _write(model: Path, handler: str, config: dict[str, Any]) -> None:
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": model.name,
            "modelVersion": "1.0",
            "handler": handler,
            "configFile": "model-config.yaml",
        },
    }
    (model / "MAR-INF").mkdir(parents=True)
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (model / "model-config.yaml").write_text(yaml.safe_dump({"minWorkers": 1, **config}))
    shutil.copy(HERE / handler, model / handler)


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """A small JSON document and an image of random float32 values."""
    document, image = folder / "echo.json", folder / "image.raw"
    document.write_text(json.dumps({"instances": [[1.5, 2.5, 3.5]], "id": "a small document"}))
    source = random.Random(0)
    image.write_bytes(array("f", (source.random() for _ in range(prod(IMAGE_SHAPE)))).tobytes())
    return document, image


def package_digits(folder: Path) -> Digits:
    """The digits example as an archive in ``folder/store``; trained first if need be."""
    trained = TRAINED
    if not (trained / "digits.pt").exists() or not (trained / "images" / "7.png").exists():
        trained = folder / "digits"
        _run([sys.executable, EXAMPLE / "train.py", "--out", trained])
    names = trained / "index_to_name.json"
    command: list[object] = [FLAMBEAU, "archive", "--model-name", "digits", "--version", "1.0"]
    command += ["--handler", "image_classifier", "--model-file", EXAMPLE / "model.py"]
    command += ["--serialized-file", trained / "digits.pt", "--extra-files", names]
    (folder / "store").mkdir(exist_ok=True)
    _run([*command, "--export-path", folder / "store"])
    return Digits("digits.mar", trained / "images" / "7.png", json.loads(names.read_text())["7"])


def _run(command: list[object]) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"{command[1]} failed: {(done.stderr or done.stdout).strip()}")
