"""Which model's files have changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flambeau.frontend.reload import as_of, changes, states

if TYPE_CHECKING:
    from pathlib import Path

A, B = ("a", "1.0"), ("b", "1.0")


def write(path: Path, text: str, time: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def test_a_handler_file_concerns_its_own_model_and_what_lies_beside_it_both(tmp_path):
    models = {A: (tmp_path, "a.py"), B: (tmp_path, "b.py")}
    write(tmp_path / "a.py", "1", 1)
    write(tmp_path / "b.py", "1", 1)
    write(tmp_path / "shared.py", "1", 1)
    before = states(models)
    write(tmp_path / "a.py", "1", 2)
    after = states(models)
    assert changes(before[A], after[A]) == ["a.py"]
    assert changes(before[B], after[B]) == []
    write(tmp_path / "shared.py", "12", 1)
    assert [changes(after[key], states(models)[key]) for key in models] == [["shared.py"]] * 2


def test_every_file_of_a_folder_counts_but_not_what_python_writes(tmp_path):
    models = {A: (tmp_path, None)}
    write(tmp_path / "handler.py", "1", 1)
    before = states(models)
    write(tmp_path / "__pycache__" / "handler.pyc", "1", 1)
    write(tmp_path / ".handler.py.swp", "1", 1)
    assert states(models) == before
    write(tmp_path / "data" / "labels.json", "1", 1)
    (tmp_path / "handler.py").unlink()
    assert changes(before[A], states(models)[A]) == ["data/labels.json", "handler.py"]


def test_many_changes_are_told_in_short():
    after = {f"f{number}": (1, 1) for number in range(9)}
    assert changes({}, after) == ["f0", "f1", "f2", "6 more"]


def test_what_changed_after_the_workers_had_read_it_is_a_change_at_the_first_look(tmp_path):
    models = {A: (tmp_path, "a.py")}
    write(tmp_path / "a.py", "1", 100)
    write(tmp_path / "shared.py", "1", 100)
    (state,) = states(models).values()
    assert changes(as_of(101.0, state), state, "a.py") == []
    assert changes(as_of(float("inf"), state), state, "a.py") == []
    write(tmp_path / "shared.py", "1", 103)
    (state,) = states(models).values()
    assert changes(as_of(101.0, state), state, "a.py") == ["shared.py"]


def test_another_draft_in_the_folder_concerns_nobody(tmp_path):
    models = {A: (tmp_path, "a.py")}
    write(tmp_path / "a.py", "1", 1)
    before = states(models)
    write(tmp_path / "draft.py", "1", 1)
    after = states(models)
    assert changes(before[A], after[A], "a.py") == []
    assert changes(after[A], before[A], "a.py") == []
    write(tmp_path / "draft.py", "12", 1)
    assert changes(after[A], states(models)[A], "a.py") == ["draft.py"]
