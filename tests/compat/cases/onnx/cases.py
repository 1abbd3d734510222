"""An ONNX program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat.case import Case, one_by_one, predict
from onnx import TensorProto, helper, save

if TYPE_CHECKING:
    from pathlib import Path


def identity(path: Path) -> None:
    """An ONNX program of one node, which gives what it gets."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1])
        for name in ("modelInput", "modelOutput")
    ]
    node = helper.make_node("Identity", ["modelInput"], ["modelOutput"])
    graph = helper.make_graph([node], "identity", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    save(model, str(path))


CASES = (
    Case(
        "onnx",
        handler="onnx/handler.py",
        serialized_file="model.onnx",
        generated={"model.onnx": identity},
        rounds=one_by_one(predict(b"2.5")),
    ),
)
