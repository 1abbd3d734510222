"""``pt2`` in a configuration: what is compiled, and how."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau.handlers.base import BaseHandler
from flambeau.handlers.compile import compile_model, compile_options, uses_aot_compile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flambeau.worker.context import Context


@pytest.mark.parametrize(
    ("pt2", "options", "logged"),
    [
        ({"compile": {"enable": True}}, {}, ""),
        (
            {"compile": {"enable": True, "backend": "inductor", "mode": "max-autotune"}},
            {"backend": "inductor", "mode": "max-autotune"},
            "",
        ),
        ({"compile": {"enable": True, "options": {"a": 1}}}, {"options": {"a": 1}}, ""),
        ({"compile": {"enable": False, "backend": "inductor"}}, None, ""),
        ({"compile": {"enable": True, "backend": "steam"}}, None, "steam is not a supported"),
        ("inductor", {"backend": "inductor"}, "deprecated"),
        ("steam", None, "steam is not a supported"),
        ({"backend": "aot_eager", "mode": "x"}, {"backend": "aot_eager", "mode": "x"}, "deprec"),
        ({"export": {"aot_compile": True}}, None, ""),
    ],
)
def test_each_form_of_pt2(
    pt2: Any, options: dict[str, Any] | None, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"pt2": pt2}
    before = copy.deepcopy(config)
    assert compile_options(config) == options
    assert config == before
    assert logged in caplog.text
    assert bool(logged) == bool(caplog.records)


@pytest.mark.parametrize("config", [None, {}, {"handler": {}}])
def test_without_pt2_nothing_is_compiled(config: Any) -> None:
    assert compile_options(config) is None
    assert not uses_aot_compile(config)


@pytest.mark.parametrize(
    ("pt2", "message"),
    [
        (7, "pt2 should be str or dict"),
        (None, "pt2 should be str or dict"),
        ({"compile": {"backend": "inductor"}}, "enable that is true or false"),
        ({"compile": {"enable": "yes"}}, "enable that is true or false"),
        ({"compile": None}, "enable that is true or false"),
    ],
)
def test_what_makes_no_sense_is_refused(pt2: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_options({"pt2": pt2})


def test_a_refusal_of_torchs_leaves_the_model_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = torch.nn.Identity()
    assert compile_model(model, {"mode": "default", "options": {"a": 1}}) is model
    assert "it runs as it is" in caplog.text


def test_a_compiled_model_answers(tmp_path: Path, make_context: Callable[..., Context]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nclass Half(torch.nn.Module):\n    def forward(self, x): return x / 2 + 2\n"
    )
    config = {"pt2": {"compile": {"enable": True, "backend": "eager"}}}
    context = make_context(config, modelFile="net.py")
    handler = BaseHandler()
    handler.initialize(context)
    assert hasattr(handler.model, "_orig_mod")
    assert handler.handle([[1.0, 2.0, 3.0]], context) == [[2.5, 3.0, 3.5]]
    torch.compiler.reset()
