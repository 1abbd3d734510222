"""``torch-model-archiver`` and ``flambeau archive``: exit codes, and who hears what."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from flambeau.archiver import cli
from flambeau.archiver.packager import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

MINIMAL = ["--model-name", "m", "-v", "1.0", "--handler", "image_classifier"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.archive, [*MINIMAL, *arguments])


def run_as_flambeau(*arguments: str) -> Result:
    group = click.Group("flambeau", commands={"archive": cli.archive})
    return CliRunner().invoke(group, ["archive", *MINIMAL, *arguments])


def test_success_is_silent_where_nobody_watches() -> None:
    result = run()
    assert (result.exit_code, result.output) == (0, "")
    assert zipfile.is_zipfile("m.mar")


@pytest.mark.parametrize("form", FORMATS)
def test_flambeau_archive_says_what_it_wrote_and_how_big_it_is(form: str) -> None:
    result = run_as_flambeau("--archive-format", form)
    assert result.exit_code == 0
    target = next(Path().iterdir())
    assert result.stdout.startswith(f"Wrote {target} (")
    assert result.stdout.endswith(" bytes)\n")


def test_every_flag_reaches_the_archive() -> None:
    for name in ("model.py", "h.py"):
        Path(name).write_text("def go(): ...")
    for name in ("w.pt", "a.json", "b.json", "r.txt"):
        Path(name).write_text(name)
    Path("c.yaml").write_text("minWorkers: 1\n")
    result = CliRunner().invoke(
        cli.archive,
        [
            *("--model-name", "full", "--version", "2.0", "--handler", "h.py:go"),
            *("--model-file", "model.py", "--serialized-file", "w.pt", "--runtime", "python3"),
            *("--extra-files", "a.json, b.json,", "--export-path", "store", "--force"),
            *("--requirements-file", "r.txt", "--config-file", "c.yaml"),
            *("--archive-format", "default"),
        ],
    )
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile("store/full.mar") as mar:
        assert set(mar.namelist()) == {
            *("MAR-INF/MANIFEST.json", "model.py", "h.py", "w.pt", "a.json", "b.json"),
            *("r.txt", "c.yaml"),
        }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model-name", "m", "--handler", "base_handler"], "Missing option '-v' / '--version'"),
        (["-v", "1", "--handler", "base_handler"], "Missing option '--model-name'"),
        (["--model-name", "m", "-v", "1"], "Missing option '--handler'"),
        ([*MINIMAL, "--runtime", "ruby"], "Invalid value for '--runtime'"),
        ([*MINIMAL, "--archive-format", "rar"], "Invalid value for '--archive-format'"),
        ([*MINIMAL, "--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.archive, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("command", [run, run_as_flambeau])
def test_wrong_input_ends_with_1_and_one_line(command: Callable[..., Result]) -> None:
    result = command("--serialized-file", "missing.pt")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "ERROR - Serialized file does not exist: missing.pt\n"
    assert list(Path().iterdir()) == []


def test_overwriting_takes_force_and_is_said() -> None:
    run()
    refused = run()
    assert refused.exit_code == 1
    assert refused.stderr == "ERROR - m.mar already exists. Use --force/-f to overwrite it.\n"
    forced = run("-f")
    assert forced.exit_code == 0
    assert forced.stderr == "WARNING - Overwriting m.mar ...\n"


def test_an_idle_pattern_warns_and_goes_on() -> None:
    result = run("--extra-files", "*.txt")
    assert result.exit_code == 0
    assert result.stderr == "WARNING - Given wildcard pattern did not match any file: *.txt\n"


def test_warnings_are_shown_once_after_several_runs() -> None:
    run("--extra-files", "*.txt")
    assert run("-f", "--extra-files", "*.txt").stderr.count("wildcard") == 1


def test_help_explains_every_flag() -> None:
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(cli.archive, [flag])
        assert result.exit_code == 0
        for option in cli.archive.params:
            assert option.opts[0] in result.output
            assert getattr(option, "help", "")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (1_500_000_000, "1.5 GB"),
        (2_000_000_000_000, "2000.0 GB"),
    ],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert cli._size_text(size) == text


def test_the_console_command_works_without_importing_torch() -> None:
    code = (
        "import sys; from flambeau.archiver.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *MINIMAL], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert zipfile.is_zipfile("m.mar")


def test_a_bar_appears_on_a_terminal_when_packing_takes_long() -> None:
    """The clock runs a second per look here, so that the second report is late already."""
    Path("w.pt").write_bytes(b"\0" * (5 << 20))
    code = (
        "import itertools, time; clock = itertools.count()\n"
        "time.monotonic = lambda: float(next(clock))\n"
        "from flambeau.archiver.cli import main; main()"
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *MINIMAL, "--serialized-file", "w.pt"],
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
        )
        seen = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "Packing m" in seen
    assert "100%" in seen


def test_no_bar_appears_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("w.pt").write_bytes(b"\0" * (5 << 20))
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    result = run("--serialized-file", "w.pt")
    assert (result.exit_code, result.output) == (0, "")
