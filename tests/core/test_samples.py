"""Requests that are kept for the workers to come."""

from __future__ import annotations

from fleet_driver import Driver

from flambeau.frontend.samples import MAX_RECORDED_BYTES, RECORD_EVERY, Recorder, Sample
from flambeau.worker.messages import Load, Part


def part(body: bytes = b"x") -> Part:
    return Part("body", "text/plain", body)


def bodies(recorder: Recorder) -> list[bytes]:
    return [bytes(sample.parts[0].body) for sample in recorder.samples]


def test_the_first_are_kept_and_then_one_now_and_then():
    recorder = Recorder(2)
    for number in range(RECORD_EVERY):
        recorder.offer({}, [part(b"%d" % number)])
    assert bodies(recorder) == [b"1", b"%d" % (RECORD_EVERY - 1)]


def test_large_requests_and_secrets_are_not_kept():
    recorder = Recorder(2)
    recorder.offer({}, [part(bytes(MAX_RECORDED_BYTES + 1))])
    recorder.offer({"Authorization": "Bearer s3cret", "X-Kind": "cat"}, [part()])
    (sample,) = recorder.samples
    assert sample.headers == {"X-Kind": "cat"}


def loads(driver: Driver) -> list[Load]:
    return [load for _, load in driver.loads]


def test_workers_that_come_later_are_tried_with_what_was_answered_well():
    given = Sample("request 1 of warmUp", {}, [part(b"given")], 3)
    driver = Driver(warm_up=(given,), recorded=5)
    driver.scale(1)
    driver.boot_all()
    driver.offer()
    driver.answer(driver.busy()[0])
    driver.offer()
    driver.answer(driver.busy()[0], error=True)
    driver.scale(2)
    driver.boot_all()
    first, second = loads(driver)
    wire = ["request 1 of warmUp", {}, [["body", "text/plain", b"given"]], 3, True]
    assert first.warm_up == [wire]
    assert second.warm_up == [wire, ["a recorded request", {}, [], 1, False]]


def test_successors_in_a_roll_are_tried_with_what_they_are_given_alone():
    driver = Driver(recorded=5)
    driver.scale(1)
    driver.boot_all()
    driver.offer()
    driver.answer(driver.busy()[0])
    driver.roll(trials=(Sample("a recorded request", {}, [part()]),))
    driver.boot_all()
    assert [entry[-1] for entry in loads(driver)[-1].warm_up] == [True]
    assert driver.version.spec.trials == ()
