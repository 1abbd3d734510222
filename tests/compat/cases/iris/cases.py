"""A model that is not of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from compat.case import Case, form, predict
from sklearn.datasets import load_iris

if TYPE_CHECKING:
    from pathlib import Path


def flowers(path: Path) -> None:
    """What scikit-learn brings along."""
    data = load_iris()
    np.savez(path, data=data.data, target=data.target)


CASES = (
    Case(
        "iris",
        handler="iris/handler.py",
        serialized_file="iris.npz",
        config_file="iris/config.yaml",
        extra_files=("iris/index_to_name.json",),
        generated={"iris.npz": flowers},
        rounds=(
            (predict(b"5.1,3.5,1.4,0.2"), predict(b"6.7,3.0,5.2,2.3")),
            (form({"data": b"5.7,2.8,4.1,1.3"}),),
            # Text comes as str, which this handler does not take.
            (predict(b"5.1,3.5,1.4,0.2", "text/plain"),),
        ),
        exact=True,
    ),
)
