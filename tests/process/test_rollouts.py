"""One archive in the place of another while clients ask: nobody fails, whatever becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from real_server import Answer, RealServer, wait_for
from steady_load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

SAYS = """
import os

def handle(data, context):
    if data is None:
        return None
    return ["{says}" for _ in data]
"""
FAILS_TO_LOAD = """
import nothing_of_this_name
"""
REFUSES_CATS = """
def handle(data, context):
    if data is None:
        return None
    for row in data:
        if row["body"] == "cat":
            raise ValueError("no cats")
    return ["{says}" for _ in data]
"""


def archive(
    server: RealServer, name: str, version: str, says: str, code: str = SAYS, config: str = ""
) -> str:
    handler = code.replace("{says}", says)
    return server.store.mar(
        f"{name}-{says}",
        {"handler.py": handler, "sample.txt": "cat"},
        config or None,
        modelName=name,
        modelVersion=version,
    )


def replace(server: RealServer, url: str, **query: object) -> Answer:
    return server.manage("POST", "/models", url=url, replace="true", **query)


def said(load: Load) -> list[str]:
    return [answer.body.decode() for answer in load.answers]


@pytest.fixture
def served(server: RealServer, request: pytest.FixtureRequest) -> Iterator[tuple[str, Load]]:
    """A model with two workers that says "old", and clients who ask it."""
    name = f"r{abs(hash(request.node.name)) % 10**8}"
    server.serve(archive(server, name, "1.0", "old"), 2)
    with Load(server, name, clients=8) as load:
        load.more(50)
        yield name, load
        load.more(50)
    assert load.failed() == []
    for version in server.manage("GET", f"/models/{name}/all").json:
        if version["modelVersion"] != server.describe(name)["modelVersion"]:
            server.manage("DELETE", f"/models/{name}/{version['modelVersion']}")
    assert server.manage("DELETE", f"/models/{name}").status == 200


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_new_archive_takes_over_and_the_old_one_goes(
    server: RealServer, served: tuple[str, Load], version: str
) -> None:
    name, load = served
    before = server.ready_pids(name)
    reply = replace(server, archive(server, name, version, "new"))
    assert (reply.status, reply.json) == (
        200,
        {"status": f'Model "{name}" version 1.0 replaced by version {version}'},
    )
    count = len(load.answers)
    load.more(100)
    assert set(said(load)[count + 8 :]) == {"new"}
    (described,) = server.manage("GET", f"/models/{name}/all").json
    assert described["modelVersion"] == version
    assert described["modelUrl"] == f"{name}-new.mar"
    assert described["rollout"] == {"state": "done", "from": "1.0", "to": version}
    assert len(described["workers"]) == 2
    assert not before & server.ready_pids(name)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_an_archive_that_cannot_be_loaded_changes_nothing(
    server: RealServer, served: tuple[str, Load], version: str
) -> None:
    name, load = served
    before = server.ready_pids(name)
    reply = replace(server, archive(server, name, version, "broken", FAILS_TO_LOAD))
    assert reply.status == 500
    assert "needs the Python package 'nothing_of_this_name'" in reply.message
    assert reply.message.endswith("Version 1.0 goes on serving.")
    load.more(50)
    assert set(said(load)) == {"old"}
    assert server.ready_pids(name) == before
    (described,) = server.manage("GET", f"/models/{name}/all").json
    assert described["rollout"]["state"] == "failed"
    assert "nothing_of_this_name" in described["rollout"]["reason"]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_model_is_not_replaced_by_one_without_workers(
    server: RealServer, served: tuple[str, Load], version: str
) -> None:
    name, load = served
    url = archive(server, name, version, "new")
    reply = server.manage("POST", "/models", url=url, replace="true", initial_workers=0)
    assert reply.status == 400
    assert "Give initial_workers at least 1" in reply.message
    load.more(20)
    assert set(said(load)) == {"old"}


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_an_archive_that_does_not_pass_its_warm_up_changes_nothing(
    server: RealServer, served: tuple[str, Load], version: str
) -> None:
    name, load = served
    config = "warmUp: [{file: sample.txt, contentType: text/plain}]"
    reply = replace(server, archive(server, name, version, "picky", REFUSES_CATS, config))
    assert reply.status == 500
    assert reply.message.endswith("503: Prediction failed. Version 1.0 goes on serving.")
    assert set(said(load)) == {"old"}


def test_a_new_archive_is_tried_with_what_clients_have_asked(server: RealServer) -> None:
    name = "recording"
    server.serve(archive(server, name, "1.0", "old", config="recordRequests: 3"))
    for text in ("dog", "cat"):
        headers = {"Content-Type": "text/plain"}
        assert server.request("POST", f"/predictions/{name}", text, headers).body == b"old"
    assert server.describe(name)["recordedRequests"] == 2
    for version in ("1.0", "2.0"):
        reply = replace(server, archive(server, name, version, "picky", REFUSES_CATS))
        assert reply.status == 500
        assert "a recorded request was answered 503" in reply.message
    assert server.predict(name).body == b"old"
    server.manage("DELETE", f"/models/{name}")


def test_the_old_version_can_be_kept(server: RealServer) -> None:
    name = "kept"
    server.serve(archive(server, name, "1.0", "old"))
    refused = replace(server, archive(server, name, "1.0", "same"), keep_old="true")
    assert refused.status == 400
    assert replace(server, archive(server, name, "2.0", "new"), keep_old="true").status == 200
    answers = [server.predict(path).body for path in (name, f"{name}/1.0", f"{name}/2.0")]
    assert answers == [b"new", b"old", b"new"]
    refused = replace(server, archive(server, name, "1.0", "old"))
    assert (refused.status, refused.message) == (
        409,
        'Version 1.0 of model "kept" is registered already. Make it the default, or unregister it '
        "first.",
    )
    for version in ("1.0", "2.0"):
        server.manage("DELETE", f"/models/{name}/{version}")


def test_a_replacement_that_nobody_waits_for_can_be_watched(server: RealServer) -> None:
    name = "watched"
    first = replace(server, archive(server, name, "1.0", "old"), initial_workers=1)
    assert first.status == 200, "where nothing serves it is a registration"
    slow = "import time\ntime.sleep(1.5)\n" + SAYS
    reply = replace(server, archive(server, name, "1.0", "new", slow), synchronous="false")
    assert reply.status == 202
    assert server.describe(name)["rollout"]["state"] == "loading"
    refused = replace(server, archive(server, name, "3.0", "newer"))
    assert refused.status == 409
    assert "is being replaced already" in refused.message
    assert server.predict(name).body == b"old"
    wait_for(
        lambda: server.describe(name)["rollout"]["state"] == "done", 20.0, "the end of the rollout"
    )
    assert server.predict(name).body == b"new"
    server.manage("DELETE", f"/models/{name}")


def test_removing_what_was_the_default_until_now_fails_nobody(server: RealServer) -> None:
    name = "moved"
    for version in ("1", "2"):
        server.serve(archive(server, name, version, version))
    with Load(server, name, clients=8) as load:
        load.more(50)
        assert server.manage("PUT", f"/models/{name}/2/set-default").status == 200
        assert server.manage("DELETE", f"/models/{name}/1").status == 200
        load.more(50)
    assert load.failed() == []
    server.manage("DELETE", f"/models/{name}")
