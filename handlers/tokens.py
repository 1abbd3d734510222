"""From a line of text to its tokens and n-grams, as torchtext made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_APART = {mark: f" {mark} " for mark in "'.,()!?"}
_PUNCTUATION = str.maketrans({**_APART, ";": " ", ":": " "})


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """The tokens, then two of them in a row joined by a blank, up to ``ngrams`` in a row."""
    yield from token_list
    for length in range(2, ngrams + 1):
        for start in range(len(token_list) - length + 1):
            yield " ".join(token_list[start : start + length])


def get_tokenizer(
    tokenizer: str | Callable[[str], list[str]] | None, language: str = "en"
) -> Callable[[str], list[str]]:
    """A function from a line to its tokens.

    None splits at white space; ``basic_english`` lowers the case and sets punctuation apart, too; a
    callable is used as it is. Raises ValueError for any other name or language.
    """
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        return tokenizer
    if tokenizer != "basic_english":
        raise ValueError(
            f"There is no tokenizer {tokenizer!r}: give 'basic_english', None, or a function from "
            "a line to a list of tokens"
        )
    if language != "en":
        raise ValueError("The tokenizer 'basic_english' is for English (en) only")
    return _basic_english


def _basic_english(line: str) -> list[str]:
    without_quotes = line.lower().replace('"', "")
    return without_quotes.replace("<br />", " ").translate(_PUNCTUATION).split()
