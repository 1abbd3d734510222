"""TorchServe's tokens: their file, their end, their renewal."""

from __future__ import annotations

import json
import re
import stat
from typing import TYPE_CHECKING

import pytest

from flambeau.frontend.access import Scope
from flambeau.frontend.errors import ConfigError, InvalidKeyError
from flambeau.frontend.tokens import TokenAccess

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_795_809_198.277265


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


def announced(folder: Path, clock: Clock, lifetime: float = 60.0) -> TokenAccess:
    access = TokenAccess(folder, lifetime, clock)
    access.announce()
    return access


def tokens(folder: Path) -> dict[str, str]:
    content = json.loads((folder / "key_file.json").read_text(encoding="ascii"))
    return {name: f"Bearer {value['key']}" for name, value in content.items()}


def test_the_key_file_has_torchserves_form(tmp_path: Path) -> None:
    announced(tmp_path, Clock(), 3600.0)
    text = (tmp_path / "key_file.json").read_text(encoding="ascii")
    form = """{
  "management": {
    "key": "K",
    "expiration time": "2026-11-27T20:53:18.277265Z"
  },
  "inference": {
    "key": "K",
    "expiration time": "2026-11-27T20:53:18.277265Z"
  },
  "API": {
    "key": "K"
  }
}"""
    assert re.sub(r'"key": "[\w-]{32}"', '"key": "K"', text) == form
    assert len(set(tokens(tmp_path).values())) == 3


def test_the_key_file_is_for_its_owner_alone_whatever_lay_there(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    path.symlink_to(elsewhere)
    announced(tmp_path, Clock())
    assert elsewhere.read_text() == "mine"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_two_keys_end_and_the_third_renews_them(tmp_path: Path) -> None:
    clock = Clock()
    access = announced(tmp_path, clock, 6.0)
    given = tokens(tmp_path)
    clock.time = NOW + 5.9
    access.authorize(Scope.INFER, given["inference"])
    access.authorize(Scope.MANAGE, given["management"])
    clock.time = NOW + 6.0
    for scope, name in ((Scope.INFER, "inference"), (Scope.MANAGE, "management")):
        with pytest.raises(InvalidKeyError, match="Token Authorization failed"):
            access.authorize(scope, given[name])

    access.refresh("inference", given["API"])
    access.authorize(Scope.INFER, tokens(tmp_path)["inference"])
    assert tokens(tmp_path)["management"] == given["management"]


def test_metrics_need_no_token(tmp_path: Path) -> None:
    announced(tmp_path, Clock()).authorize(Scope.METRICS, None)


def test_characters_that_no_key_has_are_refused(tmp_path: Path) -> None:
    access = announced(tmp_path, Clock())
    for header in ("Bearer \udcff", "Bearer é", "Bearer \x00"):
        with pytest.raises(InvalidKeyError):
            access.authorize(Scope.INFER, header)


def test_a_key_that_cannot_be_written_down_is_not_renewed(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    access = announced(folder, Clock())
    given = tokens(folder)
    (folder / "key_file.json").unlink()
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        access.refresh("inference", given["API"])
    access.authorize(Scope.INFER, given["inference"])


def test_a_folder_that_cannot_be_written_to_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="disable_token_authorization=true"):
        announced(tmp_path / "missing", Clock())


def test_a_server_takes_its_own_key_file_away_and_no_other(tmp_path: Path) -> None:
    first = announced(tmp_path, Clock())
    second = announced(tmp_path, Clock())
    first.retire()
    assert (tmp_path / "key_file.json").exists()
    second.retire()
    assert not (tmp_path / "key_file.json").exists()
    second.retire()
