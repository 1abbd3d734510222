"""A version grows under load, shrinks, falls asleep and wakes up: nobody fails meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from real_server import RealServer, in_background, wait_for
from steady_load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep(0.05)
    return ["ok"] * len(data)
"""
CONFIG = "minWorkers: 1\nmaxWorkers: 3\ntargetQueueDelay: 60\nscaleDownAfter: 2\nidleTimeout: 4\n"


def ready(server: RealServer, name: str) -> int:
    return len(server.ready_pids(name))


def test_from_one_worker_to_three_to_none_and_back(server: RealServer) -> None:
    name = "elastic"
    server.store.mar(name, {"handler.py": SLOW}, CONFIG)
    assert server.manage("POST", "/models", url=f"{name}.mar").status == 200
    assert ready(server, name) == 1
    with Load(server, name, clients=12) as load:
        wait_for(lambda: ready(server, name) == 3, 30.0, "three workers")
        load.more(20)
    assert load.failed() == []
    wait_for(lambda: server.describe(name)["status"] == "IDLE", 30.0, "it to fall asleep")
    described = server.describe(name)
    wait_for(lambda: not server.workers(name), 10.0, "its workers to go")
    assert (described["minWorkers"], described["maxWorkers"]) == (1, 3)
    assert server.request("GET", "/ping").json == {"status": "Healthy"}
    assert server.request("GET", "/readyz").status == 200
    assert server.request("GET", f"/v2/models/{name}/ready").status == 200
    with in_background(4) as submit:
        asked = [submit(server.predict, name) for _ in range(4)]
        assert {each.result().status for each in asked} == {200}
    events = server.describe(name)["scalingEvents"]
    assert [event["from"] < event["to"] for event in events][:1] == [True]
    assert events[0]["reason"].startswith("requests wait ")
    assert any("idleTimeout" in event["reason"] for event in events)
    assert (events[-1]["from"], events[-1]["to"], events[-1]["reason"]) == (
        0,
        1,
        "a request has come",
    )
    assert server.metric("flambeau_scalings_total", model=name, direction="up") >= 2
    server.manage("DELETE", f"/models/{name}")


def test_a_model_that_is_loaded_when_somebody_asks(
    server: RealServer, model: Callable[..., str]
) -> None:
    server.store.mar("lazy", config="idleTimeout: 600\ncoldStart: reject\n")
    name = model("lazy.mar", workers=0)
    assert server.describe(name)["status"] == "IDLE"
    sent_away = server.predict(name, say="hello")
    assert sent_away.status == 503
    assert sent_away.headers["retry-after"] == "1"
    assert sent_away.message.endswith("is being loaded, since nobody had asked for it lately.")
    wait_for(lambda: server.predict(name, answer="hello").status == 200, 20.0, "it to be loaded")
