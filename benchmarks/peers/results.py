"""What a run has measured."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peers.windows import Sample

if TYPE_CHECKING:
    from pathlib import Path

OWN = "flambeau"


@dataclass
class Results:
    """Everything that one run has measured. ``ceilings``: per second without a server, at first."""

    tool: str
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def load(file: Path) -> Results:
        """What an earlier run has measured; ValueError or TypeError if that is something else."""
        found = Results(**json.loads(file.read_text()))
        found.samples = [Sample(**each) for each in found.samples]
        return found

    def keep(self, file: Path) -> None:
        """Write everything, so that ``load`` reads it."""
        file.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def of(self, server: str, workload: str, what: str, at: str = "") -> dict[int, float]:
        """The figures by round."""
        return {
            each.number: each.value
            for each in self.samples
            if (each.server, each.workload, each.what, each.at) == (server, workload, what, at)
        }

    def ratios(self, one: str, two: str, workload: str, what: str, at: str) -> list[float]:
        """One server's figure by another's, round by round."""
        above, below = self.of(one, workload, what, at), self.of(two, workload, what, at)
        return [above[each] / below[each] for each in sorted({*above} & {*below}) if below[each]]

    def servers(self) -> list[str]:
        """Ours first."""
        found = {each.server for each in self.samples}
        return sorted(found, key=lambda server: (server != OWN, server))

    def workloads(self) -> list[str]:
        return list(dict.fromkeys(each.workload for each in self.samples))

    def connections(self, workload: str) -> list[str]:
        """How many were open at a time."""
        windows = [each for each in self.samples if each.what == "errors"]
        found = {int(each.at) for each in windows if each.workload == workload}
        return [str(each) for each in sorted(found)]
