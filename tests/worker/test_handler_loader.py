"""From a handler's name to the callable that answers batches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.worker.context import Context
from flambeau.worker.coroutines import event_loop, finished
from flambeau.worker.loader import (
    _BUILT_IN,
    HandlerLoadError,
    load_built_in,
    load_entry_point,
)
from flambeau.worker.refused_handlers import REFUSED_HANDLERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ONE_CLASS = """
class Service:
    def initialize(self, context):
        self.name = context.model_name
    def handle(self, data, context):
        return [self.name for _ in data]
"""


@pytest.fixture(autouse=True)
def _python_as_before() -> Iterator[None]:
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name not in modules]:
        if name.split(".")[0] not in {"flambeau", "torch", "PIL"}:
            del sys.modules[name]
    sys.modules.update(modules)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    def load(handler: str, files: dict[str, str] | None = None, **modules: str) -> list[Any]:
        for name, text in {**modules, **(files or {})}.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        context = Context("digits", str(tmp_path), None, 1, None, "0.12.0")
        entry_point = load_entry_point(handler, tmp_path, context)
        return entry_point([{}], context)  # type: ignore[no-any-return]

    return load


def failure(load: Callable[..., Any], handler: str, **files: str) -> HandlerLoadError:
    with pytest.raises(HandlerLoadError) as caught:
        load(handler, **files)
    return caught.value


@pytest.mark.parametrize("handler", ["service", "service.py", "/any/dir/service.py"])
def test_a_class_is_found_however_its_file_is_named(load: Callable[..., Any], handler: str) -> None:
    assert load(handler, service=ONE_CLASS) == ["digits"]


def test_a_module_function_is_called_once_without_data(load: Callable[..., Any]) -> None:
    text = """
calls = []
def handle(data, context):
    calls.append(data)
    return [list(calls)]
"""
    assert load("service", service=text) == [[None, [{}]]]


@pytest.mark.parametrize("handler", ["service:predict", "service.py:predict"])
def test_a_function_can_be_named(load: Callable[..., Any], handler: str) -> None:
    text = "def predict(data, context):\n    return data and ['here']\n"
    assert load(handler, service=text) == ["here"]


def test_a_function_in_a_package_can_be_named(load: Callable[..., Any]) -> None:
    text = "def predict(data, context):\n    return data and ['packaged']\n"
    assert load("pkg.mod:predict", {"pkg/__init__": "", "pkg/mod": text}) == ["packaged"]


def test_a_handler_in_a_folder_of_the_archive_is_found_with_its_siblings(
    load: Callable[..., Any],
) -> None:
    text = "from words import word\ndef handle(data, context):\n    return [word]\n"
    answer = load("src/service.py", {"src/service": text, "src/words": "word = 'inner'"})
    assert answer == ["inner"]


def test_a_folder_outside_the_archive_is_never_looked_into(
    load: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "evil.py").write_text(ONE_CLASS)
    assert "was not found" in failure(load, f"{outside}/evil:handle", service="").message
    assert "was not found" in failure(load, f"../{outside.name}/evil").message


def test_a_module_function_wins_over_any_number_of_classes(load: Callable[..., Any]) -> None:
    text = (
        ONE_CLASS
        + "class Other: pass\n_service = Service()\n"
        + "def handle(data, context):\n    return ['function']\n"
    )
    assert load("service", service=text) == ["function"]


def test_classes_that_are_imported_do_not_count(load: Callable[..., Any]) -> None:
    text = "from pathlib import Path\nfrom enum import Enum\n" + ONE_CLASS
    assert load("service", service=text) == ["digits"]


def test_among_several_classes_the_only_handler_is_taken(load: Callable[..., Any]) -> None:
    text = "import enum\nclass Kind(enum.Enum):\n    A = 1\n" + ONE_CLASS
    assert load("service", service=text) == ["digits"]


def test_two_handlers_in_a_file_are_refused_by_name(load: Callable[..., Any]) -> None:
    text = ONE_CLASS + "class Other(Service): pass\n"
    error = failure(load, "service", service=text)
    assert error.message.startswith("Expected only one class in custom service code or a function")
    assert "[Other, Service]" in error.message


def test_a_class_can_be_named_after_the_colon(load: Callable[..., Any]) -> None:
    text = ONE_CLASS + "class Other(Service):\n    def handle(self, d, c): return ['other']\n"
    assert load("service:Other", service=text) == ["other"]


def test_a_wrong_function_name_uses_the_one_class_and_says_so(
    load: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert load("service:hendle", service=ONE_CLASS) == ["digits"]
    assert "no 'hendle'" in caplog.text


def test_a_wrong_function_name_without_a_class_names_what_exists(
    load: Callable[..., Any],
) -> None:
    text = "def predict(data, context): ...\ndef prepare(data): ...\n"
    message = failure(load, "service:predcit", service=text).message
    assert "no function 'predcit'" in message
    assert "Functions: predict, prepare." in message


def test_what_cannot_be_called_is_refused(load: Callable[..., Any]) -> None:
    assert "'handle' cannot be called" in failure(load, "service", service="handle = 3").message


@pytest.mark.parametrize("name", ["handle", "initialize"])
def test_a_class_without_its_two_methods_is_refused(load: Callable[..., Any], name: str) -> None:
    error = failure(load, "service", service=ONE_CLASS.replace(f"def {name}", "def other"))
    assert error.message == f"Expect {name} method in class Service"


def test_handle_may_be_any_callable_that_init_puts_there(load: Callable[..., Any]) -> None:
    text = """
class Service:
    def __init__(self):
        self.handle = self.answer
    def answer(self, data, context):
        return ['replaced']
    def handle(self, data, context):
        return ['original']
    def initialize(self, context):
        self.handle = None
"""
    assert load("service", service=text) == ["replaced"]


def test_an_async_function_is_called_without_data_and_finds_its_event_loop(
    load: Callable[..., Any],
) -> None:
    text = (
        "import asyncio\n"
        "seen = []\n"
        "async def handle(data, context):\n"
        "    seen.append((data, asyncio.get_running_loop()))\n"
        "    return seen\n"
    )
    try:
        first, second = finished(load("service", service=text))
        assert (first[0], second[0]) == (None, [{}])
        assert first[1] is second[1] is event_loop()
    finally:
        event_loop().close()


def test_initialize_finds_the_loop_that_an_async_handle_runs_on(load: Callable[..., Any]) -> None:
    text = (
        "import asyncio\n"
        "class Handler:\n"
        "    async def warm_up(self): self.warm = True\n"
        "    def initialize(self, context):\n"
        "        self.loop = asyncio.get_event_loop()\n"
        "        self.task = self.loop.create_task(self.warm_up())\n"
        "    async def handle(self, data, context):\n"
        "        return [self.loop is asyncio.get_running_loop(), self.warm]\n"
    )
    try:
        assert finished(load("service", service=text)) == [True, True]
    finally:
        event_loop().close()


def test_a_missing_dependency_is_named(load: Callable[..., Any]) -> None:
    error = failure(load, "service", service="import no_such_package.part\n" + ONE_CLASS)
    assert "needs the Python package 'no_such_package'" in error.message
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_the_dependency_of_a_file_named_like_a_built_in_is_not_masked(
    load: Callable[..., Any],
) -> None:
    error = failure(load, "image_classifier", image_classifier="import no_such_package\n")
    assert "needs the Python package 'no_such_package'" in error.message


def test_a_handler_that_is_nowhere_gets_the_choice(load: Callable[..., Any]) -> None:
    message = failure(load, "servise", service=ONE_CLASS).message
    assert "'servise' was not found" in message
    assert "Modules in the archive: service." in message
    assert "image_classifier" in message


@pytest.mark.parametrize("handler", ["", ":handle", ".py", "..", "/", "a."])
def test_a_handler_string_without_a_module_is_refused(
    load: Callable[..., Any], handler: str
) -> None:
    assert "names no handler" in failure(load, handler).message


@pytest.mark.parametrize("handler", sorted(REFUSED_HANDLERS))
def test_a_handler_that_only_torchserve_has_comes_with_advice(
    load: Callable[..., Any], handler: str
) -> None:
    message = failure(load, handler).message
    assert message.startswith(f"flambeau has no handler '{handler}': it ")
    assert "a handler of your own" in message


def test_a_file_of_the_archive_overrides_a_built_in(load: Callable[..., Any]) -> None:
    assert load("image_classifier", image_classifier=ONE_CLASS) == ["digits"]
    assert load("text_classifier", text_classifier=ONE_CLASS) == ["digits"]


@pytest.mark.parametrize("handler", sorted(_BUILT_IN))
def test_a_built_in_without_a_manifest_says_what_it_needs(
    load: Callable[..., Any], handler: str
) -> None:
    assert "has no MAR-INF/MANIFEST.json" in failure(load, handler).message


def test_without_code_a_handler_that_needs_a_model_file_is_refused(tmp_path: Path) -> None:
    context = Context("m", str(tmp_path), None, 1, None, "0.12.0")
    with pytest.raises(HandlerLoadError, match=r"'text_classifier' needs a model file.*object_det"):
        load_built_in("text_classifier", tmp_path, context)
    with pytest.raises(HandlerLoadError, match="has no MAR-INF"):
        load_built_in("object_detector", tmp_path, context)


def test_an_installed_module_can_be_a_handler(
    load: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = tmp_path_factory.mktemp("site")
    (site / "toolkit").mkdir()
    (site / "toolkit" / "__init__.py").write_text("")
    (site / "toolkit" / "service.py").write_text("def run(data, context): return ['installed']")
    monkeypatch.syspath_prepend(site)
    assert load("toolkit.service:run") == ["installed"]


@pytest.mark.parametrize(
    "text",
    ["1 / 0", "def x(:", "raise SystemExit(3)", "from os import no_such_name", "raise ValueError"],
)
def test_an_exception_on_import_is_the_reason(load: Callable[..., Any], text: str) -> None:
    error = failure(load, "service", service=text)
    assert error.message.startswith("Handler 'service' failed to be imported: ")
    assert error.__cause__ is not None
    assert type(error.__cause__).__name__ in error.message


def test_an_exception_in_initialize_is_the_reason(load: Callable[..., Any]) -> None:
    text = ONE_CLASS.replace("self.name = context.model_name", "raise ValueError('no such key')")
    error = failure(load, "service", service=text)
    assert error.message == "Handler 'service' failed to initialize: ValueError: no such key"
    assert error.status == 500


@pytest.mark.parametrize("error", ["MemoryError()", "RuntimeError('CUDA out of memory. Tried')"])
def test_running_out_of_memory_is_507(load: Callable[..., Any], error: str) -> None:
    text = ONE_CLASS.replace("self.name = context.model_name", f"raise {error}")
    found = failure(load, "service", service=text)
    assert (found.status, found.message) == (507, "System out of memory")


def test_the_reason_names_files_but_no_folders(load: Callable[..., Any], tmp_path: Path) -> None:
    body = "open(context.system_properties['model_dir'] + '/vocab.txt')"
    text = ONE_CLASS.replace("self.name = context.model_name", body)
    message = failure(load, "service", service=text).message
    assert "vocab.txt" in message
    assert str(tmp_path) not in message
    text = ONE_CLASS.replace(
        "self.name = context.model_name", "raise OSError('/srv/secret/a.bin https://x.org/y')"
    )
    message = failure(load, "other", other=text).message
    assert message.endswith("OSError: a.bin https://x.org/y")


def test_modules_of_the_archive_win_over_loaded_ones_of_the_same_name(
    tmp_path: Path,
) -> None:
    text = "from model import word\nimport metrics\ndef handle(d, c): return [word, metrics.word]\n"
    answers = []
    for word in ("first", "second"):
        model_dir = tmp_path / word
        model_dir.mkdir()
        (model_dir / "handler.py").write_text(text)
        (model_dir / "model.py").write_text(f"word = '{word} model'")
        (model_dir / "metrics.py").write_text(f"word = '{word} metrics'")
        context = Context("m", str(model_dir), None, 1, None, "0.12.0")
        answers.append(load_entry_point("handler.py", model_dir, context)([{}], context))
    assert answers == [["first model", "first metrics"], ["second model", "second metrics"]]


def test_a_package_of_the_archive_wins_over_a_loaded_one(
    load: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = tmp_path_factory.mktemp("site")
    (site / "utils").mkdir()
    (site / "utils" / "__init__.py").write_text("")
    (site / "utils" / "words.py").write_text("word = 'foreign'")
    monkeypatch.syspath_prepend(site)
    __import__("utils.words")
    text = "from utils.words import word\ndef handle(d, c): return [word]\n"
    files = {"utils/__init__": "", "utils/words": "word = 'own'", "service": text}
    assert load("service", files) == ["own"]


def test_a_handler_named_like_a_loaded_library_module_is_used_and_hides_nothing(
    load: Callable[..., Any],
) -> None:
    import numbers

    assert load("numbers", numbers=ONE_CLASS) == ["digits"]
    assert sys.modules["numbers"] is numbers


def test_a_compiled_package_is_not_loaded_twice(
    load: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    import msgpack

    assert load("service", service=ONE_CLASS, msgpack="word = 1") == ["digits"]
    assert sys.modules["msgpack"] is msgpack
    assert "own msgpack is not used" in caplog.text


def test_the_worker_itself_is_not_replaced_by_an_archive(load: Callable[..., Any]) -> None:
    import flambeau

    assert load("service", service=ONE_CLASS, flambeau="word = 1") == ["digits"]
    assert sys.modules["flambeau"] is flambeau


def test_a_failed_import_leaves_no_half_made_module(
    load: Callable[..., Any],
) -> None:
    failure(load, "service", service="raise ValueError")
    assert "service" not in sys.modules
