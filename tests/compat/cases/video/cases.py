"""Several images in one request."""

from __future__ import annotations

from compat.case import Case, one_by_one, predict
from compat.cases.tiny_classifier.cases import EAGER
from compat.inputs import base64_of, picture

CASES = (
    Case(
        "video",
        handler="video/handler.py",
        rounds=one_by_one(
            predict({"0": base64_of(picture(0)), "1": base64_of(picture(1))}),
            predict({"only": base64_of(picture(2))}),
        ),
        **EAGER,
    ),
)
