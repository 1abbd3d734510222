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
from peers.sizes import BATCHES, RAW

if TYPE_CHECKING:
    from pathlib import Path

WORKLOADS = ("echo", "mlp", "conv", "encoder", "body-1mb", "body-16mb")
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Workload:
    """One workload's body, right answer, and how many a core makes in a second without a server."""

    name: str
    body: bytes
    answer: list[float]
    ceiling: float


def write_bodies(folder: Path) -> None:
    """The body of each workload as ``NAME.body``."""
    source = random.Random(0)
    image = array("f", (source.random() for _ in range(prod(IMAGE_SHAPE)))).tobytes()
    tokens = [source.randrange(1000) for _ in range(48)]
    bodies = {
        "echo": _values([1.5, 2.5, 3.5]),
        "mlp": _values([round(source.random(), 3) for _ in range(64)]),
        "conv": image,
        "encoder": _values(tokens),
        "body-1mb": bytes(10**6),
        "body-16mb": bytes(16 * 10**6),
    }
    for name, body in bodies.items():
        (folder / f"{name}.body").write_bytes(body)


def _values(values: list[Any]) -> bytes:
    return json.dumps({"values": values}).encode()


def references(folder: Path, blocks: int) -> dict[str, Workload]:
    """All workloads, with what the models answer without a server."""
    script = HERE / "peers" / "answers.py"
    done = subprocess.run(
        [str(python_of("base")), str(script), str(blocks), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        raise BenchmarkError(f"answers.py failed: {done.stderr.strip()}")
    return {
        name: Workload(name, (folder / f"{name}.body").read_bytes(), found["answer"], found["rate"])
        for name, found in json.loads(done.stdout).items()
    }


def plain(workload: Workload) -> tuple[bytes, str]:
    """Body and content type as they are."""
    is_raw = workload.name in RAW
    return workload.body, "application/octet-stream" if is_raw else "application/json"


def in_json(workload: Workload) -> tuple[bytes, str]:
    """The same for a server without raw bodies: they are base64 in JSON."""
    if workload.name not in RAW:
        return plain(workload)
    return _values([base64.b64encode(workload.body).decode()]), "application/json"


def in_rows(workload: Workload) -> tuple[bytes, str]:
    """The same as a batch of one, where a batched model is asked for a batch."""
    content, content_type = in_json(workload)
    if workload.name not in BATCHES:
        return content, content_type
    rows = [json.loads(content)["values"]]
    return json.dumps({"values": rows}).encode(), content_type


def open_inference(workload: Workload) -> tuple[bytes, str]:
    """In the Open Inference Protocol (V2)."""
    content = json.loads(in_json(workload)[0])["values"]
    tensor = {
        "name": "values",
        "shape": [1, len(content)],
        "datatype": "BYTES" if workload.name in RAW else "FP32",
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


def check(workload: Workload, content: bytes) -> None:
    """BenchmarkError if this is not the right answer."""
    try:
        answer = json.loads(content)
        found = _numbers(answer)
    except (ValueError, LookupError, TypeError) as exc:
        raise BenchmarkError(f"the answer makes no sense: {content[:200]!r}") from exc
    wanted = workload.answer
    is_near = len(found) == len(wanted) and all(
        abs(one - two) <= _TOLERANCE * max(1.0, abs(two))
        for one, two in zip(found, wanted, strict=True)
    )
    if not is_near:
        raise BenchmarkError(f"the answer is {found} instead of {wanted}.")
