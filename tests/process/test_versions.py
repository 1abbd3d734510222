"""Many models and versions side by side, and archives that are unpacked only once."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from real_server import RealServer, in_background

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAYS_VERSION = """
def handle(data, context):
    return data and [context.manifest["model"]["modelVersion"]] * len(data)
"""


def two_versions(server: RealServer, name: str) -> None:
    for version in ("1.0", "2.0"):
        url = server.store.mar(
            f"{name}-{version}", {"handler.py": SAYS_VERSION}, modelName=name, modelVersion=version
        )
        server.serve(url)


def unpacked(server: RealServer) -> dict[str, int]:
    """The folders of the cache and when their insides were made."""
    return {
        path.name: (path / "handler.py").stat().st_ctime_ns
        for path in server.cache.iterdir()
        if path.is_dir()
    }


def answers(server: RealServer, *paths: str) -> list[str]:
    return [server.predict(path).body.decode() for path in paths]


def test_the_default_version_is_the_first_until_another_is_set(server: RealServer) -> None:
    two_versions(server, "two")
    assert answers(server, "two", "two/1.0", "two/2.0") == ["1.0", "1.0", "2.0"]
    reply = server.manage("PUT", "/models/two/2.0/set-default")
    assert reply.json == {"status": 'Default version successfully updated for model "two" to "2.0"'}
    assert answers(server, "two", "two/1.0", "two/2.0") == ["2.0", "1.0", "2.0"]
    assert server.describe("two")["modelVersion"] == "2.0"
    described = server.manage("GET", "/models/two/all").json
    assert sorted(each["modelVersion"] for each in described) == ["1.0", "2.0"]

    refused = server.manage("DELETE", "/models/two")
    assert (refused.status, refused.message) == (403, "Cannot remove default version for model two")
    assert server.manage("DELETE", "/models/two/1.0").json == {"status": 'Model "two" unregistered'}
    assert server.predict("two/1.0").status == 404
    assert answers(server, "two") == ["2.0"]
    assert server.manage("DELETE", "/models/two").status == 200
    assert server.predict("two").status == 404


def test_switching_the_default_under_load_fails_nobody(server: RealServer) -> None:
    two_versions(server, "switched")
    with in_background(4) as submit:
        asked = []
        for turn in range(20):
            asked += [submit(server.predict, "switched") for _ in range(10)]
            version = ("2.0", "1.0")[turn % 2]
            assert server.manage("PUT", f"/models/switched/{version}/set-default").status == 200
        got = [each.result() for each in asked]
    assert {answer.status for answer in got} == {200}
    assert {answer.body for answer in got} <= {b"1.0", b"2.0"}
    for version in ("2.0", "1.0"):
        server.manage("DELETE", f"/models/switched/{version}")


def test_many_models_are_served_at_once_and_listed_page_by_page(server: RealServer) -> None:
    names = [f"many{number:02}" for number in range(10)]
    with in_background(5) as submit:
        for each in [submit(server.serve, "obedient", model_name=name) for name in names]:
            each.result()
        asked = [submit(server.predict, name, answer=name) for name in names * 5]
        assert [each.result().body.decode() for each in asked] == names * 5
        pids = [server.ready_pids(name) for name in names]
        assert len(set().union(*pids)) == 10

        listed, token = [], "0"
        while token is not None:
            page = server.manage("GET", "/models", limit=4, next_page_token=token).json
            assert len(page["models"]) <= 4
            listed += page["models"]
            token = page.get("nextPageToken")
        assert listed == [{"modelName": name, "modelUrl": "obedient"} for name in names]
        removed = [submit(server.manage, "DELETE", f"/models/{name}") for name in names]
        assert {each.result().status for each in removed} == {200}
    assert server.manage("GET", "/models").json == {"models": []}
    assert server.processes()[1:] == []


def test_two_models_of_one_archive_unpack_it_once(server: RealServer) -> None:
    url = server.store.mar("shared")
    before = unpacked(server)
    server.serve(url, model_name="a")
    once = unpacked(server)
    assert len(once) == len(before) + 1
    shutil.copy(server.store.root / url, server.store.root / "copy.mar")
    server.serve(url, model_name="b")
    server.serve("copy.mar", model_name="c")
    assert unpacked(server) == once
    assert [server.predict(name).status for name in "abc"] == [200] * 3
    for name in "ab":
        assert server.manage("DELETE", f"/models/{name}").status == 200
    assert unpacked(server) == once
    assert server.predict("c").status == 200
    assert server.manage("DELETE", "/models/c").status == 200
    assert unpacked(server) == before


def test_registrations_of_one_archive_at_the_same_time_all_succeed(server: RealServer) -> None:
    url = server.store.mar("hurried")
    names = [f"hurried{number}" for number in range(6)]
    with in_background(6) as submit:
        asked = [submit(server.register, url, 1, model_name=name) for name in names]
        assert [each.result().status for each in asked] == [200] * 6
    for name in names:
        assert server.predict(name).status == 200
        assert server.manage("DELETE", f"/models/{name}").status == 200


def test_the_same_registration_twice_at_the_same_time_succeeds_once(server: RealServer) -> None:
    url = server.store.mar("twice")
    with in_background(2) as submit:
        asked = [submit(server.register, url, 1, model_name="twice") for _ in range(2)]
        assert sorted(each.result().status for each in asked) == [200, 409]
    assert server.predict("twice").status == 200
    assert server.manage("DELETE", "/models/twice").status == 200


def test_a_restart_does_not_unpack_again(new_server: Callable[..., RealServer]) -> None:
    server = new_server("--models=kept.mar", default_workers_per_model=1)
    server.store.mar("kept")
    server.start()
    assert server.predict("kept").status == 200
    before = unpacked(server)
    assert len(before) == 1
    server.signal(15)
    assert server.wait() == 0
    server.start()
    assert server.predict("kept").status == 200
    assert unpacked(server) == before


def test_what_is_loaded_at_start_is_described_so(new_server: Callable[..., RealServer]) -> None:
    server = new_server("--models", "mine=obedient", default_workers_per_model=2)
    server.start()
    version = server.describe("mine")
    assert (version["loadedAtStartup"], version["minWorkers"]) == (True, 2)
    assert len(server.ready_pids("mine")) == 2
    server.serve("obedient", model_name="later")
    assert server.describe("later")["loadedAtStartup"] is False


def test_a_store_file_is_never_touched(server: RealServer, tmp_path: Path) -> None:
    url = server.store.mar("precious")
    content = (server.store.root / url).read_bytes()
    server.serve(url)
    assert server.manage("DELETE", "/models/precious").status == 200
    assert (server.store.root / url).read_bytes() == content
