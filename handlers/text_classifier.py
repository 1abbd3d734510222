"""``TextClassifier``: one text for each request, the probability of each class for each text."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch

from ..worker.errors import PredictionException
from .explanations import class_to_explain
from .labels import map_class_to_label
from .rows import handle_readable, set_aside
from .text_handler import TextHandler
from .timer import timed
from .tokens import ngrams_iterator


class _Texts(tuple[torch.Tensor, Any]):
    """TorchServe's pair: numbers and tokens. Of several texts, all numbers and a list of tokens
    for each; ``offsets`` says where in the numbers each text begins.
    """

    offsets: list[int]


class TextClassifier(TextHandler):
    """Classifies texts with a model that takes token numbers and offsets, as EmbeddingBag does.

    Each answer maps label to probability, the classes in their order. A batch of several texts is
    one call of the model, with an offset for each text; TorchServe's text_classifier has batches of
    one text only. A text that cannot be read, or that has a word for which the vocabulary has
    neither a number nor ``<unk>``, is answered 400 and takes no other with it.
    """

    ngrams = 2

    def handle(self, data: Any, context: Any) -> Any:
        """Answer a batch; texts that cannot be read get a PredictionException as their answer."""
        return handle_readable(super().handle, data, context)

    @timed
    def preprocess(self, data: Any) -> Any:
        """The numbers of the texts' tokens and n-grams, on the device, and their tokens.

        Raises as ``VisionHandler.preprocess`` does when texts cannot be read.
        """
        tokens: list[list[str]] = []
        numbers: list[list[int]] = []
        refused: dict[int, PredictionException] = {}
        for index, row in enumerate(data):
            try:
                tokens.append(self._tokens(row))
                numbers.append([self._number(each) for each in self._ngrams(tokens[index])])
            except PredictionException as refusal:
                refused[index] = refusal
                # Some text must be in its place, so that row i stays row i.
                tokens[index:], numbers[index:] = [[]], [[0]]
        set_aside(data, refused)
        flat = torch.as_tensor([number for each in numbers for number in each], device=self.device)
        texts = _Texts((flat, tokens[0] if len(tokens) == 1 else tokens))
        texts.offsets = [0, *accumulate(map(len, numbers[:-1]))]
        return texts

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's output for numbers and offsets."""
        numbers, _ = data
        offsets = torch.as_tensor(getattr(data, "offsets", [0]), device=self.device)
        return super().inference(numbers, offsets)

    @timed
    def postprocess(self, data: Any) -> Any:
        """Label to probability for each row of logits."""
        return map_class_to_label(torch.softmax(data, dim=1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: Any = 0) -> Any:
        """How much each text's numbers speak for class ``target``: ``importances`` and ``words``.

        Raises PredictionException, 501, where captum is missing.
        """
        target = class_to_explain(target)
        numbers, words = text_preprocess
        offsets = getattr(text_preprocess, "offsets", [0])
        ends = [*offsets[1:], len(numbers)]
        all_words = [words] if len(offsets) == 1 else words
        start = torch.zeros(1, dtype=torch.long, device=self.device)
        insights = []
        for begin, end, own_words in zip(offsets, ends, all_words, strict=True):
            text = numbers[begin:end]
            attributions = self.lig.attribute(
                text, torch.zeros_like(text), additional_forward_args=start, target=target
            )
            importances = self.summarize_attributions(attributions).tolist()
            insights.append({"importances": importances, "words": self.get_word_token(own_words)})
        return insights

    def _tokens(self, row: Any) -> list[str]:
        text = row.get("data") or row.get("body")
        if isinstance(text, (bytes, bytearray)):
            try:
                text = text.decode()
            except UnicodeDecodeError:
                raise PredictionException("The request's text is not UTF-8", 400) from None
        if not isinstance(text, str):
            raise PredictionException(
                "The request has no text: send it as the body or in a field named 'data'", 400
            )
        text = self._remove_html_tags(text).lower()
        text = self._remove_accented_characters(self._expand_contractions(text))
        tokens = self._tokenize(self._remove_punctuation(text))
        if not tokens:
            raise PredictionException("The request's text has no words", 400)
        return tokens

    def _number(self, token: str) -> int:
        for each in (token, "<unk>"):
            try:
                number: int = self.source_vocab[each]
            except (KeyError, RuntimeError):
                # Vocabularies are dicts, or objects of torchtext, which raise RuntimeError.
                continue
            return number
        raise PredictionException(
            f"The model's vocabulary has no number for {token[:50]!r}, and no '<unk>'", 400
        )

    def _ngrams(self, tokens: list[str]) -> list[str]:
        return list(ngrams_iterator(tokens, self.ngrams))
