"""Workers come and go while requests are on their way: no answer is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from real_server import RealServer, in_background, lines, wait_for
from steady_load import Load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_scaling_up_and_down_under_load_loses_no_answer(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model(batch_size=4)
    with Load(server, name) as load:
        for workers in (3, 1, 4, 2):
            load.more()
            reply = server.scale(name, workers)
            assert (reply.status, reply.json) == (
                200,
                {"status": f"Workers scaled to {workers} for model: {name}"},
            )
            assert len(server.ready_pids(name)) == workers
        load.more()
    assert load.failed() == []
    assert len(load.answers) >= 250
    assert all(worker["restarts"] == 0 for worker in server.workers(name))


def test_the_newest_workers_leave_first(server: RealServer, model: Callable[..., str]) -> None:
    name = model(workers=3)
    ids = [worker["id"] for worker in server.workers(name)]
    server.scale(name, 1)
    assert [worker["id"] for worker in server.workers(name)] == ids[:1]


def test_a_worker_that_is_scaled_away_finishes_its_batch(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model(workers=2)
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(3) as submit:
        order = {"seen": str(seen), "gate": str(gate)}
        asked = [submit(server.predict, name, **order) for _ in range(2)]
        wait_for(lambda: len(lines(seen)) == 2, 5.0, "both workers to be busy")
        scaled = submit(server.scale, name, 1)
        wait_for(lambda: server.describe(name)["maxWorkers"] == 1, 5.0, "the scaling to begin")
        assert not scaled.done()
        gate.touch()
        assert [each.result().status for each in asked] == [200, 200]
        assert scaled.result().status == 200


def test_scaling_to_nothing_answers_who_waits_and_who_runs(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model()
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(3) as submit:
        running = submit(server.predict, name, seen=str(seen), gate=str(gate))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        waiting = submit(server.predict, name)
        wait_for(
            lambda: server.describe(name)["jobQueueStatus"]["pendingRequests"], 5.0, "a request"
        )
        assert server.scale(name, 0, synchronous="false").status == 202
        refused = waiting.result()
        assert refused.status == 503
        assert "has no worker" in refused.message
        gate.touch()
        assert running.result().status == 200
    wait_for(lambda: not server.workers(name), 5.0, "the worker to be gone")
    assert server.predict(name).status == 503
    assert server.scale(name, 1).status == 200
    assert server.predict(name).status == 200


def test_unregistering_answers_those_who_wait(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model()
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(6) as submit:
        running = submit(server.predict, name, seen=str(seen), gate=str(gate))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        waiting = [submit(server.predict, name) for _ in range(4)]
        wait_for(
            lambda: server.describe(name)["jobQueueStatus"]["pendingRequests"] == 4,
            5.0,
            "four requests to wait",
        )
        removed = submit(server.manage, "DELETE", f"/models/{name}")
        wait_for(lambda: server.describe(name)["status"] == "DRAINING", 5.0, "the removal to begin")
        refused = server.predict(name)
        assert refused.status == 503
        assert "retry-after" in refused.headers
        gate.touch()
        assert [each.result().status for each in (running, *waiting)] == [200] * 5
        assert removed.result().json == {"status": f'Model "{name}" unregistered'}
    assert server.predict(name).status == 404


def test_a_removal_that_takes_too_long_answers_everybody_and_removes(
    new_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    server = new_server(unregister_model_timeout=1).start()
    server.serve("obedient")
    seen = tmp_path / "seen"
    with in_background(2) as submit:
        stuck = submit(server.predict, "obedient", seen=str(seen), gate=str(tmp_path / "never"))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        waiting = submit(server.predict, "obedient")
        wait_for(
            lambda: server.describe("obedient")["jobQueueStatus"]["pendingRequests"], 5.0, "a wait"
        )
        removed = server.manage("DELETE", "/models/obedient")
        assert removed.status in (200, 408)
        assert waiting.result().status == 503
        assert stuck.result().status == 504
    wait_for(lambda: not server.processes()[1:], 15.0, "the worker to be gone")


def test_registering_and_removing_under_load_disturbs_no_other_model(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    url = server.store.mar("passing")
    with Load(server, name, clients=2) as load:
        for _ in range(4):
            server.serve(url, 2, model_name="passing")
            assert server.predict("passing").status == 200
            assert server.manage("DELETE", "/models/passing").status == 200
        load.more()
    assert load.failed() == []


def test_an_asynchronous_scaling_is_202_and_happens(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    reply = server.manage("PUT", f"/models/{name}", min_worker=2)
    assert (reply.status, reply.json) == (202, {"status": "Processing worker updates..."})
    wait_for(lambda: len(server.ready_pids(name)) == 2, 5.0, "two ready workers")


def slow_to_load(server: RealServer, gate: Path) -> str:
    """A model that is not loaded before ``gate`` exists; its url."""
    source = (
        "import time\nfrom pathlib import Path\n"
        f"while not Path({str(gate)!r}).exists():\n    time.sleep(0.005)\n"
        "def handle(data, context):\n    return data and ['late'] * len(data)\n"
    )
    return server.store.folder("late", {"handler.py": source})


def test_a_scaling_that_runs_out_of_time_is_206(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    name = model(slow_to_load(server, gate), workers=0)
    reply = server.scale(name, 1, timeout=1)
    assert (reply.status, reply.json) == (206, {"status": "Workers scaling in progress..."})
    gate.touch()
    assert server.predict(name).body == b"late"


def test_a_scaling_of_what_is_removed_meanwhile_is_told_so(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model(slow_to_load(server, tmp_path / "never"), workers=0)
    with in_background(1) as submit:
        scaling = submit(server.scale, name, 1)
        wait_for(lambda: server.workers(name), 5.0, "the scaling to begin")
        assert server.manage("DELETE", f"/models/{name}").status == 200
        assert scaling.result().status == 503, scaling.result()


def test_a_registration_that_is_undone_meanwhile_is_told_so(
    server: RealServer, tmp_path: Path
) -> None:
    url = slow_to_load(server, tmp_path / "never")
    with in_background(1) as submit:
        registering = submit(server.register, url, 1, model_name="undone")
        wait_for(
            lambda: server.manage("GET", "/models/undone").status == 200, 5.0, "the registration"
        )
        assert server.manage("DELETE", "/models/undone").status == 200
        assert registering.result().status == 503, registering.result()
    assert server.manage("GET", "/models/undone").status == 404


def test_a_slip_of_the_finger_does_not_fill_the_machine_with_workers(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model("obedient")
    for answer in (
        server.manage("PUT", f"/models/{name}", min_worker=2_000_000_000),
        server.register("obedient", 5_000_000, model_name="crowd"),
    ):
        assert answer.status == 400
        assert "workers are more than the" in answer.message
    assert len(server.describe(name)["workers"]) == 1
    assert server.manage("GET", "/models/crowd").status == 404
