"""A worker of several processes, its ranks: how the fleet goes on to see one worker. Pure.

The fleet knows workers. Where a version is spread over ranks, what it sends to a worker goes to the
ranks that it concerns, and what the ranks say becomes what one worker would say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..worker.messages import Cancel, Hello, Load, Loaded, LoadFailed, Ping, Pong, Result, Stop
from ..worker.protocol import PROTOCOL_VERSION, ProtocolError

if TYPE_CHECKING:
    from ..worker.messages import Message


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How each worker of a version is spread: ``parallelType``, ``parallelLevel``, ``torchrun``.

    ``level`` is the number of ranks, and of GPUs where there are some. ``threads`` is for each
    rank. A worker of the kind ``custom`` has GPUs, but no ranks: its one process does the rest.
    """

    kind: str
    level: int
    threads: int | None = None

    @property
    def has_ranks(self) -> bool:
        return self.kind != "custom"

    @property
    def is_in_step(self) -> bool:
        """All ranks get the requests, and must do the same in the same order."""
        return self.kind in ("tp", "pptp") and self.level > 1

    @property
    def processes(self) -> int:
        return self.level if self.has_ranks else 1


class RankGroup:
    """The ranks of one worker."""

    def __init__(self, identity: str, parallel: Parallelism) -> None:
        self.identity = identity
        self.members = members_of(identity, parallel)
        # All ranks compute together, or rank 0 hands its work on to the others by itself.
        self._workers = self.members[:1] if parallel.kind == "pp" else self.members
        self._is_in_step = parallel.is_in_step
        self._has_one_batch = False
        self._hellos: dict[int, Hello] = {}
        self._loaded: dict[int, Loaded] = {}
        self._there: set[int] = set()
        """Ranks that have said that they are there, since that was asked."""
        self._answered: dict[int, dict[int, Result]] = {}
        """Results of batches that not all ranks are done with, by batch and rank."""

    @property
    def pids(self) -> list[int]:
        """The processes that have reported for work, by rank."""
        return [hello.pid for _, hello in sorted(self._hellos.items())]

    def spread(self, message: Message) -> list[tuple[str, Message]]:
        """What to send to which rank. Rank 0, whose answers count, comes last."""
        if isinstance(message, Cancel) and self._is_in_step:
            # It would reach each of them at another step of its handler.
            return []
        if isinstance(message, Load):
            # What comes while they work joins in at once, and so at another step of each.
            self._has_one_batch = self._is_in_step and (message.asynchronous or message.continuous)
            shares: list[tuple[str, Message]] = [
                (member, _load_of(rank, message)) for rank, member in enumerate(self.members)
            ]
        else:
            if isinstance(message, Ping):
                self._there.clear()
            members = self.members if isinstance(message, Ping | Stop) else self._workers
            shares = [(member, message) for member in members]
        return shares[::-1]

    def fold(self, rank: int, message: Message) -> Message | None:
        """What the worker says now that this rank has said this; None if nothing.

        It has reported for work, loaded its model or answered a Ping when all of its ranks have.
        One rank that fails to load is enough for a failure. A batch that all ranks got is answered
        when all are done with it: so none falls behind, and one that dies takes its batch along.
        Raises ProtocolError for what a rank cannot say now.
        """
        match message:
            case Hello():
                return self._hello(rank, message)
            case Loaded():
                return self._load(rank, message)
            case LoadFailed():
                return replace(message, message=f"Rank {rank}: {message.message}")
            case Pong():
                self._there.add(rank)
                return message if len(self._there) == len(self.members) else None
            case Result() if self._is_in_step:
                return self._answer(rank, message)
            case _:
                return message if rank == 0 else None

    def _hello(self, rank: int, hello: Hello) -> Hello | None:
        if rank in self._hellos:
            raise ProtocolError(f"said hello twice as rank {rank}")
        if hello.major != PROTOCOL_VERSION[0]:
            return hello  # for the fleet to refuse
        self._hellos[rank] = hello
        return self._hellos[0] if len(self._hellos) == len(self.members) else None

    def _load(self, rank: int, loaded: Loaded) -> Loaded | None:
        if rank in self._loaded or len(self._hellos) < len(self.members):
            raise ProtocolError(f"reported a model that rank {rank} was not loading")
        self._loaded[rank] = loaded
        if len(self._loaded) < len(self.members):
            return None
        credits = min(each.credits for each in self._loaded.values())
        return replace(
            self._loaded[0],
            credits=1 if self._has_one_batch else credits,
            seconds=max(each.seconds for each in self._loaded.values()),
        )

    def _answer(self, rank: int, result: Result) -> Result | None:
        answered = self._answered.setdefault(result.batch_id, {})
        if rank in answered:
            raise ProtocolError(f"answered a batch twice as rank {rank}")
        answered[rank] = result
        if len(answered) < len(self.members):
            return None
        return self._answered.pop(result.batch_id)[0]


def members_of(identity: str, parallel: Parallelism) -> tuple[str, ...]:
    """The names on the wire of a worker's ranks."""
    return tuple(f"{identity}~{rank}" for rank in range(parallel.processes))


def rank_environ(rank: int, parallel: Parallelism, port: int, model_name: str) -> dict[str, str]:
    """The variables by which a rank finds the others: those that ``torchrun`` sets on one host.

    ``port`` is where rank 0 will wait for the others. The two that tell of torchrun's own agent
    are missing or say that there is none.
    """
    size = str(parallel.level)
    environ = {
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "GROUP_RANK": "0",
        "ROLE_RANK": str(rank),
        "ROLE_NAME": "default",
        "LOCAL_WORLD_SIZE": size,
        "WORLD_SIZE": size,
        "GROUP_WORLD_SIZE": "1",
        "ROLE_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": f"{model_name}_{port}",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "LOGLEVEL": "INFO",
    }
    if parallel.threads is not None:
        environ["OMP_NUM_THREADS"] = environ["MKL_NUM_THREADS"] = str(parallel.threads)
    return environ


def _load_of(rank: int, load: Load) -> Load:
    """Each rank has a GPU of its own: of those that the worker sees, the one with its number."""
    return replace(load, rank=rank, gpu_id=None if load.gpu_id is None else rank)
