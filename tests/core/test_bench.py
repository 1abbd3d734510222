"""What flambeau bench decides without a connection: parsing, counting, times, reports."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flambeau.frontend.bench.answers import KEPT, Answer, AnswerParser, NotHttpError
from flambeau.frontend.bench.histogram import Histogram
from flambeau.frontend.bench.report import Load, as_json, as_text, progress
from flambeau.frontend.bench.requests import (
    BenchError,
    Body,
    Requests,
    Target,
    parse_header,
    parse_method,
)
from flambeau.frontend.bench.schedule import arrivals
from flambeau.frontend.bench.tally import Tally

TIMES = st.lists(st.floats(1e-8, 60_000), min_size=1, max_size=200)


def histogram(times: list[float]) -> Histogram:
    made = Histogram()
    for each in times:
        made.add(each)
    return made


@given(TIMES, st.floats(0, 1))
def test_a_quantile_is_within_half_a_percent(times, share):
    rank = max(1, math.ceil(share * len(times)))
    exact = sorted(times)[rank - 1]
    assert histogram(times).quantile(share) == pytest.approx(exact, rel=0.005)


@given(TIMES)
def test_every_duration_lies_in_a_bucket_and_ends_are_exact(times):
    made = histogram(times)
    buckets = list(made.buckets())
    assert sum(count for *_, count in buckets) == made.count == len(times)
    assert (made.least, made.most) == (min(times), max(times))
    assert made.mean == pytest.approx(sum(times) / len(times))
    assert all(any(low <= each <= high for low, high, _ in buckets) for each in times)


@given(st.lists(st.floats(0, 1)), st.lists(st.floats(0, 1)))
def test_two_histograms_are_one(left, right):
    both, whole = histogram(left).merged(histogram(right)), histogram(left + right)
    assert list(both.buckets()) == list(whole.buckets())
    assert (both.count, both.least, both.most) == (whole.count, whole.least, whole.most)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-12, 1e9])
def test_what_is_beyond_all_buckets_counts(seconds):
    made = histogram([seconds])
    assert made.count == 1
    assert made.quantile(0.5) == max(0.0, seconds)


def test_nothing_has_no_quantiles():
    assert (Histogram().quantile(0.99), Histogram().mean) == (0.0, 0.0)


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED += b"3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"


def feed(parser: AnswerParser, wire: bytes, cuts: list[int]) -> list[Answer]:
    places = [0, *sorted(cut % len(wire) for cut in cuts), len(wire)]
    pieces = [wire[low:high] for low, high in itertools.pairwise(places) if low < high]
    return [answer for piece in pieces if (answer := parser.feed(piece)) is not None]


@given(
    st.sampled_from([PLAIN, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN]),
    st.lists(st.integers(0, 500)),
)
@example(b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, [25])
def test_an_answer_is_the_same_however_it_is_cut(wire, cuts):
    parser = AnswerParser()
    for _ in range(2):
        (answer,) = feed(parser, wire, cuts)
        assert (answer.status, answer.body, answer.size) == (200, b"hello", len(wire))
        assert answer.keeps_alive
        assert answer.is_chunked == (wire is CHUNKED)
        assert parser.is_idle


@given(st.lists(st.binary(min_size=1, max_size=6000), max_size=5), st.lists(st.integers(0, 20000)))
def test_chunks_are_put_together(pieces, cuts):
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire += b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    (answer,) = feed(AnswerParser(), wire, cuts)
    assert answer.body == b"".join(pieces)[:KEPT]
    assert answer.size == len(wire)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_no_bytes_at_all_make_it_fail_otherwise(wire, cuts):
    for start in (b"", CHUNKED[: CHUNKED.index(b"3;ext")]):
        try:
            feed(AnswerParser(), start + wire + b"x", cuts)
        except NotHttpError:
            pass


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 600 x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcd\r\n",
        CHUNKED + b"more",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_not_http_is_said(wire):
    with pytest.raises(NotHttpError):
        AnswerParser().feed(wire)


@pytest.mark.parametrize(
    ("head", "keeps_alive"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", True),
    ],
)
def test_whether_the_connection_stays(head, keeps_alive):
    answer = AnswerParser().feed(head)
    assert answer is not None
    assert answer.keeps_alive is keeps_alive


def test_an_answer_without_a_length_ends_with_its_connection():
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.0 200 OK\r\n\r\nhel") is None
    assert parser.in_body
    assert parser.feed(b"lo") is None
    answer = parser.end()
    assert answer is not None
    assert answer.body == b"hello"
    assert AnswerParser().end() is None


def test_answers_to_head_have_no_body():
    answer = AnswerParser(has_body=False).feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert answer is not None


def test_arrivals_are_as_many_as_asked_for():
    assert list(itertools.islice(arrivals(4, None), 4)) == [0.25, 0.5, 0.75, 1.0]
    times = list(itertools.islice(arrivals(100, random.Random(1)), 10_000))
    assert times == sorted(times)
    assert times[-1] == pytest.approx(100, rel=0.05)
    assert times == list(itertools.islice(arrivals(100, random.Random(1)), 10_000))


@pytest.mark.parametrize(
    ("url", "base", "path"),
    [
        ("http://h:1/a?b=c d", "http://h:1", "/a?b=c%20d"),
        ("https://[::1]", "https://[::1]", "/"),
        ("unix:/run/x:/predictions/a", "unix:/run/x", "/predictions/a"),
        ("unix:/run/x", "unix:/run/x", "/"),
        ("http://h/a%20b", "http://h", "/a%20b"),
    ],
)
def test_targets(url, base, path):
    assert Target.parse(url) == Target(base, path)


@pytest.mark.parametrize("url", ["http://h:x/", "http://[::1/", "http://a:b@h/"])
def test_targets_that_are_none(url):
    with pytest.raises(BenchError):
        Target.parse(url)


def test_requests_go_out_in_turn():
    made = Requests(
        Target.parse("http://h:1/p"),
        "POST",
        [Body(b"one", "text/plain"), Body(b"two", "text/plain")],
        [("host", "other"), ("X-A", "1")],
        key="secret",
        keeps_alive=False,
    )
    first, second, third = itertools.islice(made.in_turn(), 3)
    assert first == third
    head, _, body = second.partition(b"\r\n\r\n")
    assert body == b"two"
    assert head.split(b"\r\n")[0] == b"POST /p HTTP/1.1"
    for line in (b"host: other", b"Content-Length: 3", b"Authorization: Bearer secret", b"X-A: 1"):
        assert line in head.split(b"\r\n")
    assert b"Connection: close" in head
    assert b"Host: h:1" not in head
    assert "secret" not in repr(made)


def test_a_request_without_a_body():
    request = next(Requests(Target.parse("http://h/"), "GET").in_turn())
    assert b"Content-Length" not in request
    assert b"Content-Length: 0" in next(Requests(Target.parse("http://h/"), "POST").in_turn())


@pytest.mark.parametrize(
    "line", ["x", "a b: c", ": x", "a: b\r\nc: d", "a: \x00", "content-length: 1"]
)
def test_headers_that_are_none(line):
    with pytest.raises(BenchError):
        parse_header(line)


def test_headers_and_methods():
    assert parse_header("X-A:  b:c ") == ("X-A", "b:c")
    assert parse_method("get") == "GET"
    with pytest.raises(BenchError):
        parse_method("GET /")


def answer(status: int, body: bytes = b"", *, is_chunked: bool = False) -> Answer:
    return Answer(status, b"", body, 100, True, is_chunked)


def filled() -> Tally:
    """From 10 until 12: two good answers, one late, two refusals, a failure, one warm-up."""
    tally = Tally(lambda status: status == 200, 10.0, 12.0)
    assert not tally.send(9.9, 10)
    tally.answer(answer(200), 9.9, 10.5, 10.5)
    for number, due in enumerate((10.0, 10.5, 11.9)):
        assert tally.send(due, 10)
        tally.answer(answer(200, is_chunked=not number), due, due + 0.2, due + 0.1)
    for _ in range(2):
        tally.send(11.0, 10)
        tally.answer(answer(503, b'{"message": "full |\\n now"}'), 11.0, 11.001, 11.001)
    tally.send(11.0, 10)
    tally.fail("closed", "It hung up.", 11.0)
    tally.fail("closed", "in the warm-up", 9.0)
    return tally


def test_a_tally_counts_what_is_due_and_rates_what_comes():
    report = as_json(Load("http://h/", "GET", "8 connections"), filled())
    json.dumps(report)
    assert (report["requests"], report["expected"], report["errors"]) == (6, 3, 3)
    assert report["seconds"] == 2
    assert report["requestsPerSecond"] == 1.5, "the one from the warm-up came within, one too late"
    assert report["bytesSent"] == 60
    assert report["latency"]["max"] == pytest.approx(200)
    assert report["firstChunk"]["max"] == pytest.approx(100)
    assert report["sentLate"] is None
    assert report["statuses"]["503"]["count"] == 2
    assert report["statuses"]["503"]["message"] == "full | now"
    assert report["failures"] == {"closed": {"count": 1, "message": "It hung up."}}
    assert sum(bucket["count"] for bucket in report["histogram"]) == 3


def test_the_report_is_markdown():
    text = as_text(Load("http://h/", "GET", "8 connections"), filled())
    rates, times, errors = text.split("\n\n")
    for table in (rates, times, errors):
        lines = table.splitlines()
        assert len({len(line) for line in lines}) == 1
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "1.5" in rates
    assert [row.split()[1] for row in times.splitlines()[2:]] == ["latency", "first", "status"]
    assert "It hung up." in errors
    assert "full \\| now" in errors


def test_the_report_of_nothing():
    tally = Tally(bool, 10.0, math.inf)
    tally.close(5.0)
    assert as_json(Load("u", "GET", "x"), tally)["requestsPerSecond"] == 0
    assert "latency" not in as_text(Load("u", "GET", "x"), tally)


def test_a_line_for_each_second():
    assert progress(filled(), 0, 9.0, 8.0) == "warming up"
    assert progress(filled(), 1, 11.0, 10.0).split()[:4] == ["1", "s", "2", "requests/s"]
