"""One poisonous input in a batch costs one client, and a batch that does not fit is divided."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.isolation import Failure, Isolation, Next
from flambeau.worker.messages import Answer, Chunk, Part, Request, Result, Work
from flambeau.worker.metrics import Metrics
from flambeau.worker.protocol import decode, encode
from flambeau.worker.rows import Rows
from flambeau.worker.safe_batch import FIRST_TRIAL, SafeBatch
from flambeau.worker.service import Service
from flambeau.worker.streaming import send_intermediate_predict_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FAILED = Answer(503, None, [], b"Prediction failed", True)
TOO_LARGE = Answer(507, None, [], b"Out of resources", True)


class Bench:
    """A pretend handler behind an Isolation, which counts its calls and takes a second for each."""

    def __init__(self, batch_size: int = 64, seconds: float = 0.0, call: float = 1.0) -> None:
        self.now = 0.0
        self.calls: list[int] = []
        self.poisons: set[int] = set()
        self.fits: Callable[[int, int], bool] = lambda first, last: True
        self._call = call
        self.isolation = Isolation(batch_size, seconds, clock=lambda: self.now)

    def attempt(self, first: int, last: int) -> list[Answer] | Failure:
        self.calls.append(last - first)
        self.now += self._call
        if not self.fits(first, last):
            return Failure(TOO_LARGE, self._call, lacks_memory=True)
        if not self.poisons.isdisjoint(range(first, last)):
            return Failure(FAILED, self._call)
        return [Answer(body=b"%d" % row) for row in range(first, last)]

    def run(self, count: int, poisons: Iterable[int] = ()) -> list[Answer]:
        self.calls, self.poisons = [], set(poisons)
        return self.isolation.answers(count, self.attempt)

    def failed(self, count: int, poisons: Iterable[int] = ()) -> list[int]:
        """The rows that fail; every other one must have its own answer."""
        answers = self.run(count, poisons)
        assert len(answers) == count
        for row, answer in enumerate(answers):
            assert answer in (FAILED, TOO_LARGE) or answer == Answer(body=b"%d" % row)
        return [row for row, answer in enumerate(answers) if answer.is_error]


batches = st.integers(1, 64).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))
)


@given(batches)
def test_exactly_the_poisonous_requests_fail(batch: tuple[int, set[int]]) -> None:
    count, poisons = batch
    bench = Bench()
    assert bench.failed(count, poisons) == sorted(poisons)
    assert len(bench.calls) <= max(1, 2 * count - 1)


@given(st.lists(batches, max_size=12))
def test_somebody_who_succeeds_has_the_next_batch_divided(
    run: list[tuple[int, set[int]]],
) -> None:
    bench = Bench()
    for count, poisons in run:
        if len(poisons) < count:
            assert bench.failed(count, poisons) == sorted(poisons)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=64),
    st.integers(1, 40),
    st.sets(st.integers(0, 63), max_size=3),
    st.integers(1, 4),
)
def test_what_does_not_fit_is_divided_and_only_what_never_fits_fails(
    sizes: list[int], room: int, poisons: set[int], times: int
) -> None:
    bench = Bench()
    bench.fits = lambda first, last: sum(sizes[first:last]) <= room
    hogs = {row for row, size in enumerate(sizes) if size > room}
    expected = sorted(hogs | {row for row in poisons if row < len(sizes)})
    for _ in range(times):
        if len(expected) < len(sizes):
            assert bench.failed(len(sizes), poisons) == expected
            assert len(bench.calls) <= 2 * len(sizes)


@given(st.integers(1, 64), st.integers(1, 64))
def test_a_learnt_size_is_kept_to(count: int, room: int) -> None:
    bench = Bench(batch_size=64)
    bench.fits = lambda first, last: last - first <= room
    assert bench.failed(count) == []
    learnt = bench.isolation.safe.size
    assert bench.failed(count) == []
    assert max(bench.calls) <= room
    if count > room:
        assert 0 < learnt <= room
        assert bench.isolation.shortages > 0
    else:
        assert bench.isolation.safe.size == bench.isolation.shortages == 0


def test_one_poison_among_32_costs_a_call_for_each_half() -> None:
    bench = Bench()
    assert bench.failed(32, {5}) == [5]
    assert sorted(bench.calls, reverse=True) == [32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]


def test_one_that_never_fits_teaches_nothing() -> None:
    bench = Bench()
    bench.fits = lambda first, last: not first <= 5 < last
    assert bench.failed(32) == [5]
    assert bench.isolation.safe.size == 0
    assert len(bench.calls) == 11


def test_the_rest_of_a_batch_is_worked_on_in_slices_that_fit() -> None:
    bench = Bench()
    bench.fits = lambda first, last: last - first <= 4
    assert bench.failed(32) == []
    assert bench.calls == [32, 16, 8] + [4] * 8
    assert bench.failed(32) == []
    assert bench.calls == [4] * 8
    assert bench.failed(4) == []
    assert bench.calls == [4]


def test_a_shortage_that_has_passed_is_forgotten() -> None:
    bench = Bench(batch_size=16)
    bench.fits = lambda first, last: last - first <= 2
    bench.failed(16)
    bench.fits = lambda first, last: True
    for _ in range(8 * FIRST_TRIAL):
        assert bench.failed(16) == []
    assert bench.calls == [16]
    assert bench.isolation.safe.size == 0


def test_trials_of_larger_batches_become_rare_where_they_fail() -> None:
    safe = SafeBatch(32)
    safe.learn(16, 8)
    trials = []
    for batch in range(4000):
        if safe.size > 8:
            trials.append(batch)
            safe.learn(safe.size, safe.size // 2)
            assert safe.size == 8
        safe.fitted(safe.size)
    assert trials == [32, 96, 224, 480, 992, 2016]


def test_smaller_batches_prove_nothing() -> None:
    safe = SafeBatch(32)
    safe.learn(16, 8)
    for _ in range(10_000):
        safe.fitted(7)
    assert safe.size == 8


def test_a_handler_that_fails_for_everybody_is_not_asked_again_and_again() -> None:
    bench = Bench()
    calls = []
    for _ in range(12):
        assert bench.failed(8, range(8)) == list(range(8))
        calls.append(len(bench.calls))
    assert calls == [15, 1, 15, 1, 1, 15, 1, 1, 1, 1, 15, 1]
    assert bench.failed(8) == []
    assert bench.failed(8, {1}) == [1], "a batch that succeeds has the next one divided"


def test_the_pause_ends_with_somebody_who_succeeds_and_never_grows_beyond_64() -> None:
    bench = Bench()
    divided = [len(bench.run(2, {0, 1}) and bench.calls) == 3 for _ in range(400)]
    since = [n for n, was in enumerate(divided) if was]
    assert {b - a for a, b in itertools.pairwise(since)} == {2, 3, 5, 9, 17, 33, 65}


def test_no_call_is_a_repeated_one_after_half_of_the_time() -> None:
    bench = Bench(seconds=10.0)
    answers = bench.run(64, {0, 63})
    # A second each: the whole, then four more; that at 5 s is none.
    assert bench.calls == [64, 32, 16, 8, 4]
    assert bench.now == 5.0
    assert answers == [FAILED] * 64


def test_slices_are_tried_once_however_late_it_is() -> None:
    bench = Bench(seconds=40.0)
    bench.fits = lambda first, last: last - first <= 4
    bench.failed(16)
    bench.isolation._seconds = 2.0
    assert bench.failed(16, {13}) == [12, 13, 14, 15]
    assert bench.calls == [4] * 4


@pytest.mark.parametrize("what", [Next.KEEP, Next.LEAVE])
def test_what_cannot_be_asked_again_is_not(what: Next) -> None:
    bench = Bench()

    def attempt(first: int, last: int) -> list[Answer] | Failure:
        bench.calls.append(last - first)
        return Failure(FAILED, 1.0, what)

    assert bench.isolation.answers(8, attempt) == [FAILED] * 8
    assert bench.calls == [8]
    assert bench.isolation.divides


def test_after_the_gpu_is_lost_nothing_else_is_tried() -> None:
    bench = Bench()
    lost = Answer(507, None, [], b"lost", True)

    def attempt(first: int, last: int) -> list[Answer] | Failure:
        bench.calls.append(last - first)
        if last - first == 2:
            return Failure(lost, 1.0, Next.LEAVE)
        return Failure(FAILED, 1.0)

    assert bench.isolation.answers(8, attempt) == [lost] * 2 + [FAILED] * 6
    assert bench.calls == [8, 4, 2]


class Served:
    """A handler behind a Service; ``run`` gives the answers to bodies, in a batch of their own."""

    def __init__(self, handler: Callable[..., Any], *, is_on: bool = True, **how: Any) -> None:
        self.sizes: list[int] = []
        self.metrics = Metrics("m")
        self.chunks: list[Chunk] = []
        self._handler = handler
        self.service = Service(
            self._handle,
            Context("m", "/models/m", None, 32, None, "0.12.0", metrics=self.metrics),
            Rows(),
            emit=self.chunks.append,
            isolation=Isolation(32, 120.0, is_on=is_on),
            **how,
        )

    def _handle(self, data: list[dict[str, Any]], context: Context) -> Any:
        self.sizes.append(len(data))
        return self._handler([row["body"] for row in data], context)

    def run(self, *bodies: str) -> Result:
        self.sizes.clear()
        requests = [
            Request(f"r{row}", {"x-row": str(row)}, [Part("body", "text/plain", body.encode())])
            for row, body in enumerate(bodies)
        ]
        result = self.service.run(Work(7, requests))
        arrived = decode(encode(result))
        assert isinstance(arrived, Result)
        assert json.dumps(arrived.samples) == json.dumps(result.samples)
        assert arrived.answers == result.answers
        assert arrived.safe_batch == result.safe_batch
        assert arrived.shortages == result.shortages
        return result

    def bodies(self, *bodies: str) -> list[str]:
        return [bytes(answer.body).decode() for answer in self.run(*bodies).answers]


def picky(bodies: list[str], context: Context) -> list[str]:
    if "poison" in bodies:
        raise ValueError("poison")
    return [body.upper() for body in bodies]


def test_the_companions_of_a_poison_get_their_answers(caplog: Any) -> None:
    served = Served(picky)
    assert served.bodies("a", "b", "poison", "d") == ["A", "B", "Prediction failed", "D"]
    assert served.sizes == [4, 2, 2, 1, 1]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Prediction failed for request r0, r1, r2, r3",
        "Prediction failed for request r2: ValueError: poison",
    ]


def test_without_isolation_the_whole_batch_fails() -> None:
    served = Served(picky, is_on=False)
    assert set(served.bodies("a", "poison")) == {"Prediction failed"}
    assert served.sizes == [2]


def test_ids_headers_and_what_is_set_on_rows_are_those_of_each_part() -> None:
    def handler(bodies: list[str], context: Context) -> list[str]:
        for row, body in enumerate(bodies):
            context.set_response_status(201, "Made", row)
            context.set_response_header(row, f"x-{body}", context.get_request_header(row, "x-row"))
        if "poison" in bodies:
            raise PredictionException("no such thing", 404)
        return [f"{context.get_request_id(row)}/{len(bodies)}" for row in range(len(bodies))]

    zero, one, two, three, four = Served(handler).run("a", "b", "c", "poison", "e").answers
    assert [bytes(each.body) for each in (zero, one, two)] == [b"r0/3", b"r1/3", b"r2/3"]
    assert bytes(four.body) == b"r4/1"
    assert (three.status, bytes(three.body), three.headers) == (404, b"no such thing", [])
    assert [each.status for each in (zero, one, two, four)] == [201] * 4
    assert (zero.headers, four.headers) == ([("x-a", "0")], [("x-e", "4")])


def test_who_has_left_is_asked_by_the_row_of_the_batch() -> None:
    asked: list[tuple[int, int]] = []

    def is_cancelled(batch_id: int, row: int) -> bool:
        asked.append((batch_id, row))
        return row == 3

    def handler(bodies: list[str], context: Context) -> list[Any]:
        if "poison" in bodies:
            raise ValueError("poison")
        return [context.is_cancelled(row) for row in range(len(bodies))]

    served = Served(handler, is_cancelled=is_cancelled)
    assert served.bodies("poison", "b", "c", "d") == ["Prediction failed", "false", "false", "true"]
    assert asked == [(7, 1), (7, 2), (7, 3)]


def test_pieces_go_to_the_request_that_they_are_of() -> None:
    def handler(bodies: list[str], context: Context) -> list[Any]:
        if "poison" in bodies:
            raise ValueError("poison")
        return [(letter for letter in body) for body in bodies]

    served = Served(handler)
    served.run("poison", "bB", "cC", "dD")
    pieces = {(chunk.index, bytes(chunk.piece.body)) for chunk in served.chunks}
    assert pieces == {(1, b"b"), (1, b"B"), (2, b"c"), (2, b"C"), (3, b"d"), (3, b"D")}


def test_a_batch_of_which_pieces_have_been_sent_is_not_repeated() -> None:
    def handler(bodies: list[str], context: Context) -> Any:
        send_intermediate_predict_response(bodies, context.request_ids, "", 200, context)
        raise ValueError("too late")

    served = Served(handler)
    assert set(served.bodies("a", "b", "c")) == {"Prediction failed"}
    assert served.sizes == [3]
    assert len(served.chunks) == 3


def test_metrics_of_a_part_that_is_repeated_count_once() -> None:
    def handler(bodies: list[str], context: Context) -> list[str]:
        context.metrics.add_counter("Seen", len(bodies))
        return picky(bodies, context)

    served = Served(handler)
    samples = served.run("a", "b", "c", "poison", "e", "f", "g", "h").samples
    seen = [(sample[3], sample[5]) for sample in samples]
    assert sum(int(value) for value, _ in seen) == 8
    ids = [each for _, ids in seen for each in str(ids).split(",")]
    assert sorted(ids) == [f"r{row}" for row in range(8)]
    assert [sample[0] for sample in served.run("a", "b").samples] == ["Seen"]


def test_a_list_of_the_wrong_length_is_a_fault_of_the_handler_and_not_of_a_request() -> None:
    served = Served(lambda bodies, context: bodies[1:])
    assert set(served.bodies("a", "b", "c")) == {"number of batch response mismatched"}
    assert served.sizes == [3]


def test_what_ends_a_process_ends_the_worker_all_the_same() -> None:
    def handler(bodies: list[str], context: Context) -> list[str]:
        raise SystemExit(3) if len(bodies) == 1 else ValueError("first")

    with pytest.raises(SystemExit):
        Served(handler).run("a", "b")


class FakeTorchError(RuntimeError):
    """As torch's, by name: nothing here may need torch."""


FakeTorchError.__name__ = "OutOfMemoryError"
FakeTorchError.__module__ = "torch"


@pytest.mark.parametrize(
    "shortage",
    [
        FakeTorchError("CUDA out of memory. Tried to allocate 20 MiB"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_batch_that_does_not_fit_is_served_in_parts(
    shortage: Exception, is_wrapped: bool, caplog: Any
) -> None:
    def handler(bodies: list[str], context: Context) -> list[str]:
        if sum(map(len, bodies)) > 4:
            if is_wrapped:
                raise LookupError("the model failed") from shortage
            raise shortage
        return [body.upper() for body in bodies]

    served = Served(handler)
    result = served.run(*"abcdefghijklmnop")
    assert b"".join(bytes(answer.body) for answer in result.answers) == b"ABCDEFGHIJKLMNOP"
    assert (result.safe_batch, result.shortages) == (4, 2)
    assert served.sizes == [16, 8, 4, 4, 4, 4]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Memory ran out with 8 requests at once: batches are of at most 4 now, and of more when "
        "these have fitted for a while"
    ]
    result = served.run(*"abcdefghijklmnop")
    assert (served.sizes, result.shortages) == ([4, 4, 4, 4], 0)
    assert not served.service.is_spoilt


def test_one_request_that_does_not_fit_alone_is_507() -> None:
    def handler(bodies: list[str], context: Context) -> list[str]:
        if sum(map(len, bodies)) > 16:
            raise FakeTorchError("CUDA out of memory")
        return bodies

    result = Served(handler).run("a", "b" * 17, "c", "d")
    assert [answer.status for answer in result.answers] == [200, 507, 200, 200]
    assert bytes(result.answers[1].body) == b"Out of resources"
    assert (result.safe_batch, result.shortages) == (0, 3)


@pytest.mark.parametrize(
    ("problem", "is_spoilt"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("CUDA error: no kernel image is available for execution"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (ValueError("mentions CUDA"), False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_after_a_cuda_error_that_lasts_the_handler_is_not_called_again(
    problem: Exception, is_spoilt: bool, is_wrapped: bool
) -> None:
    def handler(bodies: list[str], context: Context) -> list[str]:
        try:
            raise problem
        except Exception as error:
            if is_wrapped:
                raise LookupError("the model failed") from error
            raise

    served = Served(handler)
    served.run("a", "b")
    assert served.service.is_spoilt is is_spoilt
    assert len(served.sizes) == (1 if is_spoilt else 3)
