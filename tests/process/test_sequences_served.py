"""Sequences over HTTP and gRPC: one worker keeps their state."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from real_server import Answer, RealServer, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SUMS = """
import os

class Sums:
    def initialize(self, context):
        self.sums = {}

    def handle(self, data, context):
        answers = []
        for row, request in enumerate(data):
            sequence = context.get_sequence_id(row)
            if context.get_request_header(row, context.header_key_sequence_start):
                self.sums[sequence] = 0
            number = int(request["body"])
            if not number:
                os._exit(3)
            self.sums[sequence] = self.sums.get(sequence, 0) + number
            context.set_response_header(row, context.header_key_sequence_id, sequence)
            if number < 0:
                context.set_response_header(row, context.header_key_sequence_end, sequence)
            answers.append(f"{self.sums[sequence]} {os.getpid()}")
        return answers
"""
CONFIG = """
batchSize: 4
maxBatchDelay: 1
sequenceBatching: true
sequenceMaxIdleMSec: 60000
maxNumSequence: 3
maxSequenceJobQueueSize: 2
"""


@pytest.fixture(scope="module")
def sums(server: RealServer) -> Iterator[RealServer]:
    server.store.folder("sums", {"handler.py": SUMS}, CONFIG)
    server.serve("sums", 2)
    yield server
    assert server.manage("DELETE", "/models/sums").status == 200


def add(server: RealServer, number: int, sequence: str | None, **headers: str) -> Answer:
    named = {} if sequence is None else {"ts_request_sequence_id": sequence}
    return server.request("POST", "/predictions/sums", str(number), {**named, **headers})


def said(answer: Answer) -> tuple[int, int]:
    """The sum, and the worker that has it."""
    assert answer.status == 200, answer
    total, pid = answer.body.split()
    return int(total), int(pid)


def test_each_sequence_has_its_own_state_at_its_own_worker(sums: RealServer) -> None:
    totals: dict[str, list[int]] = {"a": [], "b": []}
    pids: dict[str, set[int]] = {"a": set(), "b": set()}
    for number in (1, 2, 3):
        for name in totals:
            total, pid = said(add(sums, number, name))
            totals[name].append(total)
            pids[name].add(pid)
    assert totals == {"a": [1, 3, 6], "b": [1, 3, 6]}
    assert [len(each) for each in pids.values()] == [1, 1]
    assert pids["a"] != pids["b"]
    for name in totals:
        add(sums, -1, name)


def test_who_names_no_sequence_gets_a_new_one_and_learns_its_id(sums: RealServer) -> None:
    answer = add(sums, 5, None)
    sequence = answer.headers["ts_request_sequence_id"]
    assert re.fullmatch(r"ts-seq-[0-9a-f-]{36}", sequence)
    assert said(add(sums, 5, sequence))[0] == 10
    assert add(sums, -1, sequence).headers["ts_request_sequence_end"] == sequence


def test_a_sequence_too_many_is_refused_until_one_is_over(sums: RealServer) -> None:
    for name in "xyz":
        assert said(add(sums, 1, name))[0] == 1
    refused = add(sums, 1, "more")
    assert (refused.status, refused.json["reason"]) == (503, "queue_full")
    assert "maxSequenceJobQueueSize" in refused.message
    add(sums, -1, "x")
    assert said(add(sums, 1, "more"))[0] == 1
    for name in ("y", "z", "more"):
        add(sums, -1, name)


def test_a_sequence_whose_worker_died_begins_anew_elsewhere(sums: RealServer) -> None:
    _, pid = said(add(sums, 7, "lost"))
    assert add(sums, 0, "lost").status == 500
    total, other = said(add(sums, 1, "lost", ts_request_sequence_start="true"))
    assert (total, other != pid) == (1, True)
    add(sums, -1, "lost")
    wait_for(lambda: len(sums.ready_pids("sums")) == 2, 20, "the dead worker's replacement")


def test_the_description_says_so(sums: RealServer) -> None:
    described: dict[str, Any] = sums.describe("sums")
    wanted = {
        "stateful": True,
        "sequenceMaxIdleMSec": 60000,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 3,
        "maxSequenceJobQueueSize": 2,
    }
    assert {name: described[name] for name in wanted} == wanted


def test_without_an_idle_time_the_model_is_refused(server: RealServer) -> None:
    server.store.folder("no_idle", {"handler.py": SUMS}, "sequenceBatching: true\n")
    answer = server.register("no_idle")
    assert answer.status == 400
    assert "sequenceMaxIdleMSec" in answer.message
