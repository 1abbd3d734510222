"""Which GPUs the workers may use, and which worker uses which.

GPUs are numbered as CUDA numbers them for a process with this environment: ``gpu_id`` 0 is the
first one that ``CUDA_VISIBLE_DEVICES`` leaves visible.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

_INDEX = re.compile(r"\+?([0-9]{1,9})")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine: its UUID, and those of its instances when it is split by MIG."""

    uuid: str
    is_split: bool = False
    instances: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        return self.instances if self.is_split else (self.uuid,)


class Placement(NamedTuple):
    """What a worker must be told to find its GPU: ``gpu_id`` to use, variables to set first."""

    gpu_id: int | None
    environ: Mapping[str, str]


def load_nvml() -> Any:
    """NVIDIA's management library; raises ImportError where its bindings are not installed."""
    with warnings.catch_warnings():
        # A package of the same module name says on import that nvidia-ml-py replaces it.
        warnings.simplefilter("ignore", FutureWarning)
        import pynvml
    return pynvml


def count_gpus(
    limit: int | None, environ: Mapping[str, str], load: Callable[[], Any] = load_nvml
) -> int:
    """How many GPUs workers may use, ``limit`` at most: 0 without a driver. Never raises."""
    found = len(visible_gpus(environ, load))
    return found if limit is None else min(found, limit)


def visible_gpus(
    environ: Mapping[str, str], load: Callable[[], Any] = load_nvml
) -> tuple[str, ...]:
    """UUIDs of the usable GPUs and MIG instances by ``gpu_id``; empty without driver or library."""
    try:
        with _session(load) as nvml:
            gpus = _survey(nvml)
    except _Unavailable as reason:
        logger.debug("no GPU is used: %s", reason)
        return ()
    return select_visible(gpus, environ.get("CUDA_VISIBLE_DEVICES"))


def select_visible(gpus: Sequence[Gpu | None], choice: str | None) -> tuple[str, ...]:
    """What CUDA makes of ``CUDA_VISIBLE_DEVICES=choice``; a GPU that cannot be read is ``None``.

    Entries are indices or the beginnings of ``GPU-`` or ``MIG-`` names. CUDA stops at the first
    entry that means nothing, and uses no GPU at all when one is listed twice.
    """
    if choice is None:
        return tuple(device for gpu in gpus if gpu is not None for device in gpu.devices)
    chosen: list[str] = []
    for entry in choice.split(","):
        device = _resolve(gpus, entry.strip())
        if device is None:
            break
        if device in chosen:
            return ()
        chosen.append(device)
    return tuple(chosen)


def placement(gpu_id: int | None, visible: Sequence[str]) -> Placement:
    """How a worker finds GPU ``gpu_id`` of ``visible``.

    A CUDA process sees no more than one MIG instance, so a worker that is to use one is shown
    that one alone; with whole GPUs, every worker sees all of them, as under TorchServe.
    """
    if gpu_id is None or not any(device.startswith("MIG-") for device in visible):
        return Placement(gpu_id, {})
    return Placement(0, {"CUDA_VISIBLE_DEVICES": visible[gpu_id]})


class DeviceAssigner:
    """Gives each worker its GPU: pure, and the same answers for the same calls.

    Versions without ``device_ids`` share one round-robin that starts at GPU 0.
    """

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus
        self._next_shared = 0
        self._next_of_version: dict[Hashable, int] = {}

    def assign(
        self, version: Hashable, device_type: str | None = None, device_ids: Sequence[int] = ()
    ) -> int | None:
        """The GPU of the version's next worker, ``None`` for the CPU.

        ``device_ids`` are taken in their order, round and round. A list with an id that no GPU
        has is ignored as a whole, as TorchServe does; a warning says so once per version.
        """
        if device_type == "cpu" or self._gpus == 0:
            return None
        if not device_ids:
            return self._take_shared()
        turn = self._next_of_version.get(version, 0)
        self._next_of_version[version] = turn + 1
        if all(0 <= gpu_id < self._gpus for gpu_id in device_ids):
            return device_ids[turn % len(device_ids)]
        if turn == 0:
            logger.warning(
                "deviceIds %s of %s are ignored: GPUs are numbered from 0 to %d",
                list(device_ids),
                version,
                self._gpus - 1,
            )
        return self._take_shared()

    def forget(self, version: Hashable) -> None:
        """The version is gone: should it return, its ``device_ids`` start from the first again."""
        self._next_of_version.pop(version, None)

    def _take_shared(self) -> int:
        gpu_id = self._next_shared % self._gpus
        self._next_shared = gpu_id + 1
        return gpu_id


def slices(gpus: int, size: int, device_ids: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """The GPUs of workers that have ``size`` each: of ``device_ids``, or of all that there are.

    A list with an id that no GPU has is ignored as a whole. Empty when there are too few.
    """
    ids: Sequence[int] = range(gpus)
    if device_ids and all(0 <= gpu_id < gpus for gpu_id in device_ids):
        ids = device_ids
    return [tuple(ids[n : n + size]) for n in range(0, len(ids) - size + 1, size)]


def least_used(
    choices: Sequence[tuple[int, ...]], by_siblings: Mapping[int, int], by_all: Mapping[int, int]
) -> tuple[int, ...]:
    """The first slice of those that the fewest workers of the same version use, then of any.

    ``by_siblings`` and ``by_all`` count the workers by GPU.
    """

    def users(slice: tuple[int, ...]) -> tuple[int, int]:
        own, all = (
            sum(count.get(gpu_id, 0) for gpu_id in slice) for count in (by_siblings, by_all)
        )
        return own, all

    return min(choices, key=users)


def show_only(gpu_ids: Sequence[int], visible: Sequence[str], choice: str | None) -> str:
    """The value of ``CUDA_VISIBLE_DEVICES`` for a worker that is to see these GPUs alone.

    ``choice`` is that variable's value for the server: a worker's are named as it names them, and
    by number without one. MIG instances have no numbers.
    """
    names: Sequence[str] = visible
    if not any(device.startswith("MIG-") for device in visible):
        names = [str(n) for n in range(len(visible))] if choice is None else choice.split(",")
    return ",".join(names[gpu_id].strip() for gpu_id in gpu_ids)


def gpu_usage(
    gpu_id: int | None,
    environ: Mapping[str, str] | None = None,
    load: Callable[[], Any] = load_nvml,
) -> str:
    """Load and memory of a worker's GPU in TorchServe's words, ``N/A`` on the CPU or on failure.

    ``environ`` is the server's own environment when not given.
    """
    if gpu_id is None or gpu_id < 0:
        return "N/A"
    choice = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    try:
        with _session(load) as nvml:
            device = select_visible(_survey(nvml), choice)[gpu_id]
            handle = nvml.nvmlDeviceGetHandleByUUID(device)
            load_now = nvml.nvmlDeviceGetUtilizationRates(handle)
            used = nvml.nvmlDeviceGetMemoryInfo(handle).used // _MIB
    except (_Unavailable, IndexError) as reason:
        logger.debug("no usage of GPU %d: %s", gpu_id, reason)
        return "N/A"
    return (
        f"gpuId::{gpu_id} utilization.gpu::{load_now.gpu} % "
        f"utilization.memory::{load_now.memory} % memory.used::{used} MiB"
    )


def gpu_figures(
    environ: Mapping[str, str] | None = None, load: Callable[[], Any] = load_nvml
) -> list[tuple[int, float, float, float]]:
    """Number, load in percent, used MiB and used percent of memory of each visible GPU."""
    choice = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    figures = []
    try:
        with _session(load) as nvml:
            for number, device in enumerate(select_visible(_survey(nvml), choice)):
                handle = nvml.nvmlDeviceGetHandleByUUID(device)
                load_now = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                percent = 100.0 * memory.used / memory.total
                figures.append((number, float(load_now), memory.used / _MIB, percent))
    except _Unavailable as reason:
        logger.debug("no figures of GPUs: %s", reason)
    return figures


def gpu_memory(
    environ: Mapping[str, str] | None = None, load: Callable[[], Any] = load_nvml
) -> dict[int, tuple[int, int]]:
    """Used bytes of memory, and all, by the number of the GPU."""
    choice = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    try:
        with _session(load) as nvml:
            found = {}
            for number, device in enumerate(select_visible(_survey(nvml), choice)):
                memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(device))
                found[number] = (memory.used, memory.total)
    except _Unavailable as reason:
        logger.debug("no memory of GPUs is known: %s", reason)
        return {}
    return found


class _Unavailable(Exception):
    """No library, no driver, or a driver that does not answer."""


@contextlib.contextmanager
def _session(load: Callable[[], Any]) -> Iterator[Any]:
    """The initialised library; whatever it has to complain about becomes _Unavailable."""
    try:
        nvml = load()
    except (ImportError, OSError) as error:
        raise _Unavailable(error) from None
    try:
        nvml.nvmlInit()
        try:
            yield nvml
        finally:
            nvml.nvmlShutdown()
    except (nvml.NVMLError, OSError, AttributeError) as error:
        # AttributeError: bindings that are too old for a function that is called here.
        raise _Unavailable(error) from None


def _survey(nvml: Any) -> list[Gpu | None]:
    """The machine's GPUs in the order of their indices, ``None`` for one that does not answer."""
    gpus: list[Gpu | None] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            split = _is_split(nvml, handle)
            instances = tuple(_instances(nvml, handle)) if split else ()
            gpus.append(Gpu(_uuid(nvml, handle), split, instances))
        except nvml.NVMLError as error:
            logger.warning("GPU %d does not answer and is not used: %s", index, error)
            gpus.append(None)
    return gpus


def _is_split(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError, AttributeError):  # a GPU, or bindings, from before MIG
        return False
    return bool(current)


def _instances(nvml: Any, handle: Any) -> Iterator[str]:
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:  # fewer instances than there could be
            continue
        yield _uuid(nvml, instance)


def _uuid(nvml: Any, handle: Any) -> str:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return uuid.decode() if isinstance(uuid, bytes) else str(uuid)


def _resolve(gpus: Sequence[Gpu | None], entry: str) -> str | None:
    """The device that one entry of ``CUDA_VISIBLE_DEVICES`` names, if it names exactly one."""
    known = [gpu for gpu in gpus if gpu is not None]
    if entry.startswith("MIG-"):
        names = [name for gpu in known for name in gpu.instances if name.startswith(entry)]
        return names[0] if len(names) == 1 else None
    if entry.startswith("GPU-"):
        named = [gpu for gpu in known if gpu.uuid.startswith(entry)]
        gpu = named[0] if len(named) == 1 else None
    else:
        # Like C's strtoul, CUDA reads the digits in front and ignores what follows them.
        index = _INDEX.match(entry)
        gpu = gpus[int(index[1])] if index and int(index[1]) < len(gpus) else None
    return gpu.devices[0] if gpu is not None and gpu.devices else None
