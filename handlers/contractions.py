"""English contractions and what they are short for.

Models were trained on texts that TorchServe had expanded, so the table has what its table has and
no more: ``that'll``, for one, is not in it.
"""

from __future__ import annotations

import re

_ENDINGS = {
    "'d": ("would", "he I i it she that there they we you"),
    "'d've": ("would have", "he I i it she that there they we you"),
    "'ll": ("will", "he how I i it she they we what who you"),
    "'ll've": ("will have", "he I i it she they we what who you"),
    "'m": ("am", "I i"),
    "'re": ("are", "they we what you"),
    "'s": ("is", "he how it she that there what when where who why"),
    "'ve": (
        "have",
        "could I i might must should so they to we what when where who why will would you",
    ),
    "n't": (
        "not",
        "are could did does do had has have is may might must need ought should was were would",
    ),
    "n't've": ("not have", "could had might must need ought should would"),
}
_ODD = {
    "ain't": "is not",
    "can't": "cannot",
    "can't've": "cannot have",
    "'cause": "because",
    "how'd": "how did",
    "how'd'y": "how do you",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "shan't": "shall not",
    "shan't've": "shall not have",
    "sha'n't": "shall not",
    "so's": "so as",
    "where'd": "where did",
    "won't": "will not",
    "won't've": "will not have",
    "y'all": "you all",
    "y'all'd": "you all would",
    "y'all'd've": "you all would have",
    "y'all're": "you all are",
    "y'all've": "you all have",
}

CONTRACTION_MAP = {
    f"{word}{ending}": f"{word} {meaning}"
    for ending, (meaning, words) in _ENDINGS.items()
    for word in words.split()
} | _ODD
"""Contraction to full form."""

# Where one contraction begins as another does, the first match counts: the shorter stands first,
# as in TorchServe, and what is left of the longer one stays as it is.
_PATTERN = re.compile(
    "|".join(re.escape(each) for each in sorted(CONTRACTION_MAP, key=len)),
    re.IGNORECASE | re.ASCII,
)


def expand_contractions(text: str) -> str:
    """The text with contractions in full and without apostrophes.

    The first letter stays that of the contraction, also where the full form begins otherwise: such
    are the words that models were trained on.
    """
    return _PATTERN.sub(_in_full, text).replace("'", "")


def _in_full(match: re.Match[str]) -> str:
    found = match.group()
    full = CONTRACTION_MAP.get(found) or CONTRACTION_MAP[found.lower()]
    return found[0] + full[1:]
