"""The built-in image classifier."""

from __future__ import annotations

from typing import Any

from compat.case import Case, form, one_by_one, predict
from compat.inputs import base64_of, picture
from compat.weights import script_of, state_of

EAGER: dict[str, Any] = {
    "model_file": "tiny_classifier/model.py",
    "serialized_file": "model.pt",
    "generated": {"model.pt": state_of("tiny_classifier/model.py")},
    "extra_files": ("tiny_classifier/index_to_name.json",),
}
SCRIPTED: dict[str, Any] = {
    "handler": "image_classifier",
    "serialized_file": "model.pt",
    "generated": {"model.pt": script_of("tiny_classifier/model.py")},
}

CASES = (
    Case(
        "image_classifier",
        config_file="tiny_classifier/batch.yaml",
        extra_files=("tiny_classifier/index_to_name.json",),
        rounds=(
            tuple(predict(picture(seed)) for seed in range(3)),
            (form({"data": picture(3, 500, 400)}),),
            (predict(picture(4, 224, 256), "image/png"),),
            (predict(base64_of(picture(5)), "text/plain"),),
        ),
        **SCRIPTED,
    ),
    Case("image_classifier_numbers", rounds=one_by_one(predict(picture(6))), **SCRIPTED),
)
