"""The namespace ``ts``: what handlers written for TorchServe import."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.frontend.metric_lines import parse_metric_line
from flambeau.handlers.base import BaseHandler
from flambeau.worker.compat import finder, install
from flambeau.worker.compat.names import MODULES, REFUSED
from flambeau.worker.context import Context
from flambeau.worker.loader import HandlerLoadError, load_entry_point
from flambeau.worker.metrics import Dimension, Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _python_as_before() -> Iterator[None]:
    path, finders, modules = list(sys.path), list(sys.meta_path), set(sys.modules)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in ("ts", "handler", "old"):
            del sys.modules[name]


@pytest.fixture
def ts(tmp_path: Path) -> None:
    install(tmp_path)


@pytest.mark.parametrize("name", sorted(MODULES))
@pytest.mark.usefixtures("ts")
def test_every_module_has_its_names(name: str) -> None:
    module = importlib.import_module(name)
    assert {each for each in MODULES[name] if not hasattr(module, each)} == set()
    assert module.__name__ == name


@pytest.mark.usefixtures("ts")
def test_names_are_flambeaus_own() -> None:
    from ts.torch_handler import base_handler  # type: ignore[import-not-found]
    from ts.torch_handler.base_handler import BaseHandler as Base  # type: ignore[import-not-found]
    from ts.utils.util import PredictionException  # type: ignore[import-not-found]

    assert Base is base_handler.BaseHandler is BaseHandler
    assert str(PredictionException("no", 400)) == "no : 400"
    ts = sys.modules["ts"]
    assert ts.__version__ == ts.version.__version__ == "0.12.0"


def test_outside_a_worker_there_is_no_ts() -> None:
    code = "import flambeau.worker.main, sys; sys.exit('ts' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ts")


def test_outside_a_worker_ts_can_be_installed() -> None:
    install()
    assert importlib.import_module("ts.context").Context is Context


def test_an_archives_own_ts_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "ts.py").write_text("mine = 1")
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path)
    assert importlib.import_module("ts").mine == 1
    assert "brings a module ts of its own" in caplog.text


def test_an_installed_torchserve_is_not_used_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = tmp_path / "site"
    (site / "ts").mkdir(parents=True)
    (site / "ts" / "__init__.py").write_text("__version__ = 'theirs'")
    monkeypatch.syspath_prepend(site)
    install(tmp_path)
    install(tmp_path)
    assert importlib.import_module("ts").__version__ == "0.12.0"
    assert caplog.text.count("Uninstall torchserve") == 1
    assert sum(isinstance(each, finder.TorchServeFinder) for each in sys.meta_path) == 1


HANDLER = """
from abc import ABC

import torch
from ts.context import Context
from ts.handler_utils.timer import timed
from ts.metrics.dimension import Dimension
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException, load_label_mapping

class Doubler(BaseHandler, ABC):
    def __init__(self):
        self.calls = 0

    def initialize(self, context: Context):
        self.initialized = True
        self.device = torch.device("cpu")
        self.model = lambda x: 2 * x

    @timed
    def preprocess(self, data):
        self.calls += 1
        return torch.tensor([row["body"] for row in data])

    def postprocess(self, data):
        self.context.metrics.add_counter("Calls", self.calls, None, [Dimension("Kind", "test")])
        return data.tolist()
"""


def load(tmp_path: Path, text: str) -> tuple[Any, Context]:
    (tmp_path / "handler.py").write_text(text)
    context = Context("m", str(tmp_path), None, 2, None, "0.12.0", True, Metrics("m"), {})
    context.begin_batch(["a", "b"], [{}, {}])
    return load_entry_point("handler.py", tmp_path, context), context


@pytest.mark.usefixtures("ts")
def test_a_handler_as_people_write_them(tmp_path: Path) -> None:
    entry_point, context = load(tmp_path, HANDLER)
    assert entry_point([{"body": [1.0]}, {"body": [2.5]}], context) == [[2.0], [5.0]]
    assert {sample.name for sample in context.metrics.drain()} == {"Calls", "HandlerTime"}


@pytest.mark.usefixtures("ts")
def test_what_is_not_there_yet_is_said(tmp_path: Path) -> None:
    text = "from ts.torch_handler.no_such_handler import Handler"
    with pytest.raises(
        HandlerLoadError, match=r"ts\.torch_handler\.no_such_handler, which flambeau"
    ):
        load(tmp_path, text)


@pytest.mark.usefixtures("ts")
def test_a_module_that_needs_a_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for module in ("flambeau.handlers.hf_batch_streamer", "ts.handler_utils.hf_batch_streamer"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    text = "from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch"
    with pytest.raises(HandlerLoadError, match="needs the Python package 'transformers"):
        load(tmp_path, text)


@pytest.mark.usefixtures("ts")
def test_the_small_functions() -> None:
    from ts.handler_utils.utils import import_class  # type: ignore[import-not-found]
    from ts.protocol import otf_message_handler  # type: ignore[import-not-found]
    from ts.utils.util import (
        CLEANUP_REGEX,
        PT2Backend,
        check_valid_pt2_backend,
    )

    assert import_class("collections.OrderedDict").__name__ == "OrderedDict"
    assert import_class("OrderedDict", "collections").__name__ == "OrderedDict"
    for wrong, words in (("", "class name"), ("NoDots", "module name"), ("json.Nope", "not found")):
        with pytest.raises(ImportError, match=words):
            import_class(wrong)
    assert check_valid_pt2_backend(PT2Backend.INDUCTOR.value)
    assert not check_valid_pt2_backend("steam")
    assert CLEANUP_REGEX.sub("", "<b>a&amp;b</b>") == "ab"
    with pytest.warns(PendingDeprecationWarning, match="moved to"), pytest.raises(RuntimeError):
        otf_message_handler.send_intermediate_predict_response(["x"], None, "", 200)


@pytest.mark.usefixtures("ts")
def test_the_metrics_of_before() -> None:
    from ts.metrics.metrics_store import MetricsStore  # type: ignore[import-not-found]

    store = MetricsStore({0: "r0", 1: "r1"}, "m")
    store.add_counter("Hits", 1, 0, [Dimension("Kind", "test")])
    store.add_counter("Hits", 2, 0, [Dimension("Kind", "test")])
    store.add_time("Wait", 2.5, 1)
    hits, wait = store.store
    assert (hits.value, hits.request_id, wait.unit) == (3, "r0", "Milliseconds")
    assert str(hits).startswith("Hits.Count:3|#Kind:test,ModelName:m,Level:Model|#hostname:")
    with pytest.raises(ValueError, match="timed metric"):
        store.add_time("Wait", 1, unit="days")


@pytest.mark.usefixtures("ts")
def test_modules_are_there_as_attributes_too() -> None:
    import ts  # type: ignore[import-not-found]
    import ts.metrics  # type: ignore[import-not-found]
    from ts import version

    assert version.__version__ == "0.12.0"
    assert ts.metrics.dimension.Dimension is Dimension
    assert ts.torch_handler.base_handler.BaseHandler is BaseHandler
    assert ts.context.Context is Context
    assert not hasattr(ts, "nothing")
    assert hasattr(ts.utils, "util")


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.usefixtures("ts")
def test_what_is_not_there_says_what_to_do(name: str) -> None:
    with pytest.raises(ImportError, match=f"flambeau has no {name}: "):
        importlib.import_module(name)
    package, _, last = name.rpartition(".")
    with pytest.raises(ImportError, match="flambeau has no"):
        getattr(importlib.import_module(package), last)


@pytest.mark.usefixtures("ts")
def test_a_handler_that_imports_a_part_of_the_server_is_told(tmp_path: Path) -> None:
    with pytest.raises(HandlerLoadError, match=r"flambeau has no ts\.launcher: start a server by"):
        load(tmp_path, "from ts.launcher import start")


@pytest.mark.usefixtures("ts")
def test_old_metrics_are_lines_that_the_server_reads(caplog: pytest.LogCaptureFixture) -> None:
    from ts.metrics.metric import Metric  # type: ignore[import-not-found]
    from ts.metrics.metric_encoder import MetricEncoder  # type: ignore[import-not-found]
    from ts.metrics.unit import Units  # type: ignore[import-not-found]
    from ts.service import emit_metrics  # type: ignore[import-not-found]

    caplog.set_level("INFO")
    metric = Metric("Hits", 7, "count", [Dimension("Kind", "test")])
    emit_metrics([metric])
    metric.update(2)
    metric.reset()
    reported = Metrics("m")
    reported.add_counter("Once", 1)
    emit_metrics(reported.store)
    emit_metrics(None)
    samples = [parse_metric_line(message) for message in caplog.messages]
    expected = ["Hits", "counter", "Count", 7.0, [["Kind", "test"]], ""]
    assert samples == [[*expected[:3], value, *expected[4:]] for value in (7.0, 2.0, 0.0)]
    written = json.loads(json.dumps(metric, cls=MetricEncoder))
    assert (written["MetricName"], written["Value"], written["Unit"]) == ("Hits", 7, "Count")
    assert written["Dimensions"] == [{"Name": "Kind", "Value": "test"}]
    assert Units().units["kB"] == "Kilobytes"


METRICS_YAML = """
model_metrics:
  gauge:
    - {name: Size, unit: MB, dimensions: [Kind]}
"""


@pytest.mark.usefixtures("ts")
def test_a_rig_makes_metrics_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from ts.metrics import metric_cache_errors as errors  # type: ignore[import-not-found]
    from ts.metrics.metric_cache_abstract import (  # type: ignore[import-not-found]
        MetricCacheAbstract,
    )
    from ts.metrics.metric_cache_yaml_impl import (  # type: ignore[import-not-found]
        MetricsCacheYamlImpl,
    )
    from ts.metrics.metric_type_enum import MetricTypes  # type: ignore[import-not-found]

    caplog.set_level("INFO")
    path = tmp_path / "metrics.yaml"
    path.write_text(METRICS_YAML)
    made = MetricsCacheYamlImpl(str(path))
    made.initialize_cache()
    assert made.cache_keys() == ["gauge:Size"]
    made.get_metric("Size", MetricTypes.GAUGE).add_or_update(3, ["a"])
    assert caplog.messages[-1].startswith("[METRICS]Size.Megabytes:3.0|#Kind:a|#type:GAUGE|#host")
    assert isinstance(made, MetricCacheAbstract)
    for text, error, words in (
        ("a: 1", errors.MetricsCacheKeyError, "'model_metrics' key not found"),
        ("model_metrics:", errors.MetricsCacheValueError, "Missing `model_metrics`"),
        ("model_metrics: {x: []}", errors.MetricsCacheKeyError, "Invalid metric type"),
        ("model_metrics: {gauge: [{name: a}]}", errors.MetricsCacheKeyError, "Key not found in"),
    ):
        path.write_text(text)
        with pytest.raises(error, match=words):
            MetricsCacheYamlImpl(str(path)).initialize_cache()
    path.write_text("a: [")
    with pytest.raises(errors.MetricsCachePyYamlError, match="Error parsing file"):
        MetricsCacheYamlImpl(str(path))
    with pytest.raises(errors.MetricsCacheIOError, match="Error reading file"):
        MetricsCacheYamlImpl(str(tmp_path / "nowhere"))
    with pytest.raises(errors.MetricsCacheTypeError, match="not initialized"):
        MetricsCacheYamlImpl("")


@pytest.mark.usefixtures("ts")
def test_what_times_a_function_prints(capsys: pytest.CaptureFixture[str]) -> None:
    from ts.utils.timeit_decorator import timeit  # type: ignore[import-not-found]

    assert timeit(len)("abc") == 3
    assert "func: 'len' took" in capsys.readouterr().out
