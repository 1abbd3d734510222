"""flambeau keys, and the commands that send a key."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from flambeau.frontend.access import Scope
from flambeau.frontend.api_keys import KeyAccess, digest_text, read_keys
from flambeau.frontend.cli import main
from flambeau.frontend.cli_client import AnswerError, Server

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "k" * 30


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, arguments, **options)


def url(house: Any, listener: str) -> str:
    host, port = house.listeners.addresses[listener]
    return f"http://{host}:{port}"


@pytest.fixture
def guarded(make_house: Callable[..., Any]) -> Any:
    entry = {"name": "a", "sha256": digest_text(KEY), "scopes": ["infer", "manage"]}
    return make_house(access=KeyAccess(read_keys(json.dumps([entry]), "test")))


def test_a_created_key_is_let_in_by_the_line_that_goes_to_the_file() -> None:
    result = run("keys", "create", "shop", "--scope", "infer", "--scope", "metrics", "--model", "m")
    assert result.exit_code == 0
    key = re.search(r"flb_[\w-]{43}", result.stderr)
    assert key is not None
    assert key[0] not in result.stdout
    grant = KeyAccess(read_keys(result.stdout, "file")).authorize(Scope.INFER, f"Bearer {key[0]}")
    assert (grant.holder, grant.models) == ("shop", {"m"})
    assert grant.scopes == {Scope.INFER, Scope.METRICS}


def test_a_key_needs_a_scope_and_a_name_that_will_do() -> None:
    assert run("keys", "create", "shop").exit_code == 2
    result = run("keys", "create", "a b", "--scope", "infer")
    assert result.exit_code == 2
    assert "The key needs a name of letters" in result.stderr


def test_the_hash_of_a_key_can_be_had() -> None:
    result = run("keys", "hash", input=f"{KEY}\n")
    assert result.stdout == digest_text(KEY) + "\n"
    assert run("keys", "hash", input="\n").exit_code == 2


def test_commands_send_the_key_of_the_option_or_the_variable(guarded: Any) -> None:
    management = ("--management", url(guarded, "management"))
    inference = ("--url", url(guarded, "inference"))
    for more in ({"args": ("--key", KEY)}, {"env": {"FLAMBEAU_API_KEY": KEY}}):
        words, env = more.get("args", ()), more.get("env", {})
        result = run("models", "list", *management, *words, env=env)
        assert (result.exit_code, "m.mar" in result.stdout) == (0, True)
        result = run("predict", "m", "--json", "1", *inference, *words, env=env)
        assert (result.exit_code, result.stdout) == (0, "1")


def test_a_key_that_is_missing_is_asked_for(guarded: Any) -> None:
    result = run("models", "list", "--management", url(guarded, "management"))
    assert result.exit_code == 1
    assert "An API key is needed." in result.stderr
    assert "--key or FLAMBEAU_API_KEY" in result.stderr
    result = run("predict", "m", "--json", "1", "--url", url(guarded, "inference"))
    assert "401" in result.stderr
    assert "--key or FLAMBEAU_API_KEY" in result.stderr


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "é"])
def test_a_key_that_no_header_can_hold_is_not_sent_and_not_shown(key: str) -> None:
    with pytest.raises(AnswerError) as caught:
        Server("http://127.0.0.1:1", key=key)
    assert not key or key not in caught.value.message


@pytest.mark.parametrize("name", ["a b", "x'y: {", "", "ü"])
def test_a_name_that_will_not_do_is_one_clear_line(name: str) -> None:
    result = run("keys", "create", name, "--scope", "infer")
    assert result.exit_code == 2
    assert "The key needs a name of letters" in result.stderr


def test_a_key_for_a_model_without_a_name_is_none() -> None:
    assert run("keys", "create", "shop", "--scope", "infer", "--model", "").exit_code == 2


@pytest.mark.parametrize("given", ["", "short", b"\xff\xfe" * 20, "ü" * 30])
def test_what_is_no_key_has_no_hash(given: Any) -> None:
    result = run("keys", "hash", input=given)
    assert (result.exit_code, result.stdout) == (2, "")
