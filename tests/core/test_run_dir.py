"""The run directory is private, and the servers on record are told from strangers."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flambeau.frontend import run_dir as run_dir_module
from flambeau.frontend.config import Config, check_run_dir, load_config, prepare_run_dir
from flambeau.frontend.errors import ConfigError
from flambeau.frontend.runstate import is_alive, read_states, remove_state, write_state

ADDRESSES = {
    "inference": "https://127.0.0.1:1",
    "management": "http://[::1]:2",
    "metrics": "http://10.0.0.1:3",
}


def test_the_default_is_below_the_users_runtime_directory(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_CACHE_HOME": "/cache"}
    config = load_config({}, environ, tmp_path)
    assert config.run_dir == tmp_path / "flambeau"
    assert config.model_cache_dir == Path("/cache/flambeau/models")


@pytest.mark.parametrize("runtime", ["", "/no/such/folder", "relative"])
def test_else_it_is_among_the_temporary_files(tmp_path: Path, runtime: str) -> None:
    environ = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": str(tmp_path), "HOME": "/home/x"}
    config = load_config({}, environ, tmp_path)
    assert config.run_dir == tmp_path / f"flambeau-{os.geteuid()}"
    assert config.model_cache_dir == Path("/home/x/.cache/flambeau/models")


def test_it_is_made_for_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert prepare_run_dir(Config(run_dir=path)) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o755)
    prepare_run_dir(Config(run_dir=path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(ConfigError, match="is a symbolic link"):
        prepare_run_dir(Config(run_dir=tmp_path / "link"))
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o755


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        prepare_run_dir(Config(run_dir=tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be used"):
        prepare_run_dir(Config(run_dir=tmp_path / "file" / "below"))


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.geteuid() + 1
    monkeypatch.setattr(run_dir_module.os, "geteuid", lambda: stranger)
    with pytest.raises(ConfigError, match="belongs to another user"):
        prepare_run_dir(Config(run_dir=tmp_path))
    with pytest.raises(ConfigError, match="belongs to another user"):
        check_run_dir(tmp_path)


def test_a_server_on_record_is_read_again(tmp_path: Path) -> None:
    server = write_state(tmp_path, ADDRESSES)
    assert read_states(tmp_path) == [server]
    assert server.pid == os.getpid()
    assert server.management_port == 2
    assert server.addresses["management"] == "http://[::1]:2"
    assert is_alive(server)
    assert [path.name for path in (tmp_path / "servers").iterdir()] == ["2.json"]


def test_servers_with_unix_sockets_have_records_of_their_own(tmp_path: Path) -> None:
    servers = [
        write_state(tmp_path, {"management": f"unix:/run/{name}"}, tmp_path / "certificate")
        for name in ("a", "b")
    ]
    assert {server.name for server in read_states(tmp_path)} == {each.name for each in servers}
    assert servers[0].name != servers[1].name
    assert servers[0].management_port == 0
    assert servers[0].certificate == str(tmp_path / "certificate")
    remove_state(tmp_path, servers[0])
    assert read_states(tmp_path) == servers[1:]


def test_a_record_is_removed_by_its_own_server_only(tmp_path: Path) -> None:
    server = write_state(tmp_path, ADDRESSES)
    remove_state(tmp_path, replace(server, pid=server.pid + 1))
    assert read_states(tmp_path) == [server]
    remove_state(tmp_path, server)
    remove_state(tmp_path, server)
    assert read_states(tmp_path) == []


def test_a_later_process_with_the_same_pid_is_not_the_server(tmp_path: Path) -> None:
    server = write_state(tmp_path, ADDRESSES)
    assert server.process_start is not None
    assert not is_alive(replace(server, process_start=server.process_start + 1))


def test_a_server_that_ended_is_not_alive_even_before_it_is_reaped(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from flambeau.frontend.runstate import write_state\n"
        f"write_state(Path(sys.argv[1]), {ADDRESSES!r}); print('up', flush=True); sys.stdin.read()"
    )
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        (server,) = read_states(tmp_path)
        assert server.pid == process.pid
        assert server.log == str(log)
        assert is_alive(server)
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(server)
    assert not is_alive(server)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"pid": 1}', "\xff", json.dumps({"pid": 5, "started_at": 1, "extra": 2})],
)
def test_files_that_are_no_records_are_left_out(tmp_path: Path, content: str) -> None:
    server = write_state(tmp_path, ADDRESSES)
    (tmp_path / "servers" / "7.json").write_text(content, encoding="latin-1")
    (tmp_path / "servers" / "8.json").write_text((tmp_path / "servers" / "2.json").read_text())
    assert read_states(tmp_path) == [server]
