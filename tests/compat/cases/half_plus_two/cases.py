"""A model that is compiled, as each form of ``pt2`` says it."""

from __future__ import annotations

import torch
from compat.case import Case, predict

FORMS = ("pt2", "pt2_dict", "pt2_enable_default", "pt2_enable_false", "pt2_enable_true")

CASES = tuple(
    Case(
        f"compiled_{form}",
        handler="half_plus_two/handler.py",
        model_file="half_plus_two/model.py",
        serialized_file="model.pt",
        config_file=f"half_plus_two/{form}.yaml",
        generated={"model.pt": lambda path: torch.save({}, path)},
        rounds=((predict({"instances": [[1.0], [2.0], [3.0]]}),),),
    )
    for form in FORMS
)
