"""API keys: what a file of them may say, and how it is read again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.access import Scope
from flambeau.frontend.api_keys import (
    KeyAccess,
    KeyFile,
    digest_text,
    entry_line,
    new_key,
    read_keys,
)
from flambeau.frontend.errors import ConfigError, ForbiddenError, UnauthenticatedError

if TYPE_CHECKING:
    from pathlib import Path

KEY = "correct-horse-battery-staple"
OTHER = "another-key-of-some-length"


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def entry(name: str = "a", key: str = KEY, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": digest_text(key), "scopes": ["infer"], **more}


def access(*entries: dict[str, Any]) -> KeyAccess:
    return KeyAccess(read_keys(json.dumps(entries), "test"))


def write(path: Path, *entries: dict[str, Any]) -> None:
    """As an editor or a mounted secret does: the new file takes the old one's place."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(entries), encoding="utf-8")
    draft.replace(path)


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Path, Clock, KeyAccess]:
    path, clock = tmp_path / "keys.yaml", Clock()
    write(path, entry())
    return path, clock, KeyAccess((), KeyFile(path, clock))


def test_a_key_opens_its_scopes_and_no_others() -> None:
    found = access(entry(scopes=["infer", "metrics"]))
    assert found.authorize(Scope.INFER, f"Bearer {KEY}").holder == "a"
    found.authorize(Scope.METRICS, f"bearer {KEY}")
    with pytest.raises(ForbiddenError, match="The key a lacks the scope manage"):
        found.authorize(Scope.MANAGE, f"Bearer {KEY}")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY} x", "Bearer \udcff"],
)
def test_without_a_key_that_is_known_nothing_opens(header: str | None) -> None:
    with pytest.raises(UnauthenticatedError):
        access(entry()).authorize(Scope.INFER, header)


def test_the_hash_of_a_key_is_not_the_key() -> None:
    with pytest.raises(UnauthenticatedError):
        access(entry()).authorize(Scope.INFER, f"Bearer {digest_text(KEY)}")


def test_a_key_with_models_is_for_these_alone() -> None:
    grant = access(entry(models=["m"])).authorize(Scope.INFER, f"Bearer {KEY}")
    grant.require_model("m")
    with pytest.raises(ForbiddenError):
        grant.require_model("other")


def test_keys_may_be_written_in_yaml() -> None:
    text = f"# of the shop\n- name: a\n  sha256: {digest_text(KEY)}\n  scopes:\n    - infer\n"
    found = KeyAccess(read_keys(text, "test"))
    assert found.authorize(Scope.INFER, f"Bearer {KEY}").models is None


def test_the_line_for_a_new_key_lets_it_in() -> None:
    key = new_key()
    line = entry_line("shop", key, ["infer"], ["it's: [m]"])
    assert key not in line
    grant = KeyAccess(read_keys(line, "test")).authorize(Scope.INFER, f"Bearer {key}")
    grant.require_model("it's: [m]")
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must be a list of keys"),
        ("{}", "must be a list of keys"),
        ("[", "must be a list in YAML or JSON"),
        ("- !!python/object/apply:os.system [id]", "must be a list in YAML or JSON"),
        ("[1]", "entry 1 is not like"),
        (json.dumps([entry(), 1]), "entry 2 is not like"),
        (json.dumps([entry(scope="x")]), "unknown field 'scope'"),
        (json.dumps([entry(name="")]), "needs a name"),
        (json.dumps([entry(name="a b")]), "needs a name"),
        (json.dumps([entry(scopes=[])]), "needs a list of scopes"),
        (json.dumps([entry(scopes="infer")]), "needs a list of scopes"),
        (json.dumps([entry(scopes=["admin"])]), "unknown scope; known are infer, manage, metrics"),
        (json.dumps([entry(models=[])]), "needs a list of models"),
        (json.dumps([entry(models=None)]), "needs a list of models"),
        ("- !!timestamp x", "must be a list in YAML or JSON"),
        ("- !!bool x", "must be a list in YAML or JSON"),
        (json.dumps([entry(models=[1])]), "models that are not text"),
        (json.dumps([entry(sha256="abc")]), "needs a sha256 of 64"),
        (json.dumps([entry(sha256=KEY)]), "needs a sha256 of 64"),
        (json.dumps([{"name": "a", "scopes": ["infer"]}]), "needs either sha256 or key"),
        (json.dumps([{**entry(), "key": KEY}]), "needs either sha256 or key"),
        (json.dumps([{"name": "a", "scopes": ["infer"], "key": "short"}]), "at least 22"),
        (json.dumps([{"name": "a", "scopes": ["infer"], "key": KEY + " x"}]), "without spaces"),
        (json.dumps([entry(), entry(key=OTHER)]), "entry 2 has the name a"),
        (json.dumps([entry(), entry(name="b")]), "entry 2 is the same key"),
    ],
)
def test_a_list_that_is_wrong_is_refused_without_telling_a_key(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_keys(text, "keys.yaml")
    assert caught.value.message.startswith("keys.yaml: ")
    assert fault in caught.value.message
    assert KEY not in caught.value.message


WORDS = [
    "- ",
    "name: ",
    "sha256: ",
    "models: ",
    "a",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "\n",
    "  ",
    "!!",
    "&a",
]
WORDS += [
    "*a",
    "!!set ",
    "!!omap ",
    "!!pairs ",
    "!!binary ",
    "!!float ",
    "2020-99-99",
    "? ",
    "<<",
    "#",
]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        read_keys(text, "keys.yaml")


def test_a_plain_key_works_and_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(json.dumps([{"name": "a", "key": KEY, "scopes": ["infer"]}]))
    found = KeyAccess((), KeyFile(path))
    assert "holds the keys of a themselves" in caplog.text
    assert KEY not in caplog.text
    found.authorize(Scope.INFER, f"Bearer {KEY}")


def test_a_file_that_changes_is_read_again_within_a_second(
    watched: tuple[Path, Clock, KeyAccess],
) -> None:
    path, clock, found = watched
    found.authorize(Scope.INFER, f"Bearer {KEY}")
    write(path, entry(name="b", key=OTHER))
    clock.time = 0.9
    found.authorize(Scope.INFER, f"Bearer {KEY}")
    clock.time = 1.0
    assert found.authorize(Scope.INFER, f"Bearer {OTHER}").holder == "b"
    with pytest.raises(UnauthenticatedError):
        found.authorize(Scope.INFER, f"Bearer {KEY}")


def test_a_change_that_keeps_size_and_time_is_seen(watched: tuple[Path, Clock, KeyAccess]) -> None:
    path, clock, found = watched
    before = path.stat()
    write(path, entry(key=OTHER))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.time = 2.0
    found.authorize(Scope.INFER, f"Bearer {OTHER}")


@pytest.mark.parametrize("damage", ["broken", "missing", "too long"])
def test_a_file_that_breaks_leaves_the_keys_as_they_were(
    watched: tuple[Path, Clock, KeyAccess], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path, clock, found = watched
    match damage:
        case "broken":
            path.write_text("[")
        case "missing":
            path.unlink()
        case _:
            path.write_bytes(b" " * (2**20 + 1))
    for clock.time in (1.0, 2.0, 3.0):
        found.authorize(Scope.INFER, f"Bearer {KEY}")
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "The keys stay as they were." in errors[0].getMessage()

    write(path, entry(key=OTHER))
    clock.time = 4.0
    found.authorize(Scope.INFER, f"Bearer {OTHER}")


def test_a_list_that_is_emptied_lets_nobody_in(watched: tuple[Path, Clock, KeyAccess]) -> None:
    path, clock, found = watched
    write(path)
    clock.time = 1.0
    with pytest.raises(UnauthenticatedError):
        found.authorize(Scope.INFER, f"Bearer {KEY}")


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        KeyFile(tmp_path / "keys.yaml")


def test_keys_of_the_environment_stay_beside_those_of_the_file(
    watched: tuple[Path, Clock, KeyAccess],
) -> None:
    path, _, _ = watched
    given = read_keys(json.dumps([entry(name="b", key=OTHER)]), "api_keys")
    found = KeyAccess(given, KeyFile(path))
    assert found.authorize(Scope.INFER, f"Bearer {KEY}").holder == "a"
    assert found.authorize(Scope.INFER, f"Bearer {OTHER}").holder == "b"
