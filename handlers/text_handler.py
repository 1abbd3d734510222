"""``TextHandler``: the vocabulary of a text model, and what is done to text before it."""

from __future__ import annotations

import pickle
import string
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .base import BaseHandler
from .contractions import expand_contractions
from .explanations import captum_attr
from .markup import without_markup
from .tokens import get_tokenizer
from .weights import read_pickle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextHandler(BaseHandler):
    """Base of handlers whose input is a text for each request.

    ``source_vocab`` maps tokens to numbers. It is read from ``source_vocab.pt`` in the archive,
    which ``torch.save`` has made of a dict, under the same rule as the model's weights: without
    running code from it, unless ``model-config.yaml`` says ``weights_only: false``.

    For explanations (``lig``, made when it is first asked for) the model has a layer ``embedding``.
    """

    # Subclasses that never call super().__init__() find these.
    source_vocab: Any = None
    input_text: Any = None
    tokenizer: Callable[[str], list[str]] = staticmethod(get_tokenizer("basic_english"))

    def initialize(self, context: Any) -> None:
        """Load the model, then the vocabulary.

        Raises RuntimeError for what BaseHandler does, and for a vocabulary that is missing or
        cannot be read.
        """
        super().initialize(context)
        self.initialized = False
        self.source_vocab = self._read_vocabulary(self._vocabulary_path(context))
        self.initialized = True

    @cached_property
    def lig(self) -> Any:
        return captum_attr().LayerIntegratedGradients(self.model, self.model.embedding)

    def get_source_vocab_path(self, ctx: Any) -> str:
        """Where the archive's ``source_vocab.pt`` is; raises RuntimeError if it has none."""
        path = Path(ctx.system_properties.get("model_dir")) / "source_vocab.pt"
        if not path.is_file():
            raise RuntimeError(
                "Missing the source_vocab file. Put the vocabulary, saved with torch.save, into "
                "the archive: 'flambeau archive --extra-files source_vocab.pt'."
            )
        return str(path)

    def _vocabulary_path(self, context: Any) -> str:
        named = self.manifest["model"].get("sourceVocab")
        if not named:
            return self.get_source_vocab_path(context)
        # Old archives name the file, from the archive's folder on.
        folder = Path(context.system_properties.get("model_dir")).resolve()
        path = (folder / named).resolve()
        if not path.is_relative_to(folder) or not path.is_file():
            raise RuntimeError("The manifest's sourceVocab names no file of the archive")
        return str(path)

    def _read_vocabulary(self, path: str) -> Any:
        try:
            return read_pickle(path, self.device, self.model_yaml_config)
        except RuntimeError as error:
            if not isinstance(error.__cause__, pickle.UnpicklingError):
                raise
            raise RuntimeError(
                f"{Path(path).name} holds more than a dict of numbers, and reading that would run "
                "code from it. Save a plain dict: torch.save({token: number, ...}); or, if you "
                "trust the archive, put 'handler: {weights_only: false}' into its "
                "model-config.yaml."
            ) from error.__cause__

    def _expand_contractions(self, text: str) -> str:
        return expand_contractions(text)

    def _remove_accented_characters(self, text: str) -> str:
        """Letters without their accents; what is then not ASCII is dropped."""
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        """The text without tags and entities of HTML."""
        return without_markup(text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_NO_PUNCTUATION)

    def _remove_puncutation(self, *args: Any, **kwargs: Any) -> str:
        """TorchServe's first name for ``_remove_punctuation``, which handlers call still."""
        return self._remove_punctuation(*args, **kwargs)

    def _tokenize(self, text: str) -> list[str]:
        return self.tokenizer(text)

    def get_word_token(self, input_tokens: Iterable[str]) -> list[str]:
        """The tokens without the sign that byte-pair encodings write for a blank."""
        return [token.replace("Ġ", "") for token in input_tokens]

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        """Attributions as shares, over the length of the vector of their sums."""
        # The dimension is the one that softmax used to choose when it was given none.
        shares = torch.softmax(attributions, dim=0 if attributions.dim() in (0, 1, 3) else 1)
        length: torch.Tensor = torch.linalg.vector_norm(shares.sum(dim=-1))
        return shares / length
