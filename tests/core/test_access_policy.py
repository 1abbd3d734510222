"""When keys are asked for, in which form, and which listeners may do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flambeau.frontend.access_policy import access_mode
from flambeau.frontend.config import TORCHSERVE_DEFAULTS as DEFAULTS
from flambeau.frontend.config import Config, load_config
from flambeau.frontend.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

KEYS = '[{"name": "a", "sha256": "' + "0" * 64 + '", "scopes": ["infer"]}]'
OPEN = ("management_address=http://10.0.0.1:1", "metrics_address=http://[::]:2")


def flambeau(cwd: Path, *lines: str, **environ: str) -> Config:
    (cwd / "config.properties").write_text("\n".join(lines), encoding="utf-8")
    return load_config({}, {"HOME": "/home/x", **environ}, cwd)


def torchserve(cwd: Path, *lines: str, flags: dict[str, object] | None = None) -> Config:
    (cwd / "config.properties").write_text("\n".join(lines), encoding="utf-8")
    return load_config(flags or {}, {"HOME": "/home/x", "LOG_LOCATION": str(cwd)}, cwd, DEFAULTS)


def test_flambeaus_command_asks_for_no_keys_until_there_are_some(tmp_path: Path) -> None:
    assert access_mode(flambeau(tmp_path)) == "none"
    assert access_mode(flambeau(tmp_path, "api_keys_file=keys.yaml")) == "keys"
    assert access_mode(flambeau(tmp_path, FLAMBEAU_API_KEYS=KEYS)) == "keys"


def test_a_file_that_says_that_tokens_are_on_turns_them_on(tmp_path: Path) -> None:
    assert access_mode(flambeau(tmp_path, "disable_token_authorization=false")) == "tokens"
    assert access_mode(flambeau(tmp_path, "disable_token_authorization=true")) == "none"
    assert access_mode(flambeau(tmp_path, "authorization=tokens")) == "tokens"


def test_torchserves_command_asks_for_tokens_unless_they_are_disabled(tmp_path: Path) -> None:
    off = {"disable_token_authorization": True}
    assert access_mode(torchserve(tmp_path)) == "tokens"
    assert access_mode(torchserve(tmp_path, flags=off)) == "none"
    assert access_mode(torchserve(tmp_path, "disable_token_authorization=true")) == "none"
    assert access_mode(torchserve(tmp_path, "api_keys_file=keys.yaml")) == "keys"


def test_a_variable_that_enables_tokens_beats_the_flag_where_the_file_lets_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.properties").write_text("enable_envvars_config=true", encoding="utf-8")
    environ = {"HOME": "/home/x", "TS_DISABLE_TOKEN_AUTHORIZATION": "false"}
    flags = {"disable_token_authorization": True}
    assert access_mode(load_config(flags, environ, tmp_path, DEFAULTS)) == "tokens"


def test_the_model_api_is_on_for_flambeaus_command_only(tmp_path: Path) -> None:
    assert flambeau(tmp_path).enable_model_api
    assert not torchserve(tmp_path).enable_model_api
    assert torchserve(tmp_path, "enable_model_api=true").enable_model_api


def test_keys_that_are_asked_for_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="authorization=keys: no keys are given"):
        flambeau(tmp_path, "authorization=keys")


def test_keys_that_have_no_effect_are_warned_about(tmp_path: Path) -> None:
    config = flambeau(tmp_path, "authorization=none", "api_keys_file=keys.yaml")
    assert access_mode(config) == "none"
    assert config.warnings == ("authorization=none: the API keys have no effect.",)


@pytest.mark.parametrize("host", ["10.0.0.1", "[::]", "0.0.0.0", "example.org"])  # noqa: S104
@pytest.mark.parametrize("key", ["management_address", "metrics_address"])
def test_an_open_listener_without_keys_stops_the_start(tmp_path: Path, key: str, host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        flambeau(tmp_path, f"{key}=http://{host}:1")
    assert caught.value.message.startswith(f"{key}=http://{host}:1: anyone who can reach")
    assert "api_keys_file" in caught.value.message
    assert "allow_open_listeners=true" in caught.value.message


def test_an_open_listener_that_is_allowed_is_warned_about(tmp_path: Path) -> None:
    management, metrics = flambeau(tmp_path, *OPEN, "allow_open_listeners=true").warnings
    assert "run code on this machine" in management
    assert metrics.startswith("metrics_address=http://[::]:2: anyone")
    # What ran under TorchServe must start.
    assert len(torchserve(tmp_path, *OPEN, "disable_token_authorization=true").warnings) == 2


def test_keys_guard_open_listeners_and_tokens_guard_management(tmp_path: Path) -> None:
    assert flambeau(tmp_path, *OPEN, "api_keys_file=keys.yaml").warnings == ()
    assert len(torchserve(tmp_path, *OPEN).warnings) == 1
    assert flambeau(tmp_path, OPEN[0], "authorization=tokens").warnings == ()


def test_certificates_of_clients_guard_listeners_with_tls(tmp_path: Path) -> None:
    files = ("client_ca_file=ca", "certificate_file=c", "private_key_file=k")
    assert flambeau(tmp_path, "management_address=https://10.0.0.1:1", *files).warnings == ()
    with pytest.raises(ConfigError):
        flambeau(tmp_path, "management_address=http://10.0.0.1:1", *files)


def test_secrets_are_neither_shown_nor_repeated(tmp_path: Path) -> None:
    config = flambeau(tmp_path, FLAMBEAU_API_KEYS=KEYS)
    rows = {key: value for key, value, _ in config.explain()}
    assert rows["api_keys"] == "(hidden)"


@pytest.mark.parametrize("text", ["-1", "x", "1e9", "nan", "inf", "2000000000"])
def test_a_lifetime_of_tokens_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="must be a number from 0 to 1e\\+09"):
        flambeau(tmp_path, f"token_expiration_min={text}")


def test_the_lifetime_of_tokens_has_torchserves_odd_variable(tmp_path: Path) -> None:
    config = flambeau(tmp_path, TS_TOKEN_EXPIRATION_TIME_MIN="0.1")
    assert config.token_expiration_min == 0.1
