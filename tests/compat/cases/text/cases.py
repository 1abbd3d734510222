"""The built-in text classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from compat.case import Case, form, predict
from compat.weights import state_of

if TYPE_CHECKING:
    from pathlib import Path

    from compat.case import Ask

WORDS = ["bloomberg", "has", "reported", "on", "the", "economy", "it", "is", "not", "bad"]
WORDS += ["good", "sports", "win"]
SENTENCES = (
    "Bloomberg has <b>reported</b> on the Économy!",
    "It isn't bad.",
    "good sports win",
)
TOKENS = ("bloomberg has reported on the economy", "it is not bad", "good sports win")


def vocabulary(path: Path) -> None:
    """Each word and each pair of neighbours in the sentences, to its number."""
    pairs = [
        f"{one} {other}"
        for sentence in TOKENS
        for one, other in zip(sentence.split(), sentence.split()[1:], strict=False)
    ]
    torch.save({token: index for index, token in enumerate([*WORDS, *pairs])}, path)


def text(name: str, *rounds: tuple[Ask, ...], **more: Any) -> Case:
    return Case(
        name,
        handler="text_classifier",
        model_file="text/model.py",
        serialized_file="model.pt",
        extra_files=("text/index_to_name.json",),
        generated={"model.pt": state_of("text/model.py"), "source_vocab.pt": vocabulary},
        rounds=rounds,
        **more,
    )


CASES = (
    text(
        "text_classifier",
        *((predict(sentence.encode()),) for sentence in SENTENCES),
        (predict(SENTENCES[2], "text/plain"),),
        (form({"data": SENTENCES[1].encode()}),),
        (
            predict(
                b"words that nobody knows", ours=400, why="the client's text, and nobody else's"
            ),
        ),
        (predict(SENTENCES[0].encode(), path="/explanations/{case}"),),
    ),
    text(
        "text_classifier_batch",
        tuple(
            predict(sentence.encode(), ours=200, why="a batch is answered, too")
            for sentence in SENTENCES[1:]
        ),
        config_file="text/batch.yaml",
    ),
)
