"""A handler that loads its model in a way of its own."""

from __future__ import annotations

from compat.case import Case, one_by_one, predict
from compat.cases.mnist.cases import CLIENT
from compat.inputs import picture
from compat.weights import state_of

CASES = (
    Case(
        "vgg",
        handler="vgg/handler.py",
        model_file="vgg/model.py",
        serialized_file="model.pt",
        generated={"model.pt": state_of("vgg/model.py")},
        extra_files=("tiny_classifier/index_to_name.json",),
        rounds=one_by_one(predict(picture(1)), predict(b"no image", ours=400, why=CLIENT)),
    ),
)
