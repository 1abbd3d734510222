"""What a worker's process finds in its environment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from flambeau.frontend.launcher import Launch, LocalLauncher, visible

if TYPE_CHECKING:
    from collections.abc import Mapping


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
            asyncio.run(launcher.start(Launch("9000#1", "ipc://x", "m", 3, {"MINE": "1"})))
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
