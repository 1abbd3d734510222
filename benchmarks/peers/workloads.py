"""What is asked of the servers, in the words of each, and what their answers say."""

from __future__ import annotations

import base64
import json
import random
import subprocess
from array import array
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from models import IMAGE_SHAPE
from processes import HERE, BenchmarkError

from peers.environments import python_of
from peers.sizes import BATCHES, RAW, STREAM

if TYPE_CHECKING:
    from pathlib import Path

WORKLOADS = ("echo", "mlp", "conv", "encoder", STREAM, "body-1mb", "body-16mb")
MOST = {STREAM: 32, "body-1mb": 64, "body-16mb": 32}
"""Connections beyond which a workload is not measured: of waiting, or of memory."""
_TEXTS = (16, 128, 48, 96, 32, 112, 64, 80)
"""Tokens of the encoder's texts, which take turns."""
_PIECES = 10
_LOOP = 0.5
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Case:
    """A body and its right answer."""

    body: bytes
    answer: list[float]


@dataclass(frozen=True)
class Workload:
    """What takes turns, and how many a core makes of it in a second without a server."""

    name: str
    cases: tuple[Case, ...]
    ceiling: float


def write_bodies(folder: Path) -> None:
    """The bodies of each workload as ``NAME-NUMBER.body``."""
    source = random.Random(0)
    image = array("f", (source.random() for _ in range(prod(IMAGE_SHAPE)))).tobytes()
    bodies = {
        "echo": [_values([1.5, 2.5, 3.5])],
        "mlp": [_values([round(source.random(), 3) for _ in range(64)])],
        "conv": [image],
        "encoder": [_values([source.randrange(1000) for _ in range(size)]) for size in _TEXTS],
        STREAM: [_values([number / 2 for number in range(_PIECES)])],
        "body-1mb": [bytes(10**6)],
        "body-16mb": [bytes(16 * 10**6)],
    }
    for name, each in bodies.items():
        for number, body in enumerate(each):
            (folder / f"{name}-{number}.body").write_bytes(body)


def _values(values: list[Any]) -> bytes:
    return json.dumps({"values": values}).encode()


def references(folder: Path, blocks: int, names: list[str]) -> dict[str, Workload]:
    """These workloads, with what the models answer without a server."""
    workloads = {}
    for name, found in _in_a_loop(folder, blocks, _LOOP, *names).items():
        bodies = [
            (folder / f"{name}-{number}.body").read_bytes()
            for number in range(len(found["answers"]))
        ]
        cases = tuple(map(Case, bodies, found["answers"]))
        workloads[name] = Workload(name, cases, found["rate"])
    return workloads


def loop_rate(folder: Path, blocks: int, name: str, seconds: float) -> float:
    """How many a core makes in a second now, without a server."""
    return float(_in_a_loop(folder, blocks, seconds, name)[name]["rate"])


def _in_a_loop(folder: Path, blocks: int, seconds: float, *only: str) -> dict[str, Any]:
    script = HERE / "peers" / "answers.py"
    done = subprocess.run(
        [str(python_of("base")), str(script), str(blocks), str(folder), str(seconds), *only],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        raise BenchmarkError(f"answers.py failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def plain(name: str, body: bytes) -> tuple[bytes, str]:
    """Body and content type as they are."""
    return body, "application/octet-stream" if name in RAW else "application/json"


def in_json(name: str, body: bytes) -> tuple[bytes, str]:
    """The same for a server without raw bodies: they are base64 in JSON."""
    if name not in RAW:
        return plain(name, body)
    return _values([base64.b64encode(body).decode()]), "application/json"


def in_rows(name: str, body: bytes) -> tuple[bytes, str]:
    """The same as a batch of one, where a batched model is asked for a batch."""
    content, content_type = in_json(name, body)
    if name not in BATCHES:
        return content, content_type
    rows = [json.loads(content)["values"]]
    return json.dumps({"values": rows}).encode(), content_type


def open_inference(name: str, body: bytes) -> tuple[bytes, str]:
    """In the Open Inference Protocol (V2)."""
    content = json.loads(in_json(name, body)[0])["values"]
    tensor = {
        "name": "values",
        "shape": [1, len(content)],
        "datatype": "BYTES" if name in RAW else "FP32",
        "data": content,
    }
    return json.dumps({"inputs": [tensor]}).encode(), "application/json"


def _numbers(answer: Any) -> list[float]:
    """Some answer ``{"answer": [...]}``, some V2, some a list, or a list of one of them."""
    if isinstance(answer, list):
        found: list[float] = answer[0] if isinstance(answer[0], list) else answer
    elif "outputs" in answer:
        found = answer["outputs"][0]["data"]
    else:
        found = answer["answer"]
    return found


def _pieces(content: bytes) -> list[float]:
    """Plain text, or Server-Sent Events of it."""
    return [float(each) for each in content.decode().replace("data:", " ").split()]


def check(name: str, case: Case, content: bytes) -> None:
    """BenchmarkError if this is not the right answer."""
    try:
        found = _pieces(content) if name == STREAM else _numbers(json.loads(content))
    except (ValueError, LookupError, TypeError) as exc:
        raise BenchmarkError(f"the answer makes no sense: {content[:200]!r}") from exc
    wanted = case.answer
    is_near = len(found) == len(wanted) and all(
        abs(one - two) <= _TOLERANCE * max(1.0, abs(two))
        for one, two in zip(found, wanted, strict=True)
    )
    if not is_near:
        raise BenchmarkError(f"the answer is {found} instead of {wanted}.")
