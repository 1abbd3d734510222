"""flambeau scan: what in an archive is code."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from flambeau.frontend.cli import main


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def archive(folder: Path, **files: bytes) -> str:
    manifest = {"model": {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0"}}
    with zipfile.ZipFile(folder / "m.mar", "w") as made:
        made.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        for name, content in files.items():
            made.writestr(name.replace("_", "."), content)
    return str(folder / "m.mar")


def scan(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["scan", *arguments])


def test_a_handler_is_no_surprise(tmp_path: Path) -> None:
    result = scan(archive(tmp_path, handler_py=b""))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "m.mar:",
        "FILE        IS    WHAT",
        "handler.py  code  Python code",
    ]
    assert scan("--no-code", archive(tmp_path, handler_py=b"")).exit_code == 1


def test_hidden_code_is_found_and_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = scan(archive(tmp_path, weights_pth=pickle.dumps(Evil())))
    assert result.exit_code == 1
    assert f"weights.pth  hidden code  a pickle that calls {os.name}.system" in result.stdout
    assert not Path("ran").exists()


def test_a_folder_and_plain_data(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{}")
    result = scan("--no-code", str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path.name}: plain data only\n")


def test_what_is_no_archive_fails_and_the_others_are_scanned(tmp_path: Path) -> None:
    (tmp_path / "no.mar").write_text("nothing")
    result = scan(str(tmp_path / "no.mar"), archive(tmp_path, handler_py=b""))
    assert result.exit_code == 1
    assert result.stderr.startswith("no.mar: no.mar is not a readable archive")
    assert "handler.py" in result.stdout
    assert scan(str(tmp_path / "absent.mar")).exit_code == 2
