"""What is asked and what goes wrong, in an order that follows from the seed alone. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

STEADY = ("batched", "single", "stream", "async")
"""Models that stay registered."""
FAULTS = {
    "kill": 10,
    "stop": 4,
    "terminate": 2,
    "junk on the workers' socket": 4,
    "junk on the HTTP port": 8,
    "slow request": 6,
    "client leaves": 10,
    "disk full": 2,
    "clock jump": 4,
    "scale": 8,
    "register and unregister": 8,
    "default": 2,
    "replace": 2,
    "questions": 8,
    "nonsense": 6,
}
"""Faults beside the requests, and how often each comes in proportion."""
POISONS = {
    "exit": 3,
    "leave": 1,
    "crash": 1,
    "raise": 40,
    "memory": 6,
    "hang": 1,
    "slow": 10,
}
"""What a poisonous request does, and how often each comes in proportion."""
POISONOUS = 0.012
"""The share of requests that are not what their model likes."""


@dataclass(frozen=True, slots=True)
class Order:
    """One request: to whom, with what, and what it does to its worker."""

    number: int
    model: str
    token: str
    pad: int
    do: str | None
    fresh: bool
    """On a connection of its own."""


def _weighted(choice: random.Random, weights: dict[str, int]) -> str:
    return choice.choices(list(weights), list(weights.values()))[0]


class Schedule:
    """Orders and faults for one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._orders = random.Random(f"orders {seed}")
        self._faults = random.Random(f"faults {seed}")

    def order(self, number: int) -> Order:
        """The next request."""
        choice = self._orders
        model = choice.choice((*STEADY, *STEADY, "volatile"))
        do = _weighted(choice, POISONS) if choice.random() < POISONOUS else None
        if model == "async" and do is not None:
            do = "raise"
        size = choice.random()
        pad = 0 if size < 0.8 else choice.randrange(1, 40_000) if size < 0.995 else 1_000_000
        token = f"{self.seed}-{number}-{choice.getrandbits(64):x}"
        return Order(number, model, token, pad, do, fresh=choice.random() < 0.05)

    def fault(self) -> tuple[str, random.Random]:
        """The next fault, and dice for its details."""
        return _weighted(self._faults, FAULTS), random.Random(self._faults.getrandbits(64))
