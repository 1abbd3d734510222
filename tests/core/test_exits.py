"""Why a process ended: from its exit code, and from what the kernel counts."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from flambeau.frontend.exits import UNKNOWN_CODE, Exit, ExitReason, Oom, classify
from flambeau.frontend.oom_kills import OomKills
from flambeau.worker.protocol import EXIT_CUDA_ERROR

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("code", "oom", "reason", "name", "status"),
    [
        (0, Oom.NO, ExitReason.EXIT_CODE, None, 500),
        (3, Oom.NO, ExitReason.EXIT_CODE, None, 500),
        (-signal.SIGSEGV, Oom.NO, ExitReason.SIGNAL, "SIGSEGV", 500),
        (-signal.SIGKILL, Oom.NO, ExitReason.SIGNAL, "SIGKILL", 507),
        (-signal.SIGKILL, Oom.KILLED, ExitReason.OOM_KILL, "SIGKILL", 507),
        (-signal.SIGKILL, Oom.NEARBY, ExitReason.SIGNAL, "SIGKILL", 507),
        (-77, Oom.NO, ExitReason.SIGNAL, "signal 77", 500),
        (EXIT_CUDA_ERROR, Oom.NO, ExitReason.CUDA_ERROR, None, 500),
        (UNKNOWN_CODE, Oom.NO, ExitReason.UNKNOWN, None, 500),
    ],
)
def test_a_code_is_named(code, oom, reason, name, status):
    exit = classify("m/1/9000#1", code, 5.0, ("last",), oom)
    assert (exit.reason, exit.signal, exit.status, exit.at) == (reason, name, status, 5.0)
    assert exit.code == (None if code == UNKNOWN_CODE else code)
    assert exit.explanation == f"{exit.message} Its last words: last"
    assert ("had killed a process of its control group" in exit.message) == (oom is Oom.NEARBY)


def test_a_worker_that_hung_up_tells_by_its_end_what_it_had_unless_that_was_forced():
    lost = Exit("m", ExitReason.UNREACHABLE, "It cannot be reached.", 1.0, lived=7.0, served=3)
    facts = classify("m", -signal.SIGKILL, 2.0, ("last",))
    told = lost.completed(facts, was_forced=False)
    assert (told.reason, told.lived, told.served) == (ExitReason.SIGNAL, 7.0, 3)
    forced = lost.completed(facts, was_forced=True)
    assert (forced.reason, forced.signal, forced.tail) == (
        ExitReason.UNREACHABLE,
        "SIGKILL",
        ("last",),
    )


class Kernel:
    """Files as the kernel shows them, of a process 7 in a group ``/pod``."""

    def __init__(self, base: Path, *, v1: bool, is_mounted_alone: bool = False) -> None:
        proc = base / "proc/7"
        proc.mkdir(parents=True)
        lines = "5:cpu,cpuacct:/elsewhere\n4:memory:/pod\n0::/\n" if v1 else "0::/pod\n"
        (proc / "cgroup").write_text(lines)
        root = base / "cgroup/memory" if v1 else base / "cgroup"
        group = root if is_mounted_alone else root / "pod"
        group.mkdir(parents=True)
        self._file = group / ("memory.oom_control" if v1 else "memory.events")
        self._before = "oom_kill_disable 0\nunder_oom 0\n" if v1 else "low 0\noom 9\n"
        self.count(5)
        self.kills = OomKills(base / "proc", base / "cgroup")

    def count(self, kills: int) -> None:
        after = "" if "under_oom" in self._before else "oom_group_kill 8\n"
        self._file.write_text(f"{self._before}oom_kill {kills}\n{after}")


@pytest.mark.parametrize("v1", [True, False])
@pytest.mark.parametrize("is_mounted_alone", [True, False])
def test_a_kill_that_the_group_counts_explains_one_death(tmp_path, v1, is_mounted_alone):
    kernel = Kernel(tmp_path, v1=v1, is_mounted_alone=is_mounted_alone)
    group = kernel.kills.watch(7, 100.0)
    assert group is not None
    assert not kernel.kills.explains(group, 101.0)
    kernel.count(6)
    assert kernel.kills.explains(group, 102.0)
    assert not kernel.kills.explains(group, 102.1), "another one was ended by somebody else"
    assert kernel.kills.rose(group, 102.1), "or it was the other way round: nobody can know"


def test_a_kill_of_long_ago_explains_nothing(tmp_path):
    """A child of a handler was killed, and hours later somebody kills its worker."""
    kernel = Kernel(tmp_path, v1=False)
    group = kernel.kills.watch(7, 100.0)
    kernel.count(6)
    for second in range(101, 130):
        kernel.kills.look(float(second))
    assert not kernel.kills.explains(group, 130.0)
    assert not kernel.kills.rose(group, 130.0)
    kernel.count(8)
    kernel.kills.look(131.0)
    assert kernel.kills.explains(group, 135.0)
    assert kernel.kills.explains(group, 135.0)
    assert not kernel.kills.explains(group, 135.0)


def test_where_the_kernel_shows_nothing_nothing_is_said(tmp_path):
    kills = OomKills(tmp_path, tmp_path)
    assert kills.watch(7, 0.0) is None
    assert not kills.explains(None, 1.0)
    assert not kills.rose(None, 1.0)
    kills.forget(None)
    assert not kills.is_watching


def test_a_group_is_looked_at_as_long_as_it_has_a_process(tmp_path):
    kernel = Kernel(tmp_path, v1=False)
    group = kernel.kills.watch(7, 0.0)
    kernel.kills.watch(7, 1.0)
    kernel.kills.forget(group)
    assert kernel.kills.is_watching
    kernel.kills.forget(group)
    assert not kernel.kills.is_watching
