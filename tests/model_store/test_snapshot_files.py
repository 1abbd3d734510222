"""Snapshot files: whole or not at all, the last one found."""

from __future__ import annotations

import logging
import os
import re

import pytest

from flambeau.model_store import snapshot

TEXT = "#Saving snapshot\nmodel_snapshot={}\n"


def test_names_are_torchserves():
    name = snapshot.name_at(1795808581.0415, "startup")
    assert re.fullmatch(r"\d{14}041-startup\.cfg", name)


def test_the_last_snapshot_is_found(tmp_path):
    folder = tmp_path / "logs" / "config"
    assert snapshot.latest(folder) is None
    for number, occasion in ((1, "startup"), (3, "shutdown"), (2, "snapshot")):
        snapshot.write(folder, f"2026112719424770{number}-{occasion}.cfg", TEXT)
    snapshot.write(folder, "20261127194247713-startup.cfg", TEXT)
    snapshot.write(folder, "20261127194247713-shutdown.cfg", TEXT)
    found = snapshot.latest(folder)
    assert found is not None
    assert found.name == "20261127194247713-shutdown.cfg"


def test_files_that_are_no_snapshots_do_not_matter(tmp_path):
    path = snapshot.write(tmp_path, "20261127194247710-startup.cfg", TEXT)
    (tmp_path / "99999999-notes.cfg").write_text(TEXT)
    (tmp_path / ".20271127194247710-startup.cfg.1.draft").write_text("half")
    assert snapshot.latest(tmp_path) == path


@pytest.mark.parametrize("text", ["", "#Saving", "model_store=x\n", "model_snapshot={\\n"])
def test_one_that_is_not_complete_is_passed_over(tmp_path, caplog, text):
    path = snapshot.write(tmp_path, "20261127194247710-startup.cfg", TEXT)
    (tmp_path / "20261127194247711-snapshot.cfg").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert snapshot.latest(tmp_path) == path
    assert "20261127194247711-snapshot.cfg is not complete" in caplog.text


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        snapshot.write(tmp_path, "20261127194247710-startup.cfg", TEXT)
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_are_removed(tmp_path):
    for number in range(snapshot.KEPT + 5):
        snapshot.write(tmp_path, f"202611271942{number:05d}-snapshot.cfg", TEXT)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == snapshot.KEPT
    assert names[0] == "20261127194200005-snapshot.cfg"


def test_a_snapshot_is_its_owners_alone(tmp_path):
    path = snapshot.write(tmp_path, "20261127194247710-startup.cfg", TEXT)
    assert path.stat().st_mode & 0o777 == 0o600
