"""Whose archives are served. Signatures are made as minisign makes them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flambeau.frontend.config import load_config
from flambeau.frontend.errors import ConfigError
from flambeau.frontend.storage import make_model_store
from flambeau.model_store import signatures
from flambeau.model_store.errors import InvalidModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flambeau.model_store.store import ModelStore


class Signer:
    """A key pair, and signatures in minisign's form."""

    def __init__(self, seed: int) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self._id = bytes([seed]) * 8
        public = self._private.public_key().public_bytes_raw()
        self.public = base64.b64encode(b"Ed" + self._id + public).decode()

    def sign(self, archive: Path, comment: str = "timestamp:1", kind: bytes = b"ED") -> None:
        content = archive.read_bytes()
        hashed = hashlib.blake2b(content).digest() if kind == b"ED" else content
        signature = self._private.sign(hashed)
        lines = [
            "untrusted comment: signature from a test",
            base64.b64encode(kind + self._id + signature).decode(),
            f"trusted comment: {comment}",
            base64.b64encode(self._private.sign(signature + comment.encode())).decode(),
        ]
        signature_of(archive).write_text("\n".join(lines) + "\n")


def signature_of(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.minisig")


OURS, THEIRS = Signer(1), Signer(2)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    manifest = {"model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0"}}
    with zipfile.ZipFile(store / "m.mar", "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("h.py", "def handle(data, context): return data")
    return store / "m.mar"


@pytest.fixture
def make_store(tmp_path: Path, archive: Path) -> Callable[..., ModelStore]:
    def make_store(**settings: object) -> ModelStore:
        lines = {
            "model_store": archive.parent,
            "model_cache_dir": tmp_path / "cache",
            "require_signed": "true",
            **settings,
        }
        file = tmp_path / "config.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        store = make_model_store(load_config({"config": str(file)}, {}, tmp_path))
        assert store is not None
        return store

    return make_store


def refusal(store: ModelStore, url: str = "m.mar") -> str:
    with pytest.raises(InvalidModelError) as refused:
        store.acquire(url)
    return refused.value.message


def test_a_signed_archive_is_served(make_store: Any, archive: Path) -> None:
    OURS.sign(archive)
    store = make_store(trusted_keys=f"{THEIRS.public},{OURS.public}")
    stored = store.acquire("m.mar")
    assert stored.model_dir.is_dir()
    assert store.archives() == ["m.mar"]
    store.release(stored)


def test_an_unsigned_one_is_not_even_unpacked(
    make_store: Any, archive: Path, tmp_path: Path
) -> None:
    store = make_store(trusted_keys=OURS.public)
    assert "there is no m.mar.minisig beside it" in refusal(store)
    assert list((tmp_path / "cache").iterdir()) == []


def test_every_modified_byte_is_found(make_store: Any, archive: Path) -> None:
    OURS.sign(archive)
    store = make_store(trusted_keys=OURS.public)
    content = archive.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        archive.write_bytes(changed)
        assert "its signature is not that of its content" in refusal(store)
    archive.write_bytes(content)
    store.release(store.acquire("m.mar"))


def test_anothers_signature_is_none(make_store: Any, archive: Path) -> None:
    THEIRS.sign(archive)
    store = make_store(trusted_keys=OURS.public)
    assert "a key that is not one of trusted_keys" in refusal(store)
    # Their signature under our key's number.
    text = signature_of(archive).read_text().splitlines()
    raw = base64.b64decode(text[1])
    text[1] = base64.b64encode(raw[:2] + b"\x01" * 8 + raw[10:]).decode()
    signature_of(archive).write_text("\n".join(text))
    assert "its signature is not that of its content" in refusal(store)


def test_a_trusted_comment_cannot_be_changed(make_store: Any, archive: Path) -> None:
    OURS.sign(archive, "file:old.mar")
    signature = signature_of(archive)
    signature.write_text(signature.read_text().replace("old", "new"))
    assert "comment of its signature" in refusal(make_store(trusted_keys=OURS.public))


def test_a_signature_of_the_old_kind_says_what_to_do(make_store: Any, archive: Path) -> None:
    OURS.sign(archive, kind=b"Ed")
    assert "minisign -S -H" in refusal(make_store(trusted_keys=OURS.public))


@pytest.mark.parametrize("content", [b"", b"\n\n\n\n", b"a\nb\ntrusted comment: c\nd\n", b"\xff\n"])
def test_what_is_no_signature_refuses(make_store: Any, archive: Path, content: bytes) -> None:
    signature_of(archive).write_bytes(content)
    message = refusal(make_store(trusted_keys=OURS.public))
    assert message.startswith("m.mar is refused (require_signed=true): its signature cannot be")


def test_a_listed_archive_is_served(make_store: Any, archive: Path, tmp_path: Path) -> None:
    listing = tmp_path / "trusted.sha256"
    listing.write_text("# none yet\n")
    store = make_store(trusted_archives=listing)
    assert "its SHA-256 is not in trusted_archives" in refusal(store)
    # Read again each time: no restart.
    listing.write_text(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  m.mar\n")
    store.release(store.acquire("m.mar"))
    listing.unlink()
    with pytest.raises(StorageError, match="trusted_archives cannot be read"):
        store.acquire("m.mar")


def test_a_folder_cannot_be_signed(make_store: Any, archive: Path) -> None:
    (archive.parent / "folder").mkdir()
    assert "Package it as an archive" in refusal(make_store(trusted_keys=OURS.public), "folder")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs trusted_keys"),
        ({"trusted_archives": "nowhere.txt"}, "there is no file"),
        ({"trusted_keys": "RWQ"}, "trusted_keys.*public keys of minisign"),
        ({"trusted_keys": base64.b64encode(b"Xx" + bytes(40)).decode()}, "trusted_keys"),
    ],
)
def test_what_cannot_work_does_not_start(
    make_store: Any, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_store(**settings)


def test_what_is_checked_is_what_is_unpacked(
    make_store: Any, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another archive, put in its place as soon as the signed one has been read."""
    OURS.sign(archive)
    store = make_store(trusted_keys=OURS.public)
    evil = archive.with_name("evil")
    with zipfile.ZipFile(evil, "w") as file:
        file.writestr("h.py", "evil")
    copy = signatures._copy

    def copy_and_swap(source: Path, target: Path) -> Any:
        found = copy(source, target)
        if evil.exists():
            evil.replace(archive)
        return found

    monkeypatch.setattr(signatures, "_copy", copy_and_swap)
    stored = store.acquire("m.mar")
    assert (stored.model_dir / "h.py").read_text() != "evil"
    assert "its signature is not that of its content" in refusal(store)
    store.release(stored)


def test_names_in_a_list_add_nothing_to_it(make_store: Any, archive: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    listing = tmp_path / "trusted.sha256"
    listing.write_text(f"{'0' * 64}  x\x0b{digest} .mar\n{'1' * 64}  y\u2028{digest}\n")
    assert "is not in trusted_archives" in refusal(make_store(trusted_archives=listing))


def test_a_pipe_for_a_signature_keeps_nobody_waiting(make_store: Any, archive: Path) -> None:
    os.mkfifo(signature_of(archive))
    assert "cannot be read" in refusal(make_store(trusted_keys=OURS.public))


def test_two_keys_of_one_number_both_count(make_store: Any, archive: Path) -> None:
    raw = base64.b64decode(THEIRS.public)
    theirs = base64.b64encode(raw[:2] + b"\x01" * 8 + raw[10:]).decode()
    OURS.sign(archive)
    store = make_store(trusted_keys=f"{OURS.public},{theirs}")
    store.release(store.acquire("m.mar"))
