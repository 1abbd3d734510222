# ruff: noqa: RUF009 - key() makes a dataclass field
"""Keys of the configuration: who may do what.

A command chooses its form of access by its own defaults: ``flambeau start`` leaves them as they
are (nobody is asked for a key until keys are given; models can be registered; a management or
metrics listener that others can reach needs keys), and ``torchserve`` sets ``authorization`` to
tokens, ``enable_model_api`` to false and ``allow_open_listeners`` to true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config_key import key
from .settings import BOOLEAN, PATH, SIGNING_KEYS, TEXT, URLS, choice, integer, number

if TYPE_CHECKING:
    from pathlib import Path

COMMAND_DEFAULT = "default of the command"
"""The source of values that a command brings along."""


@dataclass(frozen=True, kw_only=True)
class SecurityKeys:
    """Who may do what."""

    authorization: str = key(
        choice("automatic", "none", "tokens", "keys"),
        "automatic",
        "How callers show what they may do: keys of api_keys_file or api_keys, TorchServe's tokens "
        "in key_file.json, or not at all. automatic: keys where some are given, else none; "
        "tokens under the torchserve command.",
    )
    api_keys_file: Path | None = key(
        PATH,
        None,
        "File of API keys, in YAML or JSON; it is read again when it changes.",
        shown="none",
        flag="--api-keys-file",
    )
    api_keys: str = key(
        TEXT,
        "",
        "API keys, in the form of api_keys_file.",
        shown="none",
        secret=True,
    )
    disable_token_authorization: bool = key(
        BOOLEAN,
        False,
        "Ask for no tokens where they would be asked for; an explicit false asks for them.",
    )
    token_expiration_min: float = key(
        number(0, 1e9),
        60.0,
        "Minutes until TorchServe's inference and management keys expire.",
        variable="TS_TOKEN_EXPIRATION_TIME_MIN",
        shown="60",
    )
    enable_model_api: bool = key(
        BOOLEAN,
        True,
        "Let models be registered and unregistered through the management API.",
        flag="--enable-model-api/--disable-model-api",
        shown="true; false under the torchserve command",
    )
    allow_open_listeners: bool = key(
        BOOLEAN,
        False,
        "Let management and metrics listen beyond this machine though they ask for no keys.",
        flag="--allow-open-listeners/--refuse-open-listeners",
        shown="false; true under the torchserve command",
    )
    allowed_urls: str = key(
        URLS,
        "",
        "URLs that models may be fetched from: http, https, file and s3. Each admits what is below "
        "it; as in TorchServe's files an entry may be a regular expression for the whole URL.",
        shown="none",
    )
    use_env_allowed_urls: bool = key(
        BOOLEAN, False, "Read allowed_urls from the environment, too.", file_only=True
    )
    allow_private_urls: bool = key(
        BOOLEAN,
        False,
        "Fetch models from addresses that are not on the open internet, too.",
    )
    require_sha256: bool = key(
        BOOLEAN, False, "Fetch only models whose sha256 the registration gives."
    )
    require_signed: bool = key(
        BOOLEAN,
        False,
        "Serve only archives that are signed with one of trusted_keys or listed in "
        "trusted_archives.",
    )
    trusted_keys: str = key(
        SIGNING_KEYS,
        "",
        "Public keys of minisign; the signature of model.mar is model.mar.minisig beside it.",
        shown="none",
    )
    trusted_archives: Path | None = key(
        PATH,
        None,
        "File with the SHA-256 of archives, as sha256sum writes it; it is read for each archive.",
        shown="none",
    )
    allow_archive_code: bool = key(
        BOOLEAN,
        True,
        "Run code that archives bring. false: built-in handlers and safetensors only.",
    )
    max_download_mb: int = key(integer(1), 20_000, "Longest archive that is fetched, in MB.")
    download_timeout: int = key(integer(1), 600, "Seconds that fetching an archive may take.")
    enable_envvars_config: bool = key(
        BOOLEAN,
        False,
        "Let environment variables beat flags, as under TorchServe.",
        file_only=True,
    )
