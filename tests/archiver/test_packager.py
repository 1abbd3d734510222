"""What the archiver writes, compared with what torch-model-archiver 0.12.0 wrote for the same."""

from __future__ import annotations

import json
import os
import tarfile
import threading
import zipfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

import flambeau
from flambeau.archiver.packager import ArchiverError, ArchiveSpec, build_archive
from flambeau.model_store.archive import unpack
from flambeau.model_store.manifest import load_manifest

MANIFEST = "MAR-INF/MANIFEST.json"


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of things to package, which is also the current directory."""
    root = tmp_path / "work"
    extra = root / "extra"
    for folder in ("sub/deep", "sub/.hidden", ".hidden", "__pycache__", "__MACOSX", "empty"):
        (extra / folder).mkdir(parents=True)
    (root / "other").mkdir()
    files = {
        "handler.py": "def handle(data, context):\n    return data\n",
        "other/handler.py": "def handle(data, context):\n    return [1]\n",
        "model.py": "class Model:\n    pass\n",
        "weights.pt": "\0" * 200_000,
        "index_to_name.json": '{"0": "a"}',
        "requirements.txt": "numpy\n",
        "config.yaml": "minWorkers: 1\n",
        "extra/a.txt": "a",
        "extra/.dotfile": "dot",
        "extra/sub/s.txt": "s",
        "extra/sub/deep/d.txt": "d",
        "extra/sub/.hidden/h": "h",
        "extra/.hidden/h": "h",
        "extra/__pycache__/h": "h",
        "extra/__MACOSX/h": "h",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    monkeypatch.chdir(root)
    return root


def spec(**changes: object) -> ArchiveSpec:
    plain = ArchiveSpec("m", "1.0", "image_classifier", export_path=Path("out"))
    return replace(plain, **changes)  # type: ignore[arg-type]


def names(archive: Path) -> set[str]:
    if archive.is_dir():
        return {p.relative_to(archive).as_posix() for p in archive.rglob("*") if p.is_file()}
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            return set(tar.getnames())
    with zipfile.ZipFile(archive) as mar:
        found = mar.namelist()
        assert len(found) == len(set(found)), "a name is in the archive twice"
        return set(found)


def manifest(archive: Path) -> dict[str, object]:
    with zipfile.ZipFile(archive) as mar:
        content: dict[str, object] = json.loads(mar.read(MANIFEST))
    return content


def refusal(spec: ArchiveSpec) -> str:
    """The message that the spec is refused with; nothing may be left in the export directory."""
    before = sorted(Path("out").iterdir()) if Path("out").is_dir() else []
    with pytest.raises(ArchiverError) as caught:
        build_archive(spec)
    assert "\n" not in caught.value.message
    assert (sorted(Path("out").iterdir()) if Path("out").is_dir() else []) == before
    return caught.value.message


def test_an_archive_holds_the_files_and_the_manifest_of_torch_model_archiver() -> None:
    archive = build_archive(
        spec(
            handler="./handler.py",
            model_file=Path("model.py"),
            serialized_file=Path("weights.pt"),
            extra_files=("index_to_name.json", "extra"),
            requirements_file=Path("requirements.txt"),
            config_file=Path("config.yaml"),
        )
    )
    assert archive == Path("out/m.mar")
    assert names(archive) == {
        *("handler.py", "model.py", "weights.pt", "requirements.txt", "config.yaml"),
        *("index_to_name.json", "a.txt", ".dotfile", "sub/s.txt", "sub/deep/d.txt", MANIFEST),
    }
    written = manifest(archive)
    created = datetime.strptime(str(written.pop("createdOn")), "%d/%m/%Y %H:%M:%S")
    assert abs((datetime.now() - created).total_seconds()) < 60
    assert written == {
        "runtime": "python",
        "model": {
            "modelName": "m",
            "serializedFile": "weights.pt",
            "handler": "handler.py",
            "modelFile": "model.py",
            "modelVersion": "1.0",
            "requirementsFile": "requirements.txt",
            "configFile": "config.yaml",
        },
        "archiverVersion": flambeau.__version__,
    }


def test_absent_files_have_no_key_in_the_manifest() -> None:
    written = manifest(build_archive(spec(runtime="python3", version="1 x")))
    assert written["runtime"] == "python3"
    assert written["model"] == {
        "modelName": "m",
        "handler": "image_classifier",
        "modelVersion": "1 x",
    }


@pytest.mark.parametrize(
    ("handler", "in_manifest", "files"),
    [
        ("other/handler.py", "handler.py", {"handler.py"}),
        ("other/handler", "handler", {"handler.py"}),
        ("other/handler:handle", "handler:handle", {"handler.py"}),
        ("other/handler.py:handle", "handler.py:handle", {"handler.py"}),
        ("image_classifier", "image_classifier", set()),
        ("base_handler", "base_handler", set()),
    ],
)
def test_every_form_of_handler_is_packaged(handler: str, in_manifest: str, files: set[str]) -> None:
    archive = build_archive(spec(handler=handler))
    model = manifest(archive)["model"]
    assert isinstance(model, dict)
    assert model["handler"] == in_manifest
    assert names(archive) == files | {MANIFEST}


@pytest.mark.parametrize(
    "source",
    [
        "handle = lambda data, context: data",
        "from elsewhere import handle",
        "from elsewhere import *",
        "try:\n    import x\nexcept ImportError:\n    def handle(data, context): ...",
        "class handle: ...",
    ],
)
def test_a_function_may_be_bound_in_any_way_at_module_level(source: str) -> None:
    Path("h.py").write_text(source)
    assert "h.py" in names(build_archive(spec(handler="h:handle")))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class A:\n    def handle(self): ...", "has no function handle at module level"),
        ("def other():\n    handle = 1", "has no function handle at module level"),
        ("x = 1\ndef f(:\n", "Handler is not valid Python: h.py, line 2: "),
        ("x = '\0'", "Handler is not valid Python: h.py"),
        ("x = '\udcff'", "Handler is not valid Python: h.py"),
    ],
)
def test_an_unreadable_handler_is_refused_by_file_and_line(source: str, message: str) -> None:
    Path("h.py").write_bytes(source.encode(errors="surrogateescape"))
    assert message in refusal(spec(handler="h.py:handle"))


def test_odd_escapes_in_a_handler_do_not_warn() -> None:
    Path("h.py").write_text("handle = '\\d'")
    build_archive(spec(handler="h"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "a b"}, "Model name 'a b' contains special characters"),
        ({"model_name": "../m"}, "contains special characters"),
        ({"model_name": ".m"}, "contains special characters"),
        ({"model_name": "m\n"}, "contains special characters"),
        ({"model_name": ""}, "contains special characters"),
        ({"version": " "}, "The version is empty"),
        ({"version": "1/2"}, "modelVersion"),
        ({"model_name": "m" * 250}, "modelName"),
        ({"runtime": "LSP"}, "C++ backend"),
        ({"runtime": "ruby"}, "Runtime must be one of"),
        ({"archive_format": "rar"}, "Archive format must be one of"),
        ({"handler": "extra"}, "Handler does not exist: extra.py"),
        ({"handler": "handler.py:"}, "must end in the name of a function"),
        ({"model_file": Path("missing.py")}, "Model file does not exist: missing.py"),
        ({"serialized_file": Path("missing.pt")}, "Serialized file does not exist: missing.pt"),
        ({"serialized_file": Path("extra")}, "Serialized file is not a regular file: extra"),
        ({"requirements_file": Path("missing")}, "Requirements file does not exist: missing"),
        ({"config_file": Path("missing")}, "Config file does not exist: missing"),
        ({"extra_files": ("missing.txt",)}, "Extra file does not exist: missing.txt"),
        ({"export_path": Path("model.py")}, "Export path model.py is not a directory"),
        ({"export_path": Path("model.py/x")}, "Not a directory"),
    ],
)
def test_wrong_input_is_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    assert message in refusal(spec(**changes))
    assert not Path("out").exists()


def test_a_built_in_name_that_torchserve_takes_for_a_file_is_one_where_there_is_one() -> None:
    archive = build_archive(spec(handler="densenet_handler"))
    assert names(archive) == {MANIFEST}
    Path("densenet_handler.py").write_text("def handle(data, context): return data")
    archive = build_archive(spec(handler="densenet_handler", force=True))
    assert names(archive) == {MANIFEST, "densenet_handler.py"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"minWorkers: many\n", "minWorkers"),
        (b"minWorkers: [\n", "config.yaml"),
        (b"\xff\xfe\xff", "not UTF-8"),
    ],
)
def test_a_config_that_no_server_would_take_is_refused(config: bytes, message: str) -> None:
    Path("config.yaml").write_bytes(config)
    assert message in refusal(spec(config_file=Path("config.yaml")))


def test_a_misspelt_key_in_the_config_is_named(caplog: pytest.LogCaptureFixture) -> None:
    Path("config.yaml").write_text("minWorker: 1\n")
    build_archive(spec(config_file=Path("config.yaml")))
    assert "minWorkers" in caplog.text


def test_a_model_file_that_does_not_parse_is_refused() -> None:
    Path("model.py").write_text("class\n")
    message = refusal(spec(model_file=Path("model.py")))
    assert message.startswith("Model file is not valid Python: model.py, line 1: ")


def test_two_different_files_of_one_name_are_refused() -> None:
    message = refusal(spec(handler="handler.py", extra_files=("other",)))
    assert "handler.py and other/handler.py differ" in message


def test_one_file_that_is_named_twice_is_packaged_once() -> None:
    Path("copy").mkdir()
    Path("copy/handler.py").write_text(Path("handler.py").read_text())
    archive = build_archive(spec(handler="handler.py", extra_files=("./handler.py", "copy")))
    assert names(archive) == {"handler.py", MANIFEST}


def test_a_file_and_a_directory_of_one_name_are_refused() -> None:
    Path("sub").write_text("a file")
    message = refusal(spec(extra_files=("sub", "extra")))
    assert "needs a directory named sub" in message


def test_directories_with_the_same_subdirectory_are_merged() -> None:
    Path("more/sub").mkdir(parents=True)
    Path("more/sub/t.txt").write_text("t")
    archive = build_archive(spec(extra_files=("extra/sub", "more/sub", "extra", "more")))
    assert {"s.txt", "t.txt", "sub/s.txt", "sub/t.txt"} <= names(archive)


def test_patterns_are_expanded_and_an_idle_one_warns(caplog: pytest.LogCaptureFixture) -> None:
    archive = build_archive(spec(extra_files=("*.nomatch", "ext*", "ind?x*.json")))
    assert names(archive) == {
        *(MANIFEST, "index_to_name.json"),
        *("a.txt", ".dotfile", "sub/s.txt", "sub/deep/d.txt"),
    }
    assert "did not match any file: *.nomatch" in caplog.text


def test_a_name_that_only_looks_like_a_pattern_is_taken_as_it_is() -> None:
    Path("a[1].txt").write_text("x")
    assert "a[1].txt" in names(build_archive(spec(extra_files=("a[1].txt",))))


def test_links_to_files_are_packaged_as_files_and_others_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("extra/link.txt").symlink_to("../index_to_name.json")
    Path("extra/folder").symlink_to("../other")
    Path("extra/broken").symlink_to("nowhere")
    os.mkfifo("extra/pipe")
    archive = build_archive(spec(extra_files=("extra",)))
    assert "link.txt" in names(archive)
    assert not {"broken", "pipe", "folder/handler.py"} & names(archive)
    with zipfile.ZipFile(archive) as mar:
        assert mar.read("link.txt") == Path("index_to_name.json").read_bytes()
    for skipped in ("extra/folder", "extra/broken", "extra/pipe"):
        assert f"Skipped {skipped}:" in caplog.text


def test_the_manifest_of_an_unpacked_archive_is_not_packaged_again() -> None:
    Path("extra/MAR-INF").mkdir()
    Path(f"extra/{MANIFEST}").write_text("{}")
    assert manifest(build_archive(spec(extra_files=("extra",))))["runtime"] == "python"


def test_a_file_name_that_is_no_text_is_refused() -> None:
    Path(os.fsdecode(b"extra/\xff")).touch()
    assert "not valid UTF-8" in refusal(spec(extra_files=("extra",)))


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
def test_an_earlier_archive_does_not_end_up_in_the_new_one(form: str) -> None:
    again = spec(extra_files=("extra",), export_path=Path("extra"), archive_format=form)
    first = names(build_archive(again))
    assert names(build_archive(replace(again, force=True))) == first


def test_weights_are_stored_and_the_rest_is_deflated() -> None:
    Path("extra/photo.png").write_bytes(b"\0" * 1000)
    Path("extra/big.safetensors").write_bytes(b"\0" * (1 << 21))
    Path("extra/small.bin").write_bytes(b"\0" * 1000)
    archive = build_archive(spec(serialized_file=Path("weights.pt"), extra_files=("extra",)))
    with zipfile.ZipFile(archive) as mar:
        stored = {i.filename for i in mar.infolist() if i.compress_type == zipfile.ZIP_STORED}
        assert mar.testzip() is None
    assert stored == {"weights.pt", "photo.png", "big.safetensors"}


def test_a_big_sparse_weights_file_is_stored() -> None:
    size = 300 << 20
    with Path("weights.pt").open("wb") as file:
        file.truncate(size)
    reports: list[tuple[int, int]] = []
    archive = build_archive(
        spec(serialized_file=Path("weights.pt")), lambda done, total: reports.append((done, total))
    )
    with zipfile.ZipFile(archive) as mar:
        info = mar.getinfo("weights.pt")
    assert info.compress_type == zipfile.ZIP_STORED
    assert info.compress_size == info.file_size == size
    assert reports == sorted(reports)
    assert len(reports) > 10
    assert reports[-1] == (size, size)
    archive.unlink()


def test_a_tgz_has_one_root_directory_named_as_the_model() -> None:
    archive = build_archive(spec(archive_format="tgz", handler="handler", extra_files=("extra",)))
    assert archive == Path("out/m.tar.gz")
    assert names(archive) == {
        f"m/{name}"
        for name in (*("handler.py", "a.txt", ".dotfile", "sub/s.txt", "sub/deep/d.txt", MANIFEST),)
    }
    with tarfile.open(archive) as tar:
        member = tar.extractfile("m/handler.py")
        assert member is not None
        assert member.read() == Path("handler.py").read_bytes()
        assert {info.uname for info in tar} == {""}


def test_no_archive_writes_a_directory() -> None:
    folder = build_archive(spec(archive_format="no-archive", extra_files=("extra",)))
    assert folder == Path("out/m")
    assert names(folder) == {"a.txt", ".dotfile", "sub/s.txt", "sub/deep/d.txt", MANIFEST}
    assert json.loads((folder / MANIFEST).read_text())["model"]["modelName"] == "m"


def test_zip_store_means_default() -> None:
    assert build_archive(spec(archive_format="zip-store")) == Path("out/m.mar")


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
def test_an_existing_archive_is_replaced_only_with_force(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = build_archive(spec(archive_format=form, extra_files=("extra",)))
    before = names(first)
    assert refusal(spec(archive_format=form)).startswith(f"{first} already exists. Use --force")
    assert names(first) == before
    build_archive(spec(archive_format=form, force=True))
    assert len(names(first)) == 1, "something of the old archive is left"
    assert f"Overwriting {first} ..." in caplog.text
    assert list(Path("out").iterdir()) == [first]


def test_force_does_not_destroy_a_directory_that_is_no_packaged_model() -> None:
    Path("out/m").mkdir(parents=True)
    Path("out/m/thesis.txt").write_text("years of work")
    assert "is not a packaged model" in refusal(spec(archive_format="no-archive", force=True))
    assert Path("out/m/thesis.txt").read_text() == "years of work"


def test_force_does_not_replace_a_directory_by_a_file() -> None:
    Path("out/m.mar").mkdir(parents=True)
    assert "out/m.mar: Is a directory" in refusal(spec(force=True))


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
@pytest.mark.parametrize("new_size", [1 << 20, 3 << 20])
def test_a_file_that_changes_while_it_is_packed_leaves_no_archive(form: str, new_size: int) -> None:
    def change(done: int, total: int) -> None:
        os.truncate("weights.pt", new_size)

    os.truncate("weights.pt", 2 << 20)
    with pytest.raises(ArchiverError, match=r"weights\.pt changed while it was being packed"):
        build_archive(spec(serialized_file=Path("weights.pt"), archive_format=form), change)
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
def test_an_interrupt_leaves_nothing_behind(form: str) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_archive(spec(serialized_file=Path("weights.pt"), archive_format=form), interrupt)
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
def test_an_archive_that_appears_while_packing_is_kept(form: str) -> None:
    late = spec(serialized_file=Path("weights.pt"), archive_format=form)
    first = replace(late, serialized_file=None)

    def be_faster(done: int, total: int) -> None:
        if not os.path.lexists(first.target):
            build_archive(first)

    with pytest.raises(ArchiverError, match="already exists"):
        build_archive(late, be_faster)
    assert list(Path("out").iterdir()) == [first.target]
    assert len(names(first.target)) == 1


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
@pytest.mark.parametrize("links", [True, False])
def test_of_two_archivers_that_race_for_a_name_one_loses(
    form: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    both_checked = threading.Barrier(2, timeout=30)
    results: list[object] = []

    def wait_for_other(done: int, total: int) -> None:
        both_checked.wait()

    def race() -> None:
        contender = spec(serialized_file=Path("weights.pt"), archive_format=form)
        try:
            results.append(build_archive(contender, wait_for_other))
        except ArchiverError as exc:
            results.append(exc.message)

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    won = [result for result in results if isinstance(result, Path)]
    lost = [result for result in results if isinstance(result, str)]
    assert len(won) == 1, results
    assert len(lost) == 1, results
    assert "already exists" in lost[0]
    assert list(Path("out").iterdir()) == won
    assert "weights.pt" in "".join(names(won[0]))


@pytest.mark.parametrize("form", ["default", "no-archive"])
def test_an_archive_can_be_read_by_the_server_of_another_user(form: str) -> None:
    Path("handler.py").chmod(0o700)
    Path("weights.pt").chmod(0o600)
    archive = build_archive(
        spec(handler="handler.py", serialized_file=Path("weights.pt"), archive_format=form)
    )
    umask = os.umask(0)
    os.umask(umask)
    if archive.is_dir():
        assert (archive / "weights.pt").stat().st_mode & 0o777 == 0o644
        assert (archive / "handler.py").stat().st_mode & 0o777 == 0o755
        return
    assert archive.stat().st_mode & 0o777 == 0o666 & ~umask
    with zipfile.ZipFile(archive) as mar:
        assert mar.getinfo("weights.pt").external_attr >> 16 & 0o777 == 0o644


def test_a_file_older_than_zip_is_packaged() -> None:
    os.utime("weights.pt", (0, 0))
    build_archive(spec(serialized_file=Path("weights.pt")))


@pytest.mark.parametrize("form", ["default", "tgz"])
def test_the_model_store_unpacks_what_the_archiver_packed(form: str, tmp_path: Path) -> None:
    Path("weights.pt").write_bytes(bytes(range(256)) * 20_000)
    archive = build_archive(
        spec(
            handler="handler",
            serialized_file=Path("weights.pt"),
            extra_files=("extra",),
            config_file=Path("config.yaml"),
            archive_format=form,
        )
    )
    unpack(archive, tmp_path / "unpacked")
    assert names(tmp_path / "unpacked") == {
        *("handler.py", "weights.pt", "config.yaml", MANIFEST),
        *("a.txt", ".dotfile", "sub/s.txt", "sub/deep/d.txt"),
    }
    for name in ("handler.py", "weights.pt", "extra/sub/deep/d.txt"):
        packed = tmp_path / "unpacked" / name.removeprefix("extra/")
        assert packed.read_bytes() == Path(name).read_bytes()
    read = load_manifest(tmp_path / "unpacked")
    assert read is not None
    assert (read.model_name, read.handler, read.config_file) == ("m", "handler", "config.yaml")


def test_a_missing_export_directory_is_made(caplog: pytest.LogCaptureFixture) -> None:
    assert build_archive(spec(export_path=Path("a/b"))).is_file()
    assert "Export directory (a/b) does not exist. Creating..." in caplog.text


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
def test_a_file_that_may_not_be_read_is_named(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = Path.open

    def guarded_open(path: Path, *arguments: object) -> object:
        if path.name == "weights.pt" and arguments == ("rb",):
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *arguments)  # type: ignore[call-overload]

    # Root may read everything, so taking the permission away would not do.
    monkeypatch.setattr(Path, "open", guarded_open)
    assert (
        refusal(spec(serialized_file=Path("weights.pt"), archive_format=form))
        == "weights.pt: Permission denied"
    )


def test_a_full_disk_leaves_nothing_and_names_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refusal(spec()) == "out/m.mar: No space left on device"
