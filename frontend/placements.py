"""Which worker gets which GPUs, and how it learns of them: one, or several where it has ranks."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from .devices import DeviceAssigner, least_used, placement, show_only, slices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .lifecycle import VersionKey
    from .version_spec import VersionSpec
    from .versions import Version


class Placements:
    """GPUs of workers: ``visible`` are those that there are for them, by what names them.

    ``versions`` are those of the fleet, to be read.
    """

    def __init__(self, visible: Sequence[str], versions: Mapping[VersionKey, Version]) -> None:
        self._visible = visible
        self._versions = versions
        self._devices = DeviceAssigner(len(visible))

    def forget(self, key: VersionKey) -> None:
        """A version is gone."""
        self._devices.forget(key)

    def assign(self, spec: VersionSpec) -> int | None:
        """A worker's GPU, the first one where it has several."""
        if spec.parallel is None:
            return self._devices.assign(spec.key, spec.device_type, spec.device_ids)
        choices = self._slices(spec)
        if not choices:
            return None
        in_use = {
            key: Counter(
                gpu_id
                for slot in version.slots.values()
                for gpu_id in self._gpus(version.spec, slot.device)
            )
            for key, version in self._versions.items()
        }
        return least_used(choices, in_use[spec.key], sum(in_use.values(), Counter()))[0]

    def _slices(self, spec: VersionSpec) -> list[tuple[int, ...]]:
        if spec.parallel is None or spec.device_type == "cpu":
            return []
        return slices(len(self._visible), spec.parallel.level, spec.device_ids)

    def _gpus(self, spec: VersionSpec, device: int | None) -> tuple[int, ...]:
        """The GPUs of a worker that was given ``device``."""
        if device is None or spec.parallel is None:
            return () if device is None else (device,)
        return next(slice for slice in self._slices(spec) if slice[0] == device)

    def room_for(self, spec: VersionSpec) -> int | None:
        """How many workers of several GPUs each there can be; None where GPUs set no limit."""
        if spec.parallel is None or spec.device_type == "cpu" or not self._visible:
            return None
        return len(self._slices(spec))

    def environ(self, spec: VersionSpec, device: int | None) -> Mapping[str, str]:
        """Variables by which a version's worker on ``device`` sees its GPUs and no others."""
        if device is None or spec.parallel is None:
            return placement(device, self._visible).environ
        choice = os.environ.get("CUDA_VISIBLE_DEVICES")
        shown = show_only(self._gpus(spec, device), self._visible, choice)
        return {"CUDA_VISIBLE_DEVICES": shown}

    def gpu_id(self, spec: VersionSpec, device: int | None) -> int | None:
        """What its handler is told; a worker with several GPUs sees those and no others."""
        if spec.parallel is not None:
            return None if device is None else 0
        return placement(device, self._visible).gpu_id
