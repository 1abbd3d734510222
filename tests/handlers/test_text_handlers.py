"""Texts in, probabilities out; the cleaning is TorchServe's, to the letter."""

from __future__ import annotations

import collections
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flambeau.handlers.contractions import CONTRACTION_MAP, expand_contractions
from flambeau.handlers.markup import CLEANUP_REGEX, without_markup
from flambeau.handlers.text_classifier import TextClassifier
from flambeau.handlers.text_handler import TextHandler
from flambeau.handlers.tokens import get_tokenizer, ngrams_iterator
from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

MODEL = """
import torch
class TextNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(50, 4)
        self.fc = torch.nn.Linear(4, 2)
        weights = torch.arange(208.0).sin()
        with torch.no_grad():
            self.embedding.weight.copy_(weights[:200].view(50, 4))
            self.fc.weight.copy_(weights[200:].view(2, 4))
            self.fc.bias.zero_()
    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))
"""
WORDS = ["i", "do", "not", "like", "rain", "cafe", "i do", "do not", "not like", "like rain"]
VOCABULARY = {word: number for number, word in enumerate(WORDS, 1)}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "textnet.py").write_text(MODEL)
    (tmp_path / "index_to_name.json").write_text('{"0": "sad", "1": "glad"}')
    torch.save(VOCABULARY, tmp_path / "source_vocab.pt")
    return make_context(tmp_path)


def make_context(folder: Path, config: Any = None, **more: str) -> Context:
    manifest = {"model": {"modelFile": "textnet.py", **more}}
    return Context("m", str(folder), manifest, 8, None, "0.12.0", True, Metrics("m"), config or {})


def answers(context: Context, *values: object, explain: bool = False) -> list[Any]:
    handler = TextClassifier()
    handler.initialize(context)
    headers = [{"explain": str(explain)} for _ in values]
    context.begin_batch([str(index) for index in range(len(values))], headers)
    return handler.handle([{"body": value} for value in values], context)  # type: ignore[no-any-return]


def model() -> Any:
    scope: dict[str, Any] = {}
    exec(MODEL, scope)  # noqa: S102 - the text above
    return scope["TextNet"]()


def test_a_text_is_cleaned_split_and_answered_for_each_class(context: Context) -> None:
    numbers = [VOCABULARY[each] for each in ngrams_iterator(["i", "do", "not", "like", "rain"], 2)]
    expected = torch.softmax(model()(torch.tensor(numbers), torch.tensor([0])), 1)[0].tolist()
    found = answers(context, bytearray("<b>I</b> don't&nbsp; LÏKE, <br /> rain!".encode()))
    assert found == [{"sad": pytest.approx(expected[0]), "glad": pytest.approx(expected[1])}]


def test_a_batch_has_the_answers_that_each_text_has_alone(context: Context) -> None:
    texts = ["do not like rain", b"i do", "rain"]
    together = answers(context, *texts)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = answers(context, text)
        assert answer == {label: pytest.approx(value) for label, value in alone.items()}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\xff\xfe", "not UTF-8"),
        ({"text": "rain"}, "no text"),
        (None, "no text"),
        (bytearray(), "no"),
        ("<b></b> ...", "no words"),
        ("snow", "no number for 'snow'"),
        ("rain cafe", "no number for 'rain cafe'"),
    ],
)
def test_a_bad_text_costs_only_its_own_client(context: Context, bad: Any, reason: str) -> None:
    first, second, third = answers(context, "rain", bad, "i do")
    assert [first] == answers(context, "rain")
    assert set(third) == {"sad", "glad"}
    assert isinstance(second, PredictionException)
    assert second.error_code == 400
    assert reason in second.message
    (alone,) = answers(context, bad)
    assert alone.message == second.message


def test_unknown_words_have_the_number_that_the_vocabulary_keeps_for_them(
    context: Context, tmp_path: Path
) -> None:
    torch.save({**VOCABULARY, "<unk>": 0}, tmp_path / "source_vocab.pt")
    (answer,) = answers(context, "snow")
    assert set(answer) == {"sad", "glad"}


def test_preprocess_alone_gives_torchserves_pair(context: Context) -> None:
    handler = TextClassifier()
    handler.initialize(context)
    numbers, tokens = handler.preprocess([{"body": "I do"}])
    assert (numbers.tolist(), tokens) == ([1, 2, 7], ["i", "do"])
    assert handler.inference((numbers, tokens)).shape == (1, 2)
    with pytest.raises(PredictionException, match="no words"):
        handler.preprocess([{"body": "."}])


def test_a_missing_vocabulary_is_said(context: Context, tmp_path: Path) -> None:
    (tmp_path / "source_vocab.pt").unlink()
    with pytest.raises(RuntimeError, match="Missing the source_vocab file"):
        TextHandler().initialize(context)


def test_a_vocabulary_that_would_run_code_is_refused_unless_the_archive_asks(
    context: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vocabulary = collections.defaultdict(int, VOCABULARY)
    torch.save(vocabulary, tmp_path / "source_vocab.pt")
    with pytest.raises(RuntimeError, match=r"source_vocab.pt holds more .* plain dict"):
        TextHandler().initialize(context)
    handler = TextHandler()
    handler.initialize(make_context(tmp_path, {"handler": {"weights_only": False}}))
    assert handler.source_vocab == vocabulary
    assert "source_vocab.pt is read with weights_only: false" in caplog.text


def test_an_old_manifest_names_the_vocabulary_inside_the_archive_only(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "source_vocab.pt").rename(tmp_path / "words.pt")
    handler = TextHandler()
    handler.initialize(make_context(tmp_path, sourceVocab="words.pt"))
    assert handler.source_vocab == VOCABULARY
    torch.save(VOCABULARY, tmp_path.parent / "outside.pt")
    for outside in ("../outside.pt", str(tmp_path.parent / "outside.pt"), "missing.pt"):
        with pytest.raises(RuntimeError, match="names no file of the archive"):
            TextHandler().initialize(make_context(tmp_path, sourceVocab=outside))


def test_a_subclass_without_super_init_has_its_tokenizer_and_helpers() -> None:
    class Own(TextHandler):
        def __init__(self) -> None:
            pass

    handler = Own()
    assert handler._tokenize("Don't (stop)!") == ["don", "'", "t", "(", "stop", ")", "!"]
    assert handler._remove_puncutation("a.b!") == "ab"
    assert handler._remove_accented_characters("Çañón 雨") == "Canon "
    assert handler._remove_html_tags("<p>a&amp;b") == "ab"
    assert handler._expand_contractions("it's") == "it is"
    assert handler.get_word_token(["Ġa", "b"]) == ["a", "b"]
    assert handler.source_vocab is None


def test_attributions_are_shares_over_the_length_of_their_sums() -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    found = TextHandler().summarize_attributions(values)
    assert torch.allclose(found, torch.full((2, 2), 0.5 / 2**0.5))


def test_contractions_are_those_that_models_were_trained_on() -> None:
    assert len(CONTRACTION_MAP) == 123
    assert CONTRACTION_MAP["won't"] == "will not"
    assert CONTRACTION_MAP["I've"] == "I have"
    assert expand_contractions("We won't; YOU'RE he'd've that'll") == (
        "We will not; You are he wouldve thatll"
    )
    # The letters of TorchServe, odd as they are.
    assert expand_contractions("ain't 'cause") == "as not ecause"
    assert expand_contractions("ſhe's") == "ſhe is"


def test_tokenizers() -> None:
    assert get_tokenizer(None)("a  b") == ["a", "b"]
    assert get_tokenizer(str.upper)("a") == "A"  # type: ignore[arg-type, comparison-overlap]
    basic = get_tokenizer("basic_english")
    assert basic('A "b"<br />c; d: (e)') == ["a", "b", "c", "d", "(", "e", ")"]
    with pytest.raises(ValueError, match="no tokenizer 'spacy'"):
        get_tokenizer("spacy")
    with pytest.raises(ValueError, match="English"):
        get_tokenizer("basic_english", "de")


def test_ngrams() -> None:
    assert list(ngrams_iterator(["a", "b", "c"], 3)) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert list(ngrams_iterator([], 2)) == []


@given(st.text(alphabet="<>&;#xa1\n "))
def test_markup_is_taken_out_as_the_pattern_does(text: str) -> None:
    assert without_markup(text) == CLEANUP_REGEX.sub("", text)


def test_markup_that_never_ends_takes_no_time() -> None:
    started = time.perf_counter()
    assert without_markup("<" * 1_000_000) == "<" * 1_000_000
    assert re.fullmatch(r"b<+", without_markup("<" * 500_000 + ">b" + "<" * 500_000))
    assert time.perf_counter() - started < 5
