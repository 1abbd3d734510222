"""Several processes look like one worker, in whatever order they speak."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.ranks import Parallelism, RankGroup, rank_environ
from flambeau.worker.messages import (
    Answer,
    Bye,
    Cancel,
    Chunk,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Ping,
    Pong,
    Result,
    Stop,
    Work,
)
from flambeau.worker.protocol import PROTOCOL_VERSION, ProtocolError

WORKER = "m/1.0/9000#7"
HELLO = Hello(*PROTOCOL_VERSION, 1)


def group(kind: str = "tp", level: int = 2) -> RankGroup:
    return RankGroup(WORKER, Parallelism(kind, level))


def started(kind: str = "tp", level: int = 2) -> RankGroup:
    """A group of which every rank has reported for work."""
    made = group(kind, level)
    for rank in range(level):
        made.fold(rank, HELLO)
    return made


@given(st.data(), st.integers(1, 5), st.integers(0, 4))
def test_any_order_of_messages_gives_one_worker(data: st.DataObject, level: int, batches: int):
    ranks = group("tp", level)
    pending: dict[int, list[Message]] = {rank: [] for rank in range(level)}
    for rank, messages in pending.items():
        messages += [Hello(*PROTOCOL_VERSION, 100 + rank), Loaded(8 - rank, 1.0 + rank)]
        for batch in range(batches):
            piece = Answer(body=b"%d" % rank)
            messages += [Chunk(batch, 0, piece), Result(batch, 0.1, [piece])]
    heard: list[Message] = []
    hellos = 0
    while going := [rank for rank in pending if pending[rank]]:
        # Nobody loads before all are there: the order to load comes after the worker's hello.
        able = [rank for rank in going if hellos == level or isinstance(pending[rank][0], Hello)]
        rank = data.draw(st.sampled_from(able))
        message = pending[rank].pop(0)
        hellos += isinstance(message, Hello)
        folded = ranks.fold(rank, message)
        if folded is not None:
            heard.append(folded)
    controls = [message for message in heard if not isinstance(message, Result | Chunk)]
    assert controls == [Hello(*PROTOCOL_VERSION, 100), Loaded(8 - level + 1, float(level))]
    assert ranks.pids == [100 + rank for rank in range(level)]
    answers = [message for message in heard if isinstance(message, Result | Chunk)]
    for kind in (Chunk, Result):
        ids = [each.batch_id for each in answers if isinstance(each, kind)]
        assert ids == list(range(batches))
    pieces = [each.piece if isinstance(each, Chunk) else each.answers[0] for each in answers]
    assert {bytes(piece.body) for piece in pieces} <= {b"0"}, "only rank 0 answers"


def test_work_goes_to_every_rank_and_to_rank_0_last():
    for kind in ("tp", "pptp"):
        work = Work(1, [])
        assert group(kind, 3).spread(work) == [
            (f"{WORKER}~2", work),
            (f"{WORKER}~1", work),
            (f"{WORKER}~0", work),
        ]


def test_a_pipeline_is_fed_at_rank_0_and_told_to_stop_as_a_whole():
    pipeline = group("pp", 3)
    assert pipeline.spread(Work(1, [])) == [(f"{WORKER}~0", Work(1, []))]
    assert {member for member, _ in pipeline.spread(Stop())} == set(pipeline.members)


@pytest.mark.parametrize(("gpu_id", "expected"), [(None, [None, None]), (0, [0, 1])])
def test_each_rank_is_told_its_number_and_its_gpu(gpu_id, expected):
    load = Load("m", "1.0", "dir", "h.py", gpu_id=gpu_id)
    told = dict(group().spread(load))
    loads = [told[member] for member in group().members]
    assert [(each.rank, each.gpu_id) for each in loads] == list(enumerate(expected))


def test_a_batch_is_answered_when_all_ranks_are_done_with_it():
    ranks = started("tp", 3)
    answer = Result(4, 0.1, [Answer(body=b"x")])
    assert ranks.fold(2, Result(4, 0.1, [])) is None
    assert ranks.fold(0, answer) is None
    with pytest.raises(ProtocolError, match="answered a batch twice as rank 0"):
        ranks.fold(0, answer)
    assert ranks.fold(1, Result(4, 0.1, [])) is answer


def test_a_pipeline_answers_when_rank_0_does():
    pipeline = started("pp")
    answer = Result(4, 0.1, [Answer(body=b"x")])
    assert pipeline.fold(0, answer) is answer
    assert pipeline.fold(1, answer) is None


def test_ranks_in_step_are_kept_from_what_each_would_notice_at_another_time():
    assert group("tp").spread(Cancel(1, 0)) == []
    assert group("pp").spread(Cancel(1, 0)) == [(f"{WORKER}~0", Cancel(1, 0))]
    assert group("tp", 1).spread(Cancel(1, 0)) == [(f"{WORKER}~0", Cancel(1, 0))]


@pytest.mark.parametrize(
    ("kind", "load", "credits"),
    [
        ("tp", {"continuous": True}, 1),
        ("tp", {"asynchronous": True}, 1),
        ("tp", {}, 8),
        ("pp", {"continuous": True}, 8),
    ],
)
def test_ranks_in_step_have_one_batch_where_others_would_join_it(kind, load, credits):
    ranks = started(kind)
    ranks.spread(Load("m", "1.0", "dir", "h.py", **load))
    assert ranks.fold(1, Loaded(8, 2.0)) is None
    assert ranks.fold(0, Loaded(8, 1.0, "{}")) == Loaded(credits, 2.0, "{}")


def test_one_rank_that_cannot_load_is_enough_for_a_failure():
    ranks = started()
    assert ranks.fold(0, Loaded(8)) is None
    failed = ranks.fold(1, LoadFailed(507, "out_of_memory", "System out of memory."))
    assert failed == LoadFailed(507, "out_of_memory", "Rank 1: System out of memory.")


def test_another_version_of_the_protocol_is_passed_on_to_be_refused():
    stranger = Hello(PROTOCOL_VERSION[0] + 1, 0, 5)
    assert group().fold(1, stranger) is stranger


def test_a_rank_says_hello_once_and_loads_when_told():
    with pytest.raises(ProtocolError, match="said hello twice as rank 1"):
        started().fold(1, HELLO)
    early = group()
    early.fold(0, HELLO)
    with pytest.raises(ProtocolError, match="a model that rank 0 was not loading"):
        early.fold(0, Loaded(8))
    twice = started()
    twice.fold(0, Loaded(8))
    with pytest.raises(ProtocolError, match="a model that rank 0 was not loading"):
        twice.fold(0, Loaded(8))


def test_farewells_of_the_others_do_not_count():
    assert started().fold(1, Bye()) is None


def test_ranks_find_each_other_as_under_torchrun():
    environ = rank_environ(1, Parallelism("tp", 4), 29501, "m")
    assert (
        environ
        | {
            "RANK": "1",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "4",
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29501",
            "TORCHELASTIC_RUN_ID": "m_29501",
        }
        == environ
    )
    assert "OMP_NUM_THREADS" not in environ, "the launcher's own choice stands"
    assert rank_environ(0, Parallelism("tp", 2, 3), 1, "m")["OMP_NUM_THREADS"] == "3"


def test_a_worker_of_the_kind_custom_is_one_process():
    custom = Parallelism("custom", 4)
    assert (custom.has_ranks, custom.processes) == (False, 1)
    assert (Parallelism("tp", 1).has_ranks, Parallelism("tp", 1).processes) == (True, 1)


def test_a_worker_is_there_when_all_of_its_ranks_are():
    pipeline = started("pp")
    assert [member for member, _ in pipeline.spread(Ping())] == [f"{WORKER}~1", f"{WORKER}~0"]
    assert pipeline.fold(0, Pong()) is None
    assert pipeline.fold(1, Pong()) == Pong()
    pipeline.spread(Ping())
    assert pipeline.fold(0, Pong()) is None
    assert pipeline.fold(0, Pong()) is None, "one of them twice is not two of them"
