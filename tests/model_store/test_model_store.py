"""The store: urls to models, each content unpacked once, nothing changed by a refusal."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from model_bench import Bench, below, manifest_text, model_members, snapshot, write_tar, write_zip

from flambeau.model_store import store as store_module
from flambeau.model_store.archive import digest, unpack
from flambeau.model_store.errors import InvalidModelError, ModelNotFoundError, StorageError
from flambeau.model_store.store import ModelStore, default_model_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from model_bench import Members

    from flambeau.model_store.archive import Limits


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


class Count:
    """How often a function of the store module was called, and with what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.calls: list[Path] = []
        original = getattr(store_module, name)

        def counted(source: Path, *rest: object) -> object:
            self.calls.append(source)
            return original(source, *rest)

        monkeypatch.setattr(store_module, name, counted)


def refusal_of(
    bench: Bench, store: ModelStore, url: str, error: type[Exception] = ModelNotFoundError
) -> str:
    """The message of the refusal, after checking that store and cache are as they were."""
    before = snapshot(bench.base)
    with pytest.raises(error) as caught:
        store.acquire(url)
    assert snapshot(bench.base) == before
    assert str(bench.base) not in str(caught.value).replace(url, "")
    return str(caught.value)


def test_an_archive_is_found_unpacked_and_described(bench: Bench) -> None:
    members = model_members(configFile="c.yaml", serializedFile="w.pt")
    source = bench.mar("noop.mar", {**members, "c.yaml": "batch_size: 2\nminWorkers: 2"})
    model = bench.open().acquire("noop.mar")
    assert model.url == "noop.mar"
    assert model.digest == digest(source)
    assert model.model_dir == bench.cache / model.digest
    assert sorted(os.listdir(model.model_dir)) == ["MAR-INF", "c.yaml", "handler.py"]
    assert model.manifest is not None
    assert (model.manifest.model_name, model.manifest.handler) == ("noop", "handler.py")
    assert (model.config.min_workers, model.config.max_workers) == (2, 2)
    assert len(model.warnings) == 1
    assert "did you mean 'batchSize'?" in model.warnings[0]


def test_an_archive_without_a_manifest_is_accepted(bench: Bench) -> None:
    bench.mar("bare.mar", {"handler.py": "x"})
    assert bench.open().acquire("bare.mar").manifest is None


def test_tars_and_other_names_are_archives_too(bench: Bench) -> None:
    write_tar(bench.root / "a.tar.gz", below("noop", model_members()))
    write_tar(bench.root / "b.tgz", model_members())
    write_zip(bench.root / "c.model", model_members())
    write_zip(bench.root / "d", model_members())
    store = bench.open()
    for url in ("a.tar.gz", "b.tgz", "c.model", "d"):
        assert store.acquire(url).manifest is not None


def test_the_folder_part_of_a_url_does_not_matter(bench: Bench) -> None:
    bench.mar("x.mar")
    store = bench.open()
    for url in ("x.mar", "sub/x.mar", "/abs/x.mar", "//host/x.mar", "./x.mar", "x.mar/"):
        assert store.acquire(url).model_dir.parent == bench.cache


def test_a_full_path_inside_the_store_is_taken_at_its_word(bench: Bench) -> None:
    bench.mar("x.mar")
    (bench.root / "sub").mkdir()
    write_zip(bench.root / "sub" / "x.mar", {"other.py": "x"})
    store = bench.open()
    inner = store.acquire(str(bench.root / "sub" / "x.mar"))
    assert os.listdir(inner.model_dir) == ["other.py"]
    assert store.acquire("sub/x.mar").digest == digest(bench.root / "x.mar")


def test_a_full_path_outside_the_store_means_its_name_in_the_store(bench: Bench) -> None:
    outside = write_zip(bench.base / "x.mar", {"evil.py": "x"})
    store = bench.open()
    assert refusal_of(bench, store, str(outside)) == f"Model not found at: {outside}"
    bench.mar("x.mar")
    assert store.acquire(str(outside)).digest == digest(bench.root / "x.mar")


def test_a_store_that_is_itself_a_link_works(bench: Bench) -> None:
    bench.mar("x.mar")
    os.symlink(bench.root, bench.base / "link")
    store = bench.open(root=bench.base / "link")
    assert store.acquire(str(bench.base / "link" / "x.mar")).manifest is not None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty url"),
        ("none.mar", "Model not found at: none.mar"),
        ("/", "Model not found at: /"),
        (".", "Model not found at: ."),
        ("a\x00.mar", "Model not found at: a\\x00.mar"),
        ("a\n.mar", "Model not found at: a\\n.mar"),
        ("\ud800.mar", "Model not found at: \\ud800.mar"),
        ("..", "Relative path is not allowed in url: .."),
        ("../x.mar", "Relative path is not allowed in url: ../x.mar"),
        ("a..b.mar", "Relative path is not allowed in url: a..b.mar"),
        ("..%2fx.mar", "Relative path is not allowed in url: ..%2fx.mar"),
        ("file://host/../x.mar", "Relative path is not allowed in url: file://host/../x.mar"),
        ("%2e%2e/none.mar", "Model not found at: %2e%2e/none.mar"),
        ("file:/etc/passwd", "Model not found at: file:/etc/passwd"),
        ("/etc/passwd", "Model not found at: /etc/passwd"),
    ],
)
def test_a_url_that_names_nothing_is_refused_with_torchserves_text(
    bench: Bench, url: str, message: str
) -> None:
    bench.mar("x.mar")
    assert refusal_of(bench, bench.open(), url) == message


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x.mar",
        "https://models.example/x.mar",
        "HTTP://127.0.0.1/x.mar",
        " http://127.0.0.1/x.mar",
        "http://[::1]/x.mar",
        "http://2130706433/x.mar",
        "http://good.example@127.0.0.1/x.mar",
        "http://169.254.169.254/latest/x.mar",
        "file:///etc/passwd",
        "file://x.mar",
        "s3://bucket/x.mar",
        "ftp://host/x.mar",
        "gopher://host./x.mar",
        "://x.mar",
    ],
)
def test_a_url_with_a_scheme_is_refused_even_if_the_store_has_the_name(
    bench: Bench, url: str
) -> None:
    bench.mar("x.mar")
    message = refusal_of(bench, bench.open(), url)
    assert message == f"Given URL {url} does not match any allowed URL(s)"


def test_a_very_long_url_is_not_found_and_cut_short(bench: Bench) -> None:
    assert len(refusal_of(bench, bench.open(), "x" * 5000)) < 300


def test_links_that_lead_out_of_the_store_are_not_found(bench: Bench) -> None:
    write_zip(bench.base / "outside.mar", model_members())
    (bench.base / "folder").mkdir()
    os.symlink(bench.base / "outside.mar", bench.root / "a.mar")
    os.symlink(bench.base / "folder", bench.root / "b")
    os.symlink(bench.base, bench.root / "c")
    os.symlink("loop.mar", bench.root / "loop.mar")
    (bench.root / "d").mkdir()
    os.symlink(bench.base / "folder", bench.root / "d" / "only")
    store = bench.open()
    for url in ("a.mar", "b", "c", "d", "loop.mar", str(bench.root / "c" / "outside.mar")):
        assert refusal_of(bench, store, url) == f"Model not found at: {url}"


def test_links_inside_the_store_work(bench: Bench) -> None:
    bench.mar("v2.mar")
    os.symlink("v2.mar", bench.root / "current.mar")
    assert bench.open().acquire("current.mar").digest == digest(bench.root / "v2.mar")


def test_pipes_in_the_store_are_not_opened(bench: Bench) -> None:
    os.mkfifo(bench.root / "pipe.mar")
    assert "Model not found" in refusal_of(bench, bench.open(), "pipe.mar")


def test_the_cache_cannot_be_served_from_inside_the_store(bench: Bench) -> None:
    bench.mar("x.mar")
    store = bench.open(cache=bench.root / "cache")
    model = store.acquire("x.mar")
    assert store.archives() == ["x.mar"]
    for url in ("cache", str(model.model_dir)):
        assert "Model not found" in refusal_of(bench, store, url)


BAD_ARCHIVES: dict[str, tuple[Members, str]] = {
    "traversal": ({"handler.py": "x", "../evil": "x"}, "leads out of the archive"),
    "no model": ({"MAR-INF/MANIFEST.json": "{}"}, "Missing Model entry"),
    "no JSON": ({"MAR-INF/MANIFEST.json": "{"}, "Failed to parse signature.json."),
    "C++": (
        {"MAR-INF/MANIFEST.json": '{"model": {"modelName": "m"}, "runtime": "LSP"}'},
        "C++ backend",
    ),
    "no configuration": (model_members(configFile="c.yaml"), "c.yaml is named as configFile"),
    "bad configuration": (
        {**model_members(configFile="c.yaml"), "c.yaml": "batchSize: eight"},
        "c.yaml: batchSize: 'eight' is not allowed; give a whole number of at least 1",
    ),
    "file outside": (
        {"MAR-INF/MANIFEST.json": manifest_text(configFile="../../c.yaml")},
        "configFile: '../../c.yaml' is not allowed",
    ),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_a_bad_archive_leaves_store_and_cache_as_they_were(bench: Bench, case: str) -> None:
    members, part = BAD_ARCHIVES[case]
    bench.mar("good.mar")
    bench.mar("bad.mar", members)
    store = bench.open()
    store.acquire("good.mar")
    assert part in refusal_of(bench, store, "bad.mar", InvalidModelError)
    assert part in refusal_of(bench, store, "bad.mar", InvalidModelError)


def test_a_corrupt_archive_is_named(bench: Bench) -> None:
    (bench.root / "broken.mar").write_text("version https://git-lfs.github.com/spec/v1\n")
    message = refusal_of(bench, bench.open(), "broken.mar", InvalidModelError)
    assert message == (
        "broken.mar is not a readable archive: "
        "it is neither a zip (.mar) nor a gzip-compressed tar (.tar.gz)"
    )


def test_a_full_disk_is_the_servers_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.mar("x.mar")
    store = bench.open()

    def no_space(source: Path, target: Path, limits: Limits) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(store_module, "unpack", no_space)
    message = refusal_of(bench, store, "x.mar", StorageError)
    assert message == "Failed to save model: x.mar (No space left on device)"


def test_an_archive_that_changes_while_it_is_unpacked_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench.mar("x.mar")
    store = bench.open()

    def slow(source_: Path, target: Path, limits: Limits) -> None:
        unpack(source_, target, limits)
        write_zip(source, {"other.py": "y"})

    monkeypatch.setattr(store_module, "unpack", slow)
    with pytest.raises(InvalidModelError, match="changed while it was being read"):
        store.acquire("x.mar")
    assert os.listdir(bench.cache) == []
    monkeypatch.undo()
    assert os.listdir(store.acquire("x.mar").model_dir) == ["other.py"]


def test_the_same_content_is_hashed_and_unpacked_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench.mar("a.mar")
    (bench.root / "b.mar").write_bytes(source.read_bytes())
    hashed, unpacked = Count(monkeypatch, "digest"), Count(monkeypatch, "unpack")
    store = bench.open()
    models = [store.acquire(url) for url in ("a.mar", "a.mar", "b.mar")]
    assert len({model.model_dir for model in models}) == 1
    assert [path.name for path in hashed.calls] == ["a.mar", "b.mar"]
    assert len(unpacked.calls) == 1


def test_an_archive_that_was_replaced_is_seen(bench: Bench) -> None:
    bench.mar("a.mar")
    store = bench.open()
    first = store.acquire("a.mar")
    bench.mar("a.mar", {"other.py": "x"})
    second = store.acquire("a.mar")
    assert first.model_dir != second.model_dir
    assert bench.cached() == sorted([first.digest, second.digest])


def test_many_threads_unpack_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.mar("a.mar")
    unpacked = Count(monkeypatch, "unpack")
    store = bench.open()
    together = threading.Barrier(8)

    def acquire(_: int) -> Path:
        together.wait(timeout=30)
        model = store.acquire("a.mar")
        assert (model.model_dir / "handler.py").is_file()
        return model.model_dir

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(acquire, range(8)))) == 1
    assert len(unpacked.calls) == 1


def test_threads_that_acquire_and_release_never_lose_the_model(bench: Bench) -> None:
    bench.mar("a.mar")
    store = bench.open()

    def use(_: int) -> None:
        for _ in range(20):
            model = store.acquire("a.mar")
            assert (model.model_dir / "handler.py").is_file()
            store.release(model)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    assert os.listdir(bench.cache) == []


def test_the_last_reference_removes_the_entry(bench: Bench) -> None:
    bench.mar("a.mar")
    store = bench.open()
    first, second = store.acquire("a.mar"), store.acquire("a.mar")
    store.release(first)
    assert bench.cached() == [second.digest]
    store.release(second)
    assert os.listdir(bench.cache) == []
    store.release(second)
    assert store.acquire("a.mar").model_dir.is_dir()


def test_a_restart_finds_the_model_unpacked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.mar("a.mar")
    unpacked = Count(monkeypatch, "unpack")
    before = bench.open()
    model = before.acquire("a.mar")
    before.close()
    before.release(model)
    assert bench.cached() == [model.digest]
    after = bench.open()
    assert after.acquire("a.mar") == model
    assert len(unpacked.calls) == 1
    after.release(model)
    assert os.listdir(bench.cache) == []


def test_a_folder_is_used_in_place(bench: Bench) -> None:
    folder = bench.folder("noop")
    store = bench.open()
    before = snapshot(bench.base)
    model = store.acquire("noop")
    assert model.model_dir == folder
    assert model.manifest is not None
    assert store.acquire(str(folder)).digest == model.digest == digest(folder)
    store.release(model)
    store.close()
    assert snapshot(bench.base) == before


def test_a_folder_that_holds_only_a_folder_is_descended_once(bench: Bench) -> None:
    bench.folder("outer/inner/innermost")
    bench.folder("sagemaker/noop")
    store = bench.open()
    assert store.acquire("outer").model_dir == bench.root / "outer" / "inner"
    assert store.acquire("sagemaker").manifest is not None


def test_a_folder_that_holds_only_a_manifest_is_a_model(bench: Bench) -> None:
    members = {"MAR-INF/MANIFEST.json": manifest_text(handler="image_classifier")}
    folder = bench.folder("noop", members)
    model = bench.open().acquire("noop")
    assert model.model_dir == folder
    assert model.manifest is not None


def test_a_folder_whose_files_link_out_of_the_store_is_refused(bench: Bench) -> None:
    folder = bench.folder("noop", model_members(serializedFile="w.pt"))
    (bench.base / "w.pt").write_text("weights")
    os.symlink(bench.base / "w.pt", folder / "w.pt")
    store = bench.open()
    message = refusal_of(bench, store, "noop", InvalidModelError)
    assert message == "w.pt is a link that leads out of the model store."
    (folder / "w.pt").unlink()
    (bench.root / "shared.pt").write_text("weights")
    os.symlink(bench.root / "shared.pt", folder / "w.pt")
    assert store.acquire("noop").manifest is not None


def test_everything_that_can_be_served_is_listed(bench: Bench) -> None:
    for name in ("b.mar", "a.model", "c.tar.gz", "d.txt", ".hidden.mar", "noext", "e.tgz"):
        (bench.root / name).write_text("x")
    (bench.root / "folder").mkdir()
    (bench.root / ".git").mkdir()
    os.symlink("/etc/hosts", bench.root / "out.mar")
    os.symlink("gone", bench.root / "dangling.mar")
    assert bench.open().archives() == ["a.model", "b.mar", "c.tar.gz", "folder"]


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "none", tmp_path / "cache")
    assert store.archives() == []
    with pytest.raises(ModelNotFoundError):
        store.acquire("x.mar")


def test_the_cache_is_private(bench: Bench) -> None:
    bench.cache.mkdir(mode=0o777)
    bench.open()
    assert stat.S_IMODE(bench.cache.stat().st_mode) == 0o700
    bench.open(cache=bench.base / "new" / "cache")
    assert stat.S_IMODE((bench.base / "new" / "cache").stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_used_says_what_to_do(bench: Bench) -> None:
    bench.cache.write_text("a file")
    with pytest.raises(StorageError, match="Set model_cache_dir to a directory"):
        bench.open()


def test_a_cache_of_somebody_else_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.cache.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: bench.cache.stat().st_uid + 1)
    with pytest.raises(StorageError, match="belongs to another user"):
        bench.open()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("noop.mar", "noop"),
        ("sub/noop-v1.2.mar", "noop_v1_2"),
        ("res net.model", "res_net"),
        ("noop.tar.gz", "noop_tar_gz"),
        ("folder", "folder"),
        ("folder/", "folder"),
        ("/a.mar.d/naïve", "na_ve"),
        ("", ""),
    ],
)
def test_a_model_without_a_name_gets_the_files(url: str, name: str) -> None:
    assert default_model_name(url) == name


def test_a_handler_file_is_a_model_that_is_served_where_it_lies(bench: Bench) -> None:
    path = bench.root / "echo.py"
    path.write_text("def handle(data, context): return data")
    store = bench.open()
    model = store.acquire("echo.py")
    assert (model.model_dir, model.handler, model.manifest) == (bench.root, "echo.py", None)
    assert default_model_name(model.url) == "echo"
    store.release(model)
    assert path.exists()
    assert "echo.py" not in store.archives()
    strict = ModelStore(bench.root, bench.cache, allow_code=False)
    with pytest.raises(InvalidModelError, match="allow_archive_code=false"):
        strict.acquire("echo.py")
    strict.close()
