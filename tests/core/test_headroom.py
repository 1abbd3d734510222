"""Whether there is memory for more workers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flambeau.frontend.headroom import GpuMemory, Headroom, host_memory
from flambeau.frontend.version_spec import VersionSpec

GIB = 1 << 30


def spec(**changes) -> VersionSpec:
    return VersionSpec(("m", "1.0"), "dir", "h.py", **changes)


@pytest.fixture
def files(tmp_path):
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    write("proc/self/cgroup", "")
    return write


def read(tmp_path) -> tuple[float, float]:
    available, total = host_memory(tmp_path / "proc", tmp_path / "cgroup")
    return available / GIB, total / GIB


def test_without_a_limit_it_is_the_hosts(files, tmp_path):
    assert read(tmp_path) == (8.0, 16.0)


def test_a_group_of_version_2_counts_where_it_is_smaller(files, tmp_path):
    files("proc/self/cgroup", "0::/pod\n")
    files("cgroup/pod/memory.max", f"{4 * GIB}\n")
    files("cgroup/pod/memory.current", f"{3 * GIB}\n")
    files("cgroup/pod/memory.stat", f"anon 1\ninactive_file {GIB // 2}\n")
    assert read(tmp_path) == (1.5, 4.0)


def test_a_group_of_version_1_counts_too_and_a_container_sees_it_as_the_root(files, tmp_path):
    files("proc/self/cgroup", "4:memory:/somewhere/else\n3:cpu:/\n")
    files("cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    files("cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    assert read(tmp_path) == (1.0, 2.0)


def test_a_group_without_a_limit_does_not_count(files, tmp_path):
    files("proc/self/cgroup", "0::/pod\n")
    files("cgroup/pod/memory.max", "max\n")
    assert read(tmp_path) == (8.0, 16.0)


def test_as_many_workers_as_there_is_memory_for():
    headroom = Headroom({}, lambda: (4 * GIB, 20 * GIB))
    assert headroom.room_for(spec(), GIB, 2) == (2, "")
    room, lack = headroom.room_for(spec(), GIB, 5)
    assert (room, lack) == (3, "a worker takes 1024 MB, and 3072 MB are free")
    assert headroom.room_for(spec(), 0, 5) == (5, ""), "it is not known yet how large one is"


def test_gpus_have_room_for_as_large_workers_as_there_are():
    slots = {n: SimpleNamespace(device=0) for n in range(2)}
    headroom = Headroom({("m", "1.0"): SimpleNamespace(slots=slots)}, lambda: (99, 99))
    headroom.gpus = {0: GpuMemory(12 * GIB, 20 * GIB)}
    assert headroom.room_for(spec(), 0, 1) == (1, "")
    room, lack = headroom.room_for(spec(), 0, 2)
    assert room == 1
    assert lack == "a worker takes about 6144 MB of GPU 0, and 7168 are free"
    assert headroom.room_for(spec(device_type="cpu"), 0, 2) == (2, "")
