"""What a worker's process finds in its environment."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from flambeau.frontend import template
from flambeau.frontend.launcher import Launch, LocalLauncher, visible

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Stopped(Exception):
    pass


class Kept(LocalLauncher):
    """Starts nothing, and keeps the environment that it was to start it with."""

    environ: Mapping[str, str]

    async def _spawn(self, launch: Launch, environ: Mapping[str, str], out: int, err: int) -> None:  # type: ignore[override]
        self.environ = environ
        raise Stopped


def environment(environ: Mapping[str, str]) -> Mapping[str, str]:
    launcher = Kept("python", environ)
    try:
        with pytest.raises(Stopped):
            asyncio.run(
                launcher.start(Launch("m/1.0/9000#1", "ipc://x", ("m", "1.0"), 3, {"MINE": "1"}))
            )
    finally:
        launcher.close()
    return launcher.environ


def test_threads_are_shared_out_and_nothing_is_reported_to_others() -> None:
    environ = environment(visible({"SECRET": "1", "PATH": "/bin"}, "SEC.*"))
    assert environ["OMP_NUM_THREADS"] == environ["MKL_NUM_THREADS"] == "3"
    assert environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert environ["MINE"] == "1"
    assert "SECRET" not in environ


def test_what_the_operator_sets_is_kept() -> None:
    environ = environment({"OMP_NUM_THREADS": "7", "ORT_DISABLE_TELEMETRY": "0"})
    assert (environ["OMP_NUM_THREADS"], environ["ORT_DISABLE_TELEMETRY"]) == ("7", "0")


def test_a_template_that_does_not_answer_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "never_done.py").write_text("import time\nwhile True: time.sleep(1)\n")
    monkeypatch.setattr(template, "COPY_TIME", 0.2)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    async def ask() -> None:
        made = template.Template(sys.executable, environ, "never_done", [])
        assert not made.was_ready
        with pytest.raises(template.TemplateLost):
            await made.copy({}, 0, 0)
        assert made.is_lost

    asyncio.run(ask())
