"""A tiny BERT of Hugging Face."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from compat.case import Case, predict
from compat.weights import spread
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path


def bert(path: Path) -> None:
    """The weights of a BERT of one narrow layer; cases/transformer/config.json has its sizes."""
    wide, narrow = 32, 16
    square, layer = ((narrow, narrow), (narrow,)), "bert.encoder.layer.0."
    linears = {
        layer + "attention.self.query": square,
        layer + "attention.self.key": square,
        layer + "attention.self.value": square,
        layer + "attention.output.dense": square,
        layer + "intermediate.dense": ((wide, narrow), (wide,)),
        layer + "output.dense": ((narrow, wide), (narrow,)),
        "bert.pooler.dense": square,
        "classifier": ((2, narrow), (2,)),
    }
    shapes = {
        f"bert.embeddings.{name}_embeddings.weight": (count, narrow)
        for name, count in (("word", 24), ("position", 32), ("token_type", 2))
    }
    for name, (weight, bias) in linears.items():
        shapes |= {f"{name}.weight": weight, f"{name}.bias": bias}
    made = {name: spread(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    for name in ("attention.output", "output"):
        made[f"{layer}{name}.LayerNorm.weight"] = torch.ones(narrow)
        made[f"{layer}{name}.LayerNorm.bias"] = torch.zeros(narrow)
    made["bert.embeddings.LayerNorm.weight"] = torch.ones(narrow)
    made["bert.embeddings.LayerNorm.bias"] = torch.zeros(narrow)
    save_file(made, path, metadata={"format": "pt"})


def sent(text: str, target: int) -> bytes:
    return json.dumps({"text": text, "target": target}).encode()


ECONOMY = sent("Bloomberg has reported on the economy.", 1)

CASES = (
    Case(
        "transformer",
        handler="transformer/handler.py",
        serialized_file="model.safetensors",
        config_file="transformer/config.yaml",
        extra_files=tuple(
            f"transformer/{name}"
            for name in ("config.json", "tokenizer_config.json", "vocab.txt", "index_to_name.json")
        ),
        generated={"model.safetensors": bert},
        rounds=(
            (predict(ECONOMY),),
            (
                predict(ECONOMY),
                predict(sent("What will business be?", 0)),
            ),
            (predict(ECONOMY, path="/explanations/{case}"),),
        ),
    ),
)
