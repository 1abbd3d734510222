"""Unpacking: what is safe appears complete, what is not leaves nothing behind."""

from __future__ import annotations

import gzip
import os
import random
import stat
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_bench import below, model_members, snapshot, write_tar, write_zip

from flambeau.model_store.archive import Limits, digest, unpack
from flambeau.model_store.errors import InvalidModelError

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = Limits(max_entries=20, max_total_bytes=10_000, min_allowance=10_000)


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def unpacked(source: Path) -> list[str]:
    target = source.parent / "target"
    unpack(source, target)
    return names_in(target)


def refusal_of(source: Path, limits: Limits = SMALL) -> str:
    """The message of the refusal, after checking that it left everything as it was."""
    before = snapshot(source.parent)
    with pytest.raises(InvalidModelError) as caught:
        unpack(source, source.parent / "target", limits)
    assert snapshot(source.parent) == before
    assert str(source.parent) not in caught.value.message
    return caught.value.message


def tar_member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member


def zip_with_mode(path: Path, name: str, mode: int) -> Path:
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("handler.py", "x")
        archive.writestr(member, "/etc/passwd")
    return path


def patched(path: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    """The archive with bytes replaced: what no archiver would write."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, count))
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_unpacked_with_its_contents(tmp_path: Path, compression: int) -> None:
    weights = random.Random(1).randbytes(3_000_000)
    with zipfile.ZipFile(tmp_path / "m.mar", "w", compression) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
        archive.writestr("empty/", "")
        archive.writestr("sub/deep/weights.pt", weights)
    unpack(tmp_path / "m.mar", tmp_path / "target")
    assert names_in(tmp_path / "target") == ["MAR-INF/MANIFEST.json", "sub/deep/weights.pt"]
    assert (tmp_path / "target/sub/deep/weights.pt").read_bytes() == weights
    assert (tmp_path / "target/empty").is_dir()
    assert sorted(os.listdir(tmp_path)) == ["m.mar", "target"]


def test_a_tar_loses_its_root_folder(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "m.tar.gz", below("noop", model_members()))
    assert unpacked(source) == ["MAR-INF/MANIFEST.json", "handler.py"]


def test_a_tar_of_several_root_folders_loses_them_all(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "m.tar.gz", {"a/x": "1", "b/sub/y": "2", "z": "3"})
    assert unpacked(source) == ["sub/y", "x", "z"]


def test_a_tar_without_a_root_folder_keeps_its_manifest(tmp_path: Path) -> None:
    members = {"lib/a.py": "x", **model_members()}
    source = write_tar(tmp_path / "m.tar.gz", members)
    assert unpacked(source) == ["MAR-INF/MANIFEST.json", "handler.py", "lib/a.py"]


def test_a_tar_made_from_inside_the_folder_keeps_its_names(tmp_path: Path) -> None:
    members = {"./lib/a.py": "x", "./handler.py": "y"}
    source = write_tar(tmp_path / "m.tar.gz", members)
    assert unpacked(source) == ["handler.py", "lib/a.py"]


def test_root_folders_that_hold_the_same_name_are_refused(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "m.tar.gz", {"a/x": "1", "b/x": "2"})
    assert "'x' is there twice without the root folders" in refusal_of(source)


def test_the_kind_is_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.mar", below("noop", model_members()))
    write_zip(tmp_path / "b.model", model_members())
    for index, name in enumerate(("a.mar", "b.model")):
        unpack(tmp_path / name, tmp_path / str(index))
        assert names_in(tmp_path / str(index)) == ["MAR-INF/MANIFEST.json", "handler.py"]


@pytest.mark.parametrize("suffix", [".mar", ".tar.gz"])
def test_modes_are_ours_whatever_the_archive_and_the_umask_say(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"m{suffix}"
    if suffix == ".mar":
        zip_with_mode(source, "sub/tool", stat.S_IFREG | 0o6777)
    else:
        members = [tar_member("r/handler.py"), tar_member("r/sub/tool")]
        for member in members:
            member.mode, member.uid = 0o7777, 4242
        write_tar(source, members)
    before = os.umask(0o077)
    try:
        unpack(source, tmp_path / "target")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode for path in (tmp_path / "target").rglob("*")}
    modes[tmp_path] = (tmp_path / "target").stat().st_mode
    files = {mode for mode in modes.values() if stat.S_ISREG(mode)}
    folders = {mode for mode in modes.values() if stat.S_ISDIR(mode)}
    assert files == {stat.S_IFREG | 0o644}
    assert folders == {stat.S_IFDIR | 0o755}


def test_weights_are_for_reading_so_that_workers_may_map_them(tmp_path: Path) -> None:
    write_zip(tmp_path / "m.mar", {**model_members(), "net.pt": b""})
    unpack(tmp_path / "m.mar", tmp_path / "target")
    names = ("net.pt", "handler.py")
    modes = [stat.S_IMODE((tmp_path / "target" / name).stat().st_mode) for name in names]
    assert modes == [0o444, 0o644]


UNSAFE_NAMES = [
    "../x",
    "a/../../x",
    "a/..",
    "/etc/x",
    "//x",
    "C:/x",
    "c:x",
    "a\\b",
    "..\\x",
    "a\nb",
    "a\x7fb",
    "a/" * 65 + "x",
    "y" * 256,
    ("z" * 200 + "/") * 6 + "x",
]


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_a_zip_with_an_unsafe_name_is_refused(tmp_path: Path, name: str) -> None:
    source = write_zip(tmp_path / "m.mar", {"handler.py": "x", name: "pwned"})
    assert refusal_of(source).startswith("m.mar is refused: ")


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_a_tar_with_an_unsafe_name_is_refused(tmp_path: Path, name: str) -> None:
    source = write_tar(tmp_path / "m.tar.gz", {"r/handler.py": "x", name: "pwned"})
    assert refusal_of(source).startswith("m.tar.gz is refused: ")


def test_a_nul_byte_in_a_name_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m.mar", {"handler.py": "x", "good.py?.txt": "x"})
    assert "control character" in refusal_of(patched(source, b"good.py?", b"good.py\0"))
    member = tar_member("r/x")
    member.pax_headers = {"path": "r/x\0.py"}
    tar = write_tar(tmp_path / "m.tar.gz", [member])
    assert "control character" in refusal_of(tar)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "m.tar.gz", "w:gz", format=tarfile.GNU_FORMAT, errors="surrogateescape"
    ) as archive:
        archive.addfile(tar_member("r/\udcff"))
    assert "is not UTF-8" in refusal_of(tmp_path / "m.tar.gz")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    source = zip_with_mode(tmp_path / "m.mar", "evil", kind | 0o777)
    assert refusal_of(source) == "m.mar is refused: 'evil' is a link or another special file"


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    members = [tar_member("r/handler.py"), tar_member("r/evil", kind, link="/etc")]
    source = write_tar(tmp_path / "m.tar.gz", [*members, tar_member("r/evil/x")])
    assert refusal_of(source) == ("m.tar.gz is refused: 'r/evil' is a link or another special file")


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        ("x.py", "x.py", "'x.py' is there twice"),
        ("x.py", "./x.py", "'x.py' is there twice"),
        ("a/x.py", "a//x.py", "'a/x.py' is there twice"),
        ("caf\u00e9", "cafe\u0301", "is there twice"),
        ("caf\u00e9/a", "cafe\u0301/b", "is there twice, spelt differently"),
        ("x", "x/y", "uses the file 'x' as a folder"),
        ("x/y", "x", "'x' is there twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_mean_the_same_file_are_refused(
    tmp_path: Path, first: str, second: str, part: str
) -> None:
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr(first, "1")
        archive.writestr(second, "2")
    assert part in refusal_of(tmp_path / "m.mar")
    tar = write_tar(tmp_path / "m.tar.gz", [tar_member(first), tar_member(second)])
    assert part in refusal_of(tar)


def test_folders_may_be_named_again(tmp_path: Path) -> None:
    members = [tar_member("r/a", tarfile.DIRTYPE), tar_member("r/a/x")]
    source = write_tar(tmp_path / "m.tar.gz", [*members, tar_member("r/a", tarfile.DIRTYPE)])
    assert unpacked(source) == ["a/x"]


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_too_many_entries_are_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    source = write(tmp_path / "m", {f"r/{number}": "" for number in range(21)})
    assert "it has more than 20 entries" in refusal_of(source)


def test_folders_that_are_only_implied_count_as_entries(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m.mar", {f"{number}/a/b/c/d/x": "" for number in range(5)})
    assert "it has more than 20 entries" in refusal_of(source)


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_hundred_thousand_entries_are_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    if write is write_zip:
        source = write(tmp_path / "m", {f"{number}": "" for number in range(100_000)})
    else:
        # One header, repeated: tarfile takes long to write so many.
        header = tar_member("r/x").tobuf(tarfile.USTAR_FORMAT)
        source = tmp_path / "m"
        headers = (tar_member(f"r/{n}").tobuf(tarfile.USTAR_FORMAT) for n in range(10_001))
        source.write_bytes(gzip.compress(b"".join(headers) + header * 90_000, 1))
    assert "it has more than 10000 entries" in refusal_of(source, Limits())


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_more_bytes_than_allowed_are_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    source = write(tmp_path / "m", {"r/a": b"x" * 6000, "r/b": b"x" * 6000})
    assert "it unpacks to more than the 10000 bytes" in refusal_of(source)


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path, write: Callable[..., Path]) -> None:
    source = write(tmp_path / "m", {"r/zeros": bytes(5_000_000)})
    allowance = 100 * source.stat().st_size
    limits = Limits(min_allowance=1000)
    assert f"more than the {allowance} bytes" in refusal_of(source, limits)
    unpack(source, tmp_path / "ok", Limits(max_ratio=2000, min_allowance=1000))


def test_a_zip_that_lies_about_its_size_is_stopped_by_what_it_gives(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m.mar", {"zeros": bytes(5_000_000)})
    patched(source, struct.pack("<L", 5_000_000), struct.pack("<L", 100))
    assert "m.mar is not a readable archive: " in refusal_of(source)


def test_a_tar_whose_header_alone_is_enormous_is_refused(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        source = write_tar(tmp_path / "m.tar.gz", [tar_member("r/x", kind, size=1 << 20)])
        assert "its headers, or what follows its end, are too large" in refusal_of(source)


def test_a_zip_whose_directory_is_enormous_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "m.mar"
    with zipfile.ZipFile(source, "w") as archive:
        for number in range(100):
            member = zipfile.ZipInfo(str(number))
            member.comment = b"x" * 60_000
            archive.writestr(member, "")
    assert "its directory is too large" in refusal_of(source)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m.mar", {"handler.py": "x"})
    content = bytearray(source.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(content)
    assert refusal_of(source) == "m.mar is refused: 'handler.py' is encrypted"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "m.mar", "w", compression) as archive:
        archive.writestr("handler.py", "x")
    assert "use deflate or store" in refusal_of(tmp_path / "m.mar")


@pytest.mark.parametrize(
    "content",
    [b"", b"P", b"PK", b"PK\x03\x04 no", b"\x1f\x8b", b"#!/bin/sh\n", gzip.compress(b"x", mtime=0)],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "m.mar"
    source.write_bytes(content)
    assert refusal_of(source).startswith("m.mar is not a readable archive: ")


def test_folders_and_missing_files_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "m.mar").mkdir()
    assert "not a regular file" in refusal_of(tmp_path / "m.mar")
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "none.mar", tmp_path / "target")
    assert os.listdir(tmp_path) == ["m.mar"]


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_an_archive_of_nothing_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    source = write(tmp_path / "m", {})
    assert refusal_of(source).startswith("m is not a readable archive: ")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_truncated_archive_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    source = write(tmp_path / "m", {"r/w": random.Random(1).randbytes(9000), "r/h.py": "x"})
    content = source.read_bytes()
    for end in range(len(content) - 1, 0, -611):
        source.write_bytes(content[:end])
        assert refusal_of(source).startswith("m is ")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_flipped_bit_in_the_weights_is_noticed(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    source = write(tmp_path / "m", {"r/w": random.Random(1).randbytes(9000)})
    content = bytearray(source.read_bytes())
    content[4500] ^= 1
    source.write_bytes(content)
    assert refusal_of(source).startswith("m is not a readable archive: ")


@pytest.mark.parametrize("existing", ["file", "folder", "link"])
def test_a_target_that_exists_is_left_alone(tmp_path: Path, existing: str) -> None:
    source = write_zip(tmp_path / "m.mar", {"handler.py": "x"})
    target = tmp_path / "target"
    if existing == "file":
        target.write_text("mine")
    elif existing == "folder":
        target.mkdir()
    else:
        os.symlink("nowhere", target)
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError):
        unpack(source, target)
    assert snapshot(tmp_path) == before


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_zip(tmp_path / "m.mar", {"a": "x", "b": "y"})
    before = snapshot(tmp_path)

    def no_space(fd: int, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", no_space)
    with pytest.raises(OSError, match="No space left"):
        unpack(source, tmp_path / "target")
    assert snapshot(tmp_path) == before


def test_a_files_digest_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_folders_digest_changes_with_its_files_only(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.py").write_text("x")
    first = digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.pyc").write_text("compiled")
    assert digest(tmp_path) == first
    os.symlink("nowhere", tmp_path / "dangling")
    second = digest(tmp_path)
    assert second != first
    (tmp_path / "sub/a.py").write_text("xy")
    assert digest(tmp_path) not in (first, second)


name_parts = st.sampled_from(
    ["a", "b", "..", ".", "", "C:", "MAR-INF", "\\", "\x00", "é", "e\u0301", "\n", "x" * 300]
)
member_names = st.lists(name_parts, min_size=1, max_size=4).map("/".join).filter(bool) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12
)


def unpack_or_leave_nothing(write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "inner").mkdir()
        source = base / "inner" / "m"
        write(source)
        before = snapshot(base)
        try:
            unpack(source, base / "inner" / "target", SMALL)
        except InvalidModelError:
            assert snapshot(base) == before
            return
        after = snapshot(base)
        new = set(after) - set(before)
        assert all(each.split("/")[:2] == ["inner", "target"] for each in new)
        assert {each: after[each] for each in before} == before
        assert not any(stat.S_ISLNK(mode) for mode, _ in after.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(member_names, min_size=1, max_size=5))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_of_any_names_stay_inside_or_leave_nothing(names: list[str]) -> None:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                member = zipfile.ZipInfo("x")
                # Set later, for ZipInfo would tidy the name.
                member.filename = name
                archive.writestr(member, "x")

    unpack_or_leave_nothing(write)


tar_kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(member_names, tar_kinds, member_names), min_size=1, max_size=5))
def test_tars_of_any_names_stay_inside_or_leave_nothing(
    members: list[tuple[str, bytes, str]],
) -> None:
    def write(path: Path) -> None:
        write_tar(path, [tar_member(name, kind, link=link) for name, kind, link in members])

    unpack_or_leave_nothing(write)


def good_archive(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        members = below("r", model_members())
        path = Path(name, "m")
        source = write_zip(path, members) if suffix == "zip" else write_tar(path, members)
        return source.read_bytes()


GOOD = {"zip": good_archive("zip"), "tar": gzip.decompress(good_archive("tar"))}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["zip", "tar"]),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
    end=st.none() | st.integers(0, 4000),
)
def test_damaged_archives_unpack_or_leave_nothing(
    kind: str, edits: list[tuple[int, int]], end: int | None
) -> None:
    content = bytearray(GOOD[kind])[:end]
    for place, value in edits:
        if content:
            content[place % len(content)] = value
    damaged = bytes(content) if kind == "zip" else gzip.compress(bytes(content), 1)

    def write(path: Path) -> None:
        path.write_bytes(damaged)

    unpack_or_leave_nothing(write)


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_large_file_never_is_in_memory_whole(tmp_path: Path, suffix: str) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(random.Random(1).randbytes(30_000_000))
    source = tmp_path / "m.mar"
    if suffix == "zip":
        with zipfile.ZipFile(source, "w", zipfile.ZIP_STORED) as archive:
            archive.write(weights, "weights.pt")
    else:
        with tarfile.open(source, "w:gz", compresslevel=1) as tar:
            tar.add(weights, "r/weights.pt")
    tracemalloc.start()
    try:
        digest(source)
        unpack(source, tmp_path / "target")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert (tmp_path / "target/weights.pt").read_bytes() == weights.read_bytes()
