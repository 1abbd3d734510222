"""Sequences of requests whose state the handler keeps."""

from __future__ import annotations

from compat.case import Ask, Case, predict
from compat.weights import state_of


def in_sequence(identity: str, number: int, start: bool = False) -> Ask:
    headers = {"ts_request_sequence_id": identity}
    if start:
        headers["ts_request_sequence_start"] = "true"
    return predict(str(number).encode(), headers=headers)


CASES = (
    Case(
        "stateful",
        handler="stateful/handler.py",
        config_file="stateful/config.yaml",
        extra_files=("stateful/lru.py",),
        model_file="mnist/mnist.py",
        serialized_file="mnist_cnn.pt",
        generated={"mnist_cnn.pt": state_of("mnist/mnist.py")},
        rounds=(
            (in_sequence("one", 1),),
            (in_sequence("one", 2), in_sequence("two", 10)),
            (in_sequence("one", 3),),
            (in_sequence("two", 20),),
            (predict(b"7"),),
        ),
        exact=True,
    ),
)
