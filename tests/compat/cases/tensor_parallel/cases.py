"""A model in several ranks."""

from __future__ import annotations

from compat.case import Case, predict

CASES = (
    Case(
        "tensor_parallel",
        handler="tensor_parallel/handler.py",
        model_file="tensor_parallel/model.py",
        config_file="tensor_parallel/config.yaml",
        rounds=((predict(b"3"),), (predict(b"21"),)),
        exact=True,
    ),
)
