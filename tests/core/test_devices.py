"""GPUs are counted as CUDA would count them, and handed out in turn."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.devices import (
    DeviceAssigner,
    Gpu,
    Placement,
    count_gpus,
    gpu_usage,
    least_used,
    load_nvml,
    placement,
    select_visible,
    show_only,
    slices,
    visible_gpus,
)


class NVMLError(Exception):
    """Stands for the library's own error."""


@dataclass
class FakeNvml:
    """The part of pynvml that is used, over GPUs given as UUID -> MIG instances (None: no MIG)."""

    gpus: dict[str, list[str] | None]
    silent: set[int] = field(default_factory=set)
    broken: bool = False
    sessions: int = 0

    NVMLError = NVMLError

    def nvmlInit(self) -> None:
        if self.broken:
            raise NVMLError("Driver Not Loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index in self.silent:
            raise NVMLError("GPU is lost")
        return list(self.gpus)[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        if self.gpus[handle] is None:
            raise NVMLError("Not Supported")
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        instances = self.gpus[handle] or []
        if index >= len(instances):
            raise NVMLError("Not Found")
        return instances[index]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        if handle.startswith("MIG-"):
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=37, memory=12)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=(list(self.gpus).index(handle) + 1) * 1024**3)


FOUR = FakeNvml({"GPU-aa11": None, "GPU-ab22": None, "GPU-bb33": None, "GPU-cc44": None})
SPLIT = FakeNvml({"GPU-aa11": ["MIG-x1", "MIG-x2"], "GPU-bb33": ["MIG-y1"], "GPU-dd55": []})


def count(nvml: FakeNvml, choice: str | None, limit: int | None = None) -> int:
    environ = {} if choice is None else {"CUDA_VISIBLE_DEVICES": choice}
    found = count_gpus(limit, environ, lambda: nvml)
    assert nvml.sessions == 0
    return found


@pytest.mark.parametrize(
    ("choice", "uuids"),
    [
        (None, ["GPU-aa11", "GPU-ab22", "GPU-bb33", "GPU-cc44"]),
        ("0", ["GPU-aa11"]),
        ("2,0", ["GPU-bb33", "GPU-aa11"]),
        (" 3 , +1 ", ["GPU-cc44", "GPU-ab22"]),
        ("1gpu,2", ["GPU-ab22", "GPU-bb33"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", ["GPU-aa11"]),
        ("0,7,1", ["GPU-aa11"]),
        ("0,,1", ["GPU-aa11"]),
        ("7", []),
        ("0,1,0", []),
        ("GPU-bb33,GPU-aa11", ["GPU-bb33", "GPU-aa11"]),
        ("GPU-bb", ["GPU-bb33"]),
        ("GPU-a", []),
        ("GPU-bb,GPU-zz,GPU-cc", ["GPU-bb33"]),
        ("GPU-bb,GPU-bb33", []),
        ("0,GPU-aa11", []),
        ("MIG-x1", []),
        ("99999999999999999999", []),
    ],
)
def test_the_visible_gpus_are_those_of_cuda(choice: str | None, uuids: list[str]) -> None:
    environ = {} if choice is None else {"CUDA_VISIBLE_DEVICES": choice}
    assert list(visible_gpus(environ, lambda: FOUR)) == uuids
    assert count(FOUR, choice) == len(uuids)


@pytest.mark.parametrize(
    ("choice", "devices"),
    [
        (None, ["MIG-x1", "MIG-x2", "MIG-y1"]),
        ("MIG-x2,MIG-y1", ["MIG-x2", "MIG-y1"]),
        ("MIG-y", ["MIG-y1"]),
        ("MIG-x", []),
        ("MIG-zz", []),
        ("1", ["MIG-y1"]),
        ("GPU-aa11", ["MIG-x1"]),
        ("2", []),
    ],
)
def test_gpus_split_by_mig_give_their_instances(choice: str | None, devices: list[str]) -> None:
    environ = {} if choice is None else {"CUDA_VISIBLE_DEVICES": choice}
    assert list(visible_gpus(environ, lambda: SPLIT)) == devices


@pytest.mark.parametrize(("limit", "expected"), [(None, 4), (0, 0), (3, 3), (9, 4)])
def test_the_limit_caps_the_count(limit: int | None, expected: int) -> None:
    assert count(FOUR, None, limit) == expected


def test_a_gpu_that_does_not_answer_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    nvml = FakeNvml(FOUR.gpus, silent={1})
    with caplog.at_level(logging.WARNING):
        assert count(nvml, None) == 3
        assert count(nvml, "0,1,2") == 1
    assert "GPU 1 does not answer" in caplog.text


def test_a_broken_driver_means_no_gpu() -> None:
    assert count(FakeNvml(FOUR.gpus, broken=True), None) == 0


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("no library")])
def test_a_missing_library_means_no_gpu(error: Exception) -> None:
    def load() -> Any:
        raise error

    assert count_gpus(None, {}, load) == 0
    assert gpu_usage(0, {}, load) == "N/A"


def test_bindings_that_know_no_mig_still_count() -> None:
    class OldNvml(FakeNvml):
        nvmlDeviceGetMigMode = property()  # type: ignore[assignment] # raises AttributeError

    assert count(OldNvml(FOUR.gpus), None) == 4


def test_names_may_come_as_bytes() -> None:
    class BytesNvml(FakeNvml):
        def nvmlDeviceGetUUID(self, handle: str) -> Any:
            return handle.encode()

    assert count(BytesNvml(FOUR.gpus), "GPU-bb") == 1


def test_the_real_library_answers_on_any_machine() -> None:
    assert load_nvml().NVMLError
    assert count_gpus(None, {}) >= 0
    assert isinstance(gpu_usage(0, {}), str)


def test_gpu_usage_follows_the_visible_devices() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "2,0"}
    assert gpu_usage(0, environ, lambda: FOUR) == (
        "gpuId::0 utilization.gpu::37 % utilization.memory::12 % memory.used::3072 MiB"
    )
    assert "memory.used::1024 MiB" in gpu_usage(1, environ, lambda: FOUR)


@pytest.mark.parametrize("gpu_id", [None, -1, 9])
def test_gpu_usage_is_not_available_without_that_gpu(gpu_id: int | None) -> None:
    assert gpu_usage(gpu_id, {}, lambda: FOUR) == "N/A"


def test_gpu_usage_is_not_available_for_mig_instances() -> None:
    assert gpu_usage(0, {}, lambda: SPLIT) == "N/A"
    assert SPLIT.sessions == 0


def test_workers_share_the_gpus_in_turn_from_gpu_0() -> None:
    assigner = DeviceAssigner(3)
    assert [assigner.assign(version) for version in "aabab"] == [0, 1, 2, 0, 1]


def test_without_a_gpu_or_on_the_cpu_there_is_no_id() -> None:
    assert DeviceAssigner(0).assign("a", "gpu", [0]) is None
    assigner = DeviceAssigner(2)
    assert assigner.assign("a", "cpu", [1]) is None
    assert assigner.assign("b") == 0


def test_device_ids_are_taken_in_their_order_by_each_version() -> None:
    assigner = DeviceAssigner(4)
    assert [assigner.assign("a", "gpu", [3, 1]) for _ in range(3)] == [3, 1, 3]
    assert assigner.assign("b", None, [3, 1]) == 3
    assert assigner.assign("c") == 0
    assigner.forget("a")
    assert assigner.assign("a", "gpu", [3, 1]) == 3


@pytest.mark.parametrize("ids", [[0, 2], [-1]])
def test_device_ids_that_do_not_exist_are_ignored_with_one_warning(
    ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    assigner = DeviceAssigner(2)
    assert [assigner.assign("a", "gpu", ids) for _ in range(3)] == [0, 1, 0]
    assert len(caplog.records) == 1
    assert "from 0 to 1" in caplog.text


def test_a_worker_with_whole_gpus_sees_them_all() -> None:
    assert placement(1, ["GPU-aa11", "GPU-bb33"]) == Placement(1, {})
    assert placement(None, ["MIG-x1"]) == Placement(None, {})


def test_a_worker_with_a_mig_instance_sees_only_that() -> None:
    visible = visible_gpus({}, lambda: SPLIT)
    assert placement(2, visible) == Placement(0, {"CUDA_VISIBLE_DEVICES": "MIG-y1"})


@given(st.text(st.sampled_from("0123-,+GPUMI axyb "), max_size=20))
def test_any_choice_yields_different_known_devices(choice: str) -> None:
    gpus = [Gpu("GPU-a"), None, Gpu("GPU-b", True, ("MIG-x", "MIG-y")), Gpu("GPU-c", True)]
    chosen = select_visible(gpus, choice)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= {"GPU-a", "MIG-x", "MIG-y"}


def test_workers_with_several_gpus_have_slices_of_them() -> None:
    assert slices(5, 2) == [(0, 1), (2, 3)]
    assert slices(8, 2, [7, 3, 1]) == [(7, 3)]
    assert slices(4, 2, [2, 9]) == [(0, 1), (2, 3)], "a list with an unknown GPU is ignored"
    assert slices(1, 2) == []
    assert slices(0, 2) == []


def test_the_slice_that_the_fewest_use_is_next() -> None:
    choices = slices(6, 2)
    assert least_used(choices, {}, {}) == (0, 1)
    assert least_used(choices, {}, {0: 1, 1: 1}) == (2, 3)
    assert least_used(choices, {}, {0: 1, 1: 1, 3: 1}) == (4, 5)
    assert least_used(choices, {}, {0: 1, 2: 1, 4: 2}) == (0, 1)
    shared = {0: 1, 1: 1, 2: 2, 3: 2, 4: 5}
    assert least_used(choices, {0: 1, 1: 1}, shared) == (2, 3), "rather with others than siblings"


@pytest.mark.parametrize(
    ("choice", "shown"),
    [(None, "2,3"), ("5, 6, 7, 4", "7,4"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-c,GPU-d")],
)
def test_a_worker_with_several_gpus_sees_only_those(choice: str | None, shown: str) -> None:
    assert show_only((2, 3), ["GPU-1", "GPU-2", "GPU-3", "GPU-4"], choice) == shown


def test_instances_of_gpus_are_shown_by_name() -> None:
    assert show_only((0, 1), ["MIG-x", "MIG-y"], "0") == "MIG-x,MIG-y"
