"""A batch that goes through the stages in slices."""

from __future__ import annotations

from compat.case import Case, predict
from compat.cases.tiny_classifier.cases import EAGER
from compat.inputs import picture

CASES = (
    Case(
        "micro_batching",
        handler="micro_batching/handler.py",
        config_file="micro_batching/config.yaml",
        rounds=(tuple(predict(picture(seed)) for seed in range(5)), (predict(picture(7)),)),
        **EAGER,
    ),
)
