"""The compatibility cases, served by a real flambeau: its answers are those of TorchServe."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from compat.archives import REAL_ARCHIVES
from compat.case import ANSWERS, Answer
from compat.catalog import CASES
from contract.exchange import exchange
from contract.rows import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compat.case import Ask, Case
    from compat.conftest import Cases
    from real_server import RealServer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_answers_are_those_of_torchserve(cases: Cases, case: Case) -> None:
    with cases.served(case) as server:
        answers = case.play(server.addresses)
    known = case.known_answers()
    faults = [
        f"round {number}, {ask.row}: {fault}"
        for number, one_round in enumerate(zip(case.rounds, known, answers, strict=True), start=1)
        for ask, expected, answer in zip(*one_round, strict=True)
        for fault in differences(case, ask, expected, answer)
    ]
    assert not faults, "\n".join(faults)


def differences(case: Case, ask: Ask, expected: Answer, answer: Answer) -> list[str]:
    if ask.ours is None:
        return expected.faults(answer, case.exact)
    assert expected.status != ask.ours, f"no difference any more: {ask.why}"
    return [] if answer.status == ask.ours else [f"status {answer.status}, expected {ask.ours}"]


@pytest.mark.parametrize("name", ["real_default.mar", "real_zip-store.mar", "real_tgz.tar.gz"])
def test_an_archive_of_the_real_archiver_is_served(
    servers: Mapping[str, RealServer], name: str
) -> None:
    server = servers["plain"]
    shutil.copy(REAL_ARCHIVES / name, server.store.root)
    server.serve(name, model_name="real")
    try:
        assert server.describe("real")["modelVersion"] == "2.1"
        reply = exchange(server.addresses, Row("POST", "/predictions/real", body=b"42"))
        assert reply.pieces == (b"p0 ", b"p1 ", b"end")
    finally:
        server.manage("DELETE", "/models/real")


def test_each_case_has_answers() -> None:
    assert sorted(path.stem for path in ANSWERS.glob("*.json")) == sorted(c.id for c in CASES)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(200, '{"a": 0.50000001}'), 0),
        (Answer(200, '{"a": 0.5001}'), 1),
        (Answer(200, '{"b": 0.5}'), 1),
        (Answer(200, '{"a":0.5}'), 1),
        (Answer(503, '{"a": 0.5}'), 1),
        (Answer(200, '{"a": 0.5}', {"content-type": "text/plain"}), 1),
        (Answer(200, '{"a": 0.5}', pieces=('{"a": ', "0.5}")), 1),
    ],
)
def test_what_is_compared(answer: Answer, found: int) -> None:
    assert len(Answer(200, '{"a": 0.5}').faults(answer, exact=False)) == found
    exactly = Answer(200, '{"a": 0.5}').faults(answer, exact=True)
    assert len(exactly) == (1 if answer.body != '{"a": 0.5}' else found)
