"""Where the configuration is looked for, and what is said of keys that mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flambeau.frontend.config import SETTINGS, Config, load_config
from flambeau.frontend.config_sources import INEFFECTIVE
from flambeau.frontend.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def load(cwd: Path, environ: dict[str, str] | None = None, **flags: Any) -> Config:
    return load_config(flags, environ or {}, cwd)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_a_named_file_is_read_instead_of_the_one_in_the_current_folder(tmp_path: Path) -> None:
    write(tmp_path / "config.properties", "job_queue_size=1")
    other = write(tmp_path / "other.properties", "drain_timeout=9")
    config = load(tmp_path, config="other.properties")
    assert (config.job_queue_size, config.drain_timeout) == (100, 9)
    assert config.sources == {"drain_timeout": f"{other}:1"}


def test_ts_config_file_beats_the_flag_and_a_warning_says_so(tmp_path: Path) -> None:
    first = write(tmp_path / "first", "job_queue_size=1")
    write(tmp_path / "second", "job_queue_size=2")
    config = load(tmp_path, {"TS_CONFIG_FILE": str(first)}, config="second")
    assert config.job_queue_size == 1
    assert config.warnings == (f"TS_CONFIG_FILE={first} is read instead of second.",)
    assert load(tmp_path, {"TS_CONFIG_FILE": "first"}, config=str(first)).warnings == ()


@pytest.mark.parametrize("where", ["flag", "environment"])
def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path, where: str) -> None:
    environ = {"TS_CONFIG_FILE": "gone"} if where == "environment" else {}
    flags = {"config": "gone"} if where == "flag" else {}
    with pytest.raises(ConfigError, match=r"^--ts-config file not found: gone"):
        load(tmp_path, environ, **flags)


def test_variables_in_values_are_replaced(tmp_path: Path) -> None:
    write(tmp_path / "config.properties", "inference_address=http://$$HOST$$:$$PORT$$\n")
    config = load(tmp_path, {"HOST": "127.0.0.1", "PORT": "9"})
    assert config.inference_address == "http://127.0.0.1:9"


def test_a_variable_that_is_not_set_stops_the_start(tmp_path: Path) -> None:
    write(tmp_path / "config.properties", "\nkeystore=$$NAME$$\n")
    message = "Invalid configuration: Invalid Environment Variable NAME"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert caught.value.message.startswith(message)
    assert f"{tmp_path / 'config.properties'}:2" in caught.value.message


def test_a_text_that_is_no_properties_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "config.properties", "a=1\nb=\\u12\n")
    with pytest.raises(ConfigError, match=r"Invalid configuration: .*config\.properties:2: "):
        load(tmp_path)


def test_files_may_be_utf_8_or_latin_1(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_bytes("\ufeffdefault_service_handler=ünï".encode())
    assert load(tmp_path).default_service_handler == "ünï"
    (tmp_path / "config.properties").write_bytes("default_service_handler=ünï".encode("latin-1"))
    assert load(tmp_path).default_service_handler == "ünï"


def test_of_duplicate_keys_the_last_counts_and_a_warning_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "config.properties", "job_queue_size=1\n\njob_queue_size=2")
    config = load(tmp_path)
    assert config.job_queue_size == 2
    assert config.warnings == (f"{path}:3: job_queue_size stands on line 1 too; this one counts.",)


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path / "config.properties", "job_que_size=1\nxyzzy=2\nJOB_QUEUE_SIZE=3")
    assert load(tmp_path).warnings == (
        f"{path}:1: job_que_size is not a known key. Is job_queue_size meant?",
        f"{path}:2: xyzzy is not a known key.",
        f"{path}:3: JOB_QUEUE_SIZE is not a known key. Is job_queue_size meant?",
    )


def test_torchserves_other_keys_are_accepted_with_one_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "config.properties", "vmargs=-Xmx1g\nio_ratio=50\njob_queue_size=5")
    config = load(tmp_path)
    assert config.job_queue_size == 5
    assert config.warnings == (f"{path}: vmargs, io_ratio have no effect in this version.",)


def test_variables_of_torchserves_other_keys_are_accepted_with_one_warning(tmp_path: Path) -> None:
    config = load(tmp_path, {"TS_IO_RATIO": "prometheus", "TS_NODE_PROJECT": "x"})
    assert config.warnings == ("environment: TS_IO_RATIO has no effect in this version.",)


def test_a_variable_that_looks_like_a_slip_is_named(tmp_path: Path) -> None:
    config = load(tmp_path, {"FLAMBEAU_JOB_QUEUE_SIZ": "1", "FLAMBEAU_MANAGEMENT": "x"})
    assert config.warnings == (
        "environment: FLAMBEAU_JOB_QUEUE_SIZ is not a known variable. "
        "Is FLAMBEAU_JOB_QUEUE_SIZE meant?",
    )


def test_every_key_of_torchserve_is_known() -> None:
    some = {"vmargs", "io_ratio", "prefer_direct_buffer", "netty_client_threads"}
    assert some <= INEFFECTIVE
    assert not INEFFECTIVE & set(SETTINGS)
