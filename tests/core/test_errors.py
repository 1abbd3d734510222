"""What errors say."""

from __future__ import annotations

import pytest

from flambeau.frontend.errors import sentence


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("RuntimeError: no weights", "RuntimeError: no weights."),
        ("It ended.", "It ended."),
        ("What?", "What?"),
    ],
)
def test_another_sentence_can_follow_a_reason(text: str, ended: str) -> None:
    assert sentence(text) == ended
