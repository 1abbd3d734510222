"""The host's own figures."""

from __future__ import annotations

from flambeau.frontend.system_metrics import SystemMetrics

MEMORY = "MemTotal:  4096 kB\nMemFree: 10 kB\nMemAvailable: 1024 kB\n"


def host(tmp_path, stat="cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1\n", memory=MEMORY):
    (tmp_path / "stat").write_text(stat)
    (tmp_path / "meminfo").write_text(memory)
    return SystemMetrics(tmp_path, list)


def figures(system):
    return {reading.name: reading.value for reading in system.read()}


def test_the_processors_load_is_that_since_the_last_reading(tmp_path):
    system = host(tmp_path)
    (tmp_path / "stat").write_text("cpu  40 0 10 150 0 0 0 0 0 0\n")
    assert figures(system)["CPUUtilization"] == 30.0
    assert figures(system)["CPUUtilization"] == 0.0


def test_memory_and_disk(tmp_path):
    seen = figures(host(tmp_path))
    assert (seen["MemoryUsed"], seen["MemoryAvailable"], seen["MemoryUtilization"]) == (3, 1, 75)
    assert 0 <= seen["DiskUtilization"] <= 100
    assert seen["DiskUsage"] + seen["DiskAvailable"] > 0


def test_gpus_have_their_numbers(tmp_path):
    host(tmp_path)
    system = SystemMetrics(tmp_path, lambda: [(1, 50.0, 2048.0, 25.0)])
    found = [reading for reading in system.read() if reading.labels]
    assert {reading.labels for reading in found} == {(("DeviceId", "1"),)}
    assert {reading.name: reading.value for reading in found} == {
        "GPUMemoryUtilization": 25.0,
        "GPUMemoryUsed": 2048.0,
        "GPUUtilization": 50.0,
    }


def test_what_has_no_source_is_left_out(tmp_path):
    system = host(tmp_path, "nonsense", "nonsense")
    assert set(figures(system)) == {"DiskUsage", "DiskAvailable", "DiskUtilization"}
    assert figures(SystemMetrics(tmp_path / "nowhere", list)).keys() == figures(system).keys()
