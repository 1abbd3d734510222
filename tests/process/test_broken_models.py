"""A model that cannot work is refused with the reason, and nothing of it stays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from real_server import OBEDIENT, Answer, in_background, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from real_server import RealServer

GOOD = OBEDIENT
CLASS_THAT_FAILS = """
class Handler:
    def initialize(self, context):
        raise ValueError(f"no such thing as {context.model_name}")

    def handle(self, data, context):
        return data
"""
NO_MEMORY_AT_LOAD = """
def handle(data, context):
    raise MemoryError
"""
LIMITED_MEMORY = """
import resource

def handle(data, context):
    if data is None:
        soft = 1 << 29
        resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
        bytearray(1 << 30)
"""

# What is in the archive, entries of its manifest, its model-config.yaml; then the status and words
# of the answer.
BROKEN: dict[str, tuple[dict[str, str], dict[str, Any], str | None, int, list[str]]] = {
    "unknown handler": ({"handler.py": GOOD}, {"handler": "absent"}, None, 500, ["absent"]),
    "unknown function": (
        {"handler.py": "def serve(data, context):\n    return data\n"},
        {"handler": "handler.py:missing"},
        None,
        500,
        ["missing", "serve"],
    ),
    "built-in that only TorchServe has": (
        {"notes.txt": "nothing"},
        {"handler": "vllm_handler"},
        None,
        500,
        ["no handler 'vllm_handler'", "vllm serve"],
    ),
    "import error": (
        {"handler.py": "import no_such_package_anywhere\n" + GOOD},
        {},
        None,
        500,
        ["no_such_package_anywhere", "not installed"],
    ),
    "raises when imported": (
        {"handler.py": "raise RuntimeError('broken on purpose')\n"},
        {},
        None,
        500,
        ["RuntimeError", "broken on purpose"],
    ),
    "leaves when imported": (
        {"handler.py": "import sys\nsys.exit('enough of this')\n"},
        {},
        None,
        500,
        ["SystemExit", "enough of this"],
    ),
    "ends its process when imported": (
        {"handler.py": "import os\nos._exit(3)\n"},
        {},
        None,
        500,
        ["exit code 3"],
    ),
    "no Python": ({"handler.py": "def handle(:\n"}, {}, None, 500, ["SyntaxError"]),
    "initialize raises": (
        {"handler.py": CLASS_THAT_FAILS},
        {},
        None,
        500,
        ["ValueError", "no such thing as broken"],
    ),
    "function raises when told to load": (
        {"handler.py": "def handle(data, context):\n    raise KeyError('weights')\n"},
        {},
        None,
        500,
        ["KeyError", "weights"],
    ),
    "memory runs out while it loads": (
        {"handler.py": NO_MEMORY_AT_LOAD},
        {},
        None,
        507,
        ["System out of memory"],
    ),
    "memory is limited while it loads": (
        {"handler.py": LIMITED_MEMORY},
        {},
        None,
        507,
        ["System out of memory"],
    ),
    "model without a name": (
        {"handler.py": GOOD},
        {"modelName": ""},
        None,
        400,
        ["Model name is not defined."],
    ),
    "manifest that is no JSON": (
        {"handler.py": GOOD, "MAR-INF/MANIFEST.json": "{"},
        {},
        None,
        400,
        ["MANIFEST.json", "JSON"],
    ),
    "manifest without model": (
        {"handler.py": GOOD, "MAR-INF/MANIFEST.json": '{"runtime": "python"}'},
        {},
        None,
        400,
        ["Missing Model entry in manifest file."],
    ),
    "handler outside the archive": (
        {"handler.py": GOOD},
        {"handler": "../../handler.py"},
        None,
        400,
        ["handler"],
    ),
    "configuration with a bad value": (
        {"handler.py": GOOD},
        {},
        "batchSize: many\n",
        400,
        ["model-config.yaml", "batchSize", "many"],
    ),
    "configuration that is missing": (
        {"handler.py": GOOD},
        {"configFile": "absent.yaml"},
        None,
        400,
        ["absent.yaml"],
    ),
}


def put(server: RealServer, case: str, form: str) -> str:
    """The case's model in the store, as a folder or an archive."""
    files, manifest, config, _, _ = BROKEN[case]
    make: Callable[..., str] = getattr(server.store, form)
    return make(f"{form}-{case.replace(' ', '-')}", files, config, **manifest)


def assert_nothing_is_left(server: RealServer, cached_before: set[str]) -> None:
    assert server.manage("GET", "/models/broken").status == 404
    names = [each["modelName"] for each in server.manage("GET", "/models").json["models"]]
    assert "broken" not in names
    assert server.processes()[1:] == []
    assert {path.name for path in server.cache.iterdir()} == cached_before
    assert server.metric("flambeau_workers", model="broken") == 0


@pytest.mark.parametrize(
    ("case", "form"), [*((case, "mar") for case in BROKEN), ("initialize raises", "folder")]
)
def test_a_registration_that_cannot_work_says_why_and_leaves_nothing(
    server: RealServer, case: str, form: str
) -> None:
    url = put(server, case, form)
    before = {path.name for path in server.cache.iterdir()}
    answer = server.register(url, model_name="broken")
    status, words = BROKEN[case][3:]
    assert answer.status == status, answer
    assert [word for word in words if word not in answer.message] == [], answer.message
    assert str(server.base) not in answer.message
    assert str(server.run_dir) not in answer.message
    if status >= 500:
        assert answer.message.startswith("Failed to start workers for model broken version: 1.0")
    assert_nothing_is_left(server, before)


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04 and then nothing of a zip", b"", b"just text"],
    ids=["corrupt", "empty", "text"],
)
def test_an_archive_that_is_none_is_refused(server: RealServer, content: bytes) -> None:
    before = {path.name for path in server.cache.iterdir()}
    (server.store.root / "junk.mar").write_bytes(content)
    answer = server.register("junk.mar", model_name="broken")
    assert answer.status == 400, answer
    assert answer.json["type"] == "InvalidModelException"
    assert "junk.mar" in answer.message
    assert_nothing_is_left(server, before)


def test_weights_that_are_missing_are_named(server: RealServer) -> None:
    url = server.store.mar(
        "weightless", {"notes.txt": "no weights"}, handler="base_handler", serializedFile="gone.pt"
    )
    before = {path.name for path in server.cache.iterdir()}
    answer = server.register(url, model_name="broken")
    assert answer.status in (400, 500), answer
    assert "gone.pt" in answer.message
    assert_nothing_is_left(server, before)


def test_a_name_that_no_path_can_hold_is_refused(server: RealServer) -> None:
    answer = server.register("obedient", model_name="a b/c")
    assert answer.status == 400
    assert "model_name" in answer.message


def test_a_broken_model_can_be_mended_and_registered_again(server: RealServer) -> None:
    server.store.folder("mended", {"handler.py": "raise RuntimeError('not yet')"})
    assert server.register("mended").status == 500
    server.store.folder("mended")
    server.serve("mended")
    assert server.predict("mended").status == 200
    assert server.manage("DELETE", "/models/mended").status == 200


def failed_version(server: RealServer, name: str) -> dict[str, Any]:
    def description() -> dict[str, Any] | None:
        version = server.describe(name)
        return version if version["status"] == "FAILED" else None

    return wait_for(description, 15.0, f"{name} to be FAILED") or {}


def test_an_asynchronous_registration_that_fails_is_described_with_the_reason(
    server: RealServer,
) -> None:
    url = put(server, "raises when imported", "mar")
    answer = server.register(url, 2, model_name="broken", synchronous="false")
    assert (answer.status, answer.json) == (202, {"status": "Processing worker updates..."})
    version = failed_version(server, "broken")
    assert version["failure"]["reason"] == "boot_failure"
    assert "broken on purpose" in version["failure"]["message"]
    assert any("broken on purpose" in line for line in version["failure"]["tail"])
    assert {worker["status"] for worker in version["workers"]} == {"UNLOADING"}

    started = time.monotonic()
    refused = server.predict("broken")
    assert time.monotonic() - started < 1.0
    assert refused.status == 503
    assert "broken on purpose" in refused.message
    assert refused.headers["retry-after"] == "30"
    wait_for(lambda: not server.processes()[1:], 5.0, "no worker to be left")
    assert server.metric("flambeau_worker_exits_total", model="broken", reason="boot_failure") >= 3
    assert server.manage("DELETE", "/models/broken").status == 200
    assert server.manage("GET", "/models/broken").status == 404


def test_a_model_that_finds_no_memory_is_described_so(server: RealServer) -> None:
    url = put(server, "memory runs out while it loads", "folder")
    assert server.register(url, model_name="broken", synchronous="false").status == 202
    failure = failed_version(server, "broken")["failure"]
    assert (failure["reason"], failure["message"]) == ("out_of_memory", "System out of memory.")
    assert any("MemoryError" in line for line in failure["tail"])
    assert server.manage("DELETE", "/models/broken").status == 200


def test_requests_that_wait_for_a_model_which_fails_are_answered_with_the_reason(
    server: RealServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    source = (
        "import time\nfrom pathlib import Path\n"
        f"while not Path({str(gate)!r}).exists():\n    time.sleep(0.005)\n"
        "raise RuntimeError('after all that')\n"
    )
    url = server.store.folder("waited-for", {"handler.py": source})
    assert server.register(url, model_name="broken", synchronous="false").status == 202

    with in_background(4) as submit:
        waiting = [submit(server.predict, "broken") for _ in range(4)]
        try:
            wait_for(
                lambda: server.describe("broken")["jobQueueStatus"]["pendingRequests"] == 4,
                5.0,
                "four requests to wait",
            )
        finally:
            gate.touch()
        answers: list[Answer] = [each.result() for each in waiting]
    assert {answer.status for answer in answers} == {503}
    assert all("after all that" in answer.message for answer in answers)
    assert server.manage("DELETE", "/models/broken").status == 200


def test_a_failed_model_is_tried_again_when_it_is_scaled(server: RealServer) -> None:
    server.store.folder("second-try", {"handler.py": "raise RuntimeError('first try')"})
    server.register("second-try", model_name="again", synchronous="false")
    failed_version(server, "again")
    server.store.folder("second-try")
    assert server.scale("again", 1).status == 200
    assert server.predict("again").status == 200
    assert server.describe("again")["status"] == "READY"
    assert server.manage("DELETE", "/models/again").status == 200


def test_a_scaling_that_fails_keeps_the_model(server: RealServer) -> None:
    url = server.store.folder("unscalable", {"handler.py": "raise RuntimeError('never')"})
    assert server.register(url, 0, model_name="never").status == 200
    answer = server.scale("never", 1)
    assert answer.status == 500
    assert answer.message.startswith(
        "Failed to start workers for model never version: null: Handler 'handler.py' failed"
    )
    assert server.describe("never")["minWorkers"] == 1
    assert server.manage("DELETE", "/models/never").status == 200


def test_a_model_that_takes_too_long_to_load_is_refused(server: RealServer) -> None:
    url = server.store.folder("slow-load", {"handler.py": "import time\ntime.sleep(60)\n"})
    before = {path.name for path in server.cache.iterdir()}
    answer = server.register(url, model_name="broken", startup_timeout=1)
    assert (answer.status, answer.json["clock"]) == (504, "startup")
    assert "was not loaded in 1 s (startupTimeout)" in answer.message
    assert_nothing_is_left(server, before)


def test_one_broken_archive_at_start_does_not_keep_the_others_from_serving(
    new_server: Callable[..., RealServer],
) -> None:
    server = new_server("--models=all", default_workers_per_model=1)
    server.store.folder("bad", {"handler.py": "raise RuntimeError('bad at start')"})
    (server.store.root / "junk.mar").write_bytes(b"no zip")
    server.start()
    assert server.predict("obedient").status == 200
    names = [each["modelName"] for each in server.manage("GET", "/models").json["models"]]
    assert "junk" not in names
    assert "junk.mar" in server.log()
    assert "bad at start" in failed_version(server, "bad")["failure"]["message"]


def test_a_server_that_is_told_to_ends_with_its_model(
    new_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    server = new_server("--models=m=ill", exit_on_model_failure="true", default_workers_per_model=1)
    order = tmp_path / "fail"
    source = f"from pathlib import Path\nassert not Path({str(order)!r}).exists()\n"
    server.store.folder("ill", {"handler.py": source + GOOD})
    server.start()
    assert server.predict("m").status == 200
    order.touch()
    server.predict("m", exit=3)
    assert server.wait(20.0) == 3
    assert "flambeau ends (exit_on_model_failure): model m was given up" in server.log()
    server.start()
    assert server.wait(20.0) == 3
    assert "flambeau ends (exit_on_model_failure): ill: Failed to start workers" in server.log()
