"""Workers of several processes: their environment, who is asked and who answers, life and death."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from real_server import RealServer, in_background, is_gone, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TELLING = '''
"""Answers with what its process knows of itself, and notes which ranks were asked."""

import os
import socket

NAMES = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
NAMES += ("CUDA_VISIBLE_DEVICES", "TORCHELASTIC_RUN_ID")


def handle(data, context):
    rank = os.environ.get("LOCAL_RANK", "none")
    if data is None:
        if (context.model_yaml_config or {}).get("handler", {}).get("broken_rank") == rank:
            raise ValueError("this rank is broken")
        return None
    order = data[0]["body"]
    if "noted" in order:
        with open(f"{order['noted']}.{rank}", "a") as file:
            file.write(f"{[row['body']['name'] for row in data]}\\n")
    context.metrics.add_counter("Asked", 1)
    if "seen" in order:
        with open(order["seen"], "a") as file:
            file.write(f"{rank}\\n")
    if "mourns" in order:
        mourn(rank)
    if order.get("dies") == rank:
        os._exit(3)
    environ = {name: os.environ[name] for name in NAMES if name in os.environ}
    properties = context.system_properties
    told = {"pid": os.getpid(), "gpu_id": properties.get("gpu_id"), **environ}
    return [told] * len(data)


def mourn(rank):
    """Rank 1 dies, and rank 0 fails when its line goes dead: so it is with a joint computation."""
    place = ("127.0.0.1", int(os.environ["MASTER_PORT"]))
    if rank == "1":
        while True:
            try:
                line = socket.create_connection(place)
            except OSError:
                continue
            os._exit(3)
    with socket.create_server(place) as server:
        line, _ = server.accept()
        line.recv(1)
    raise RuntimeError("Connection closed by peer")
'''

SUMMING = '''
"""Sends the number of its rank at once, then the sum of what all ranks give."""

import torch
import torch.distributed as dist
from ts.handler_utils.utils import send_intermediate_predict_response


class Handler:
    def initialize(self, context):
        dist.init_process_group("gloo")
        self.rank = dist.get_rank()

    def handle(self, data, context):
        ids = context.request_ids
        send_intermediate_predict_response([str(self.rank)], ids, "piece", 200, context)
        share = torch.tensor([2 * (self.rank + 1)])
        dist.all_reduce(share)
        return [str(int(share.item()))]
'''

FAKE_DRIVER = '''
"""Stands for NVIDIA's library, on a machine with four GPUs."""


class NVMLError(Exception):
    pass


def nvmlInit():
    pass


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return 4


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetMigMode(handle):
    raise NVMLError("no such thing")


def nvmlDeviceGetUUID(handle):
    return f"GPU-{handle}"


def nvmlDeviceGetHandleByUUID(uuid):
    raise NVMLError("no figures")
'''

TWO = "torchrun:\n  nproc-per-node: 2\n"


@pytest.fixture
def telling(server: RealServer, model: Callable[..., str]) -> Callable[[str], str]:
    """Registers the telling model with the given configuration; its name."""

    def register(config: str) -> str:
        url = f"telling{abs(hash(config))}"
        server.store.folder(url, {"handler.py": TELLING}, config)
        return model(url)

    return register


def ranks_of(server: RealServer, model: str) -> list[int]:
    """The processes of the one worker, once it is ready."""

    def ready() -> list[int]:
        (worker,) = server.workers(model)
        return list(worker["ranks"]) if worker["status"] == "READY" else []

    return wait_for(ready, 10.0, f"a ready worker of {model}")


@pytest.mark.parametrize(
    ("kind", "asked"), [("tp", ["0", "1"]), ("pptp", ["0", "1"]), ("pp", ["0"])]
)
def test_the_kind_says_which_ranks_are_asked_and_rank_0_answers(
    server: RealServer,
    telling: Callable[[str], str],
    tmp_path: Path,
    kind: str,
    asked: list[str],
) -> None:
    name = telling(f"parallelType: {kind}\n{TWO}  OMP_NUMBER_THREADS: 3\n")
    seen = tmp_path / "seen"
    answer: dict[str, Any] = server.predict(name, seen=str(seen)).json
    pids = ranks_of(server, name)
    port = answer["MASTER_PORT"]
    assert answer == {
        "pid": pids[0],
        "gpu_id": None,
        "LOCAL_RANK": "0",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "3",
        "TORCHELASTIC_RUN_ID": f"{name}_{port}",
    }
    wait_for(lambda: sorted(lines(seen)) == asked, 5.0, f"{asked} to have been asked")
    assert server.metric("Asked", ModelName=name) == 1, "a request counts once"
    described = server.describe(name)
    assert (described["parallelType"], described["parallelLevel"]) == (kind, 2)
    assert described["workers"][0]["pid"] == pids[0]
    assert len(set(pids)) == 2


def test_without_a_kind_there_is_one_process_and_a_warning(
    server: RealServer, telling: Callable[[str], str]
) -> None:
    name = telling(TWO)
    assert "LOCAL_RANK" not in server.predict(name).json
    assert "ranks" not in server.workers(name)[0]
    assert "torchrun has no effect without parallelType" in server.log()


def test_requests_of_many_clients_meet_the_same_ranks_in_the_same_order(
    server: RealServer, telling: Callable[[str], str], tmp_path: Path
) -> None:
    name = telling(f"parallelType: tp\n{TWO}")
    seen = tmp_path / "seen"
    for _ in range(40):
        assert server.predict(name, seen=str(seen)).json["LOCAL_RANK"] == "0"
    wait_for(lambda: len(lines(seen)) == 80, 5.0, "both ranks to have been asked 40 times")


@pytest.mark.parametrize("more", ["", "batchSize: 4\n", "continuousBatching: true\nbatchSize: 4\n"])
def test_ranks_do_the_same_in_the_same_order(
    server: RealServer, telling: Callable[[str], str], tmp_path: Path, more: str
) -> None:
    name = telling(f"{more}parallelType: tp\n{TWO}")
    noted = tmp_path / "noted"
    with in_background(8) as submit:
        asked = [submit(server.predict, name, name=n, noted=str(noted)) for n in range(40)]
        assert {each.result().status for each in asked} == {200}
    first, second = (tmp_path / f"noted.{rank}" for rank in range(2))
    assert lines(second) == lines(first)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_dead_rank_restarts_all(
    server: RealServer, telling: Callable[[str], str], rank: int
) -> None:
    name = telling(f"parallelType: tp\n{TWO}")
    before = ranks_of(server, name)
    processes = [psutil.Process(pid) for pid in before]
    os.kill(before[rank], signal.SIGKILL)
    wait_for(lambda: all(map(is_gone, processes)), 5.0, "the end of both ranks")
    assert server.predict(name).status == 200
    assert not set(before) & set(ranks_of(server, name))
    exit = server.workers(name)[0]["lastExit"]
    assert (exit["reason"], exit["exitCode"]) in {("signal", -9), ("oom_kill", -9)}
    assert exit["message"].startswith(f"Rank {rank}: ")


def test_a_request_on_which_a_rank_dies_is_tried_again_and_then_answered(
    server: RealServer, telling: Callable[[str], str]
) -> None:
    name = telling(f"parallelType: tp\n{TWO}")
    answer = server.predict(name, dies="0")
    assert (answer.status, answer.message) == (500, "Worker died.")
    assert server.predict(name).status == 200
    assert server.metric("flambeau_worker_exits_total", model=name, reason="exit_code") == 2


def test_what_rank_0_says_of_a_dead_rank_does_not_count(
    server: RealServer, telling: Callable[[str], str]
) -> None:
    """It fails, too, and says so first; its client gets a second try all the same."""
    name = telling(f"parallelType: tp\n{TWO}")
    answer = server.predict(name, mourns=True)
    assert (answer.status, answer.message) == (500, "Worker died.")
    assert server.metric("flambeau_worker_exits_total", model=name, reason="exit_code") == 2
    assert server.workers(name)[0]["lastExit"]["message"].startswith("Rank 1: ")


def test_a_rank_that_cannot_load_fails_the_registration(server: RealServer) -> None:
    config = f"parallelType: tp\n{TWO}handler:\n  broken_rank: '1'\n"
    server.store.folder("broken", {"handler.py": TELLING}, config)
    answer = server.register("broken")
    assert answer.status == 500
    assert answer.message.endswith("ValueError: this rank is broken")
    assert ": Rank 1: Handler" in answer.message


def test_too_many_processes_are_refused(server: RealServer) -> None:
    config = "parallelType: tp\nparallelLevel: 100000\n"
    server.store.folder("huge", {"handler.py": TELLING}, config)
    answer = server.register("huge")
    assert answer.status == 400
    assert answer.message.startswith("1 workers of 100000 processes are more than")


def test_scaling_down_lets_both_ranks_leave_by_themselves(
    server: RealServer, telling: Callable[[str], str]
) -> None:
    name = telling(f"parallelType: tp\n{TWO}")
    processes = [psutil.Process(pid) for pid in ranks_of(server, name)]
    assert server.scale(name, 0).status == 200
    assert all(map(is_gone, processes))
    assert server.metric("flambeau_worker_exits_total", model=name, reason="stopped") == 1


def test_no_rank_outlives_its_server(new_server: Callable[..., RealServer]) -> None:
    server = new_server(preload="colorsys")
    server.store.folder("telling", {"handler.py": TELLING}, f"parallelType: tp\n{TWO}")
    server.start()
    server.serve("telling")
    processes = [psutil.Process(pid) for pid in ranks_of(server, "telling")]
    server.crash()
    wait_for(lambda: all(map(is_gone, processes)), 5.0, f"the end of {processes}")


def test_ranks_may_be_copies_of_a_template_which_then_knows_nothing_of_them(
    new_server: Callable[..., RealServer],
) -> None:
    server = new_server(preload="colorsys")
    server.store.folder("spread", {"handler.py": TELLING}, f"parallelType: tp\n{TWO}")
    server.store.folder("plain", {"handler.py": TELLING})
    server.start()
    server.serve("spread")
    is_ready = "the template of the workers is ready"
    wait_for(lambda: is_ready in server.log(), 20.0, "the template")
    server.serve("plain")
    alone = server.predict("plain").json
    assert is_copy(server, alone["pid"])
    assert not {"LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"} & set(alone)
    assert server.scale("spread", 2).status == 200
    ranks = server.workers("spread")[1]["ranks"]
    assert [is_copy(server, pid) for pid in ranks] == [True, True]
    shown = [server.predict("spread").json for _ in range(4)]
    assert {(each["LOCAL_RANK"], each["WORLD_SIZE"]) for each in shown} == {("0", "2")}


def is_copy(server: RealServer, pid: int) -> bool:
    return psutil.Process(pid).ppid() != server.pid


def test_workers_have_gpus_of_their_own(
    new_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    """With a pretended driver: what the workers are told, not what they could do with it."""
    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "pynvml.py").write_text(FAKE_DRIVER)
    server = new_server()
    server.environ["PYTHONPATH"] = f"{driver}{os.pathsep}{server.environ.get('PYTHONPATH', '')}"
    server.environ.pop("CUDA_VISIBLE_DEVICES", None)
    for kind in ("tp", "custom"):
        config = f"parallelType: {kind}\nparallelLevel: 2\n"
        server.store.folder(kind, {"handler.py": TELLING}, config)
    server.store.folder("wide", {"handler.py": TELLING}, "parallelType: tp\nparallelLevel: 5\n")
    server.start()
    server.serve("tp")
    server.serve("custom")
    shown = {name: server.predict(name).json for name in ("tp", "custom")}
    assert (shown["tp"]["CUDA_VISIBLE_DEVICES"], shown["tp"]["gpu_id"]) == ("0,1", 0)
    assert (shown["custom"]["CUDA_VISIBLE_DEVICES"], shown["custom"]["gpu_id"]) == ("2,3", 0)
    assert "LOCAL_RANK" not in shown["custom"]
    assert server.scale("tp", 3).status == 200
    assert [worker["gpuId"] for worker in server.workers("tp")] == [0, 2]
    answer = server.register("wide")
    assert (answer.status, answer.message) == (
        500,
        "No enough gpu devices for model:wide parallelLevel:5",
    )


def test_ranks_compute_together_and_stream_through_rank_0(
    server: RealServer, model: Callable[..., str]
) -> None:
    config = f"parallelType: tp\n{TWO}retryLostBatch: 1\n"
    name = model(server.store.folder("summing", {"handler.py": SUMMING}, config))
    for _ in range(2):
        with server.connect() as connection:
            connection.request("POST", f"/predictions/{name}", b"x")
            response = connection.getresponse()
            assert response.headers["ts_stream_next"] == "true"
            assert response.read(1) == b"0"
            assert response.read() == b"6"
