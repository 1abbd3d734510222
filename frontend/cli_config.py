"""``flambeau config``, and the options that set keys of the configuration, made from its table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .config import SETTINGS, Config, load_config
from .settings import BOOLEAN, PATH
from .table import render_table

if TYPE_CHECKING:
    from collections.abc import Callable

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def config_options(command: _Command) -> _Command:
    """Adds an option for each key that has a flag, ``--config``, and a list of more models.

    The command gets them as keyword arguments for ``read_flags``.
    """
    command = click.argument("more_models", nargs=-1, metavar="")(command)
    for key, setting in reversed(list(SETTINGS.items())):
        if setting.flag is None:
            continue
        help_text = f"{setting.meaning}  [default: {setting.default}]"
        if setting.kind is BOOLEAN:
            command = click.option(setting.flag, key, default=None, help=help_text)(command)
            continue
        metavar = "TEXT"
        if setting.kind is PATH:
            metavar = "FILE" if key.endswith("_file") else "DIR"
        if key == "load_models":
            metavar = "[NAME=]ARCHIVE"
        command = click.option(
            setting.flag, key, metavar=metavar, multiple=key == "load_models", help=help_text
        )(command)
    return click.option(
        "--config",
        "--ts-config",
        "config",
        metavar="FILE",
        help="Configuration file.  [default: config.properties in the current folder]",
    )(command)


def read_flags(
    load_models: tuple[str, ...], more_models: tuple[str, ...], **flags: object
) -> dict[str, object]:
    """What ``load_config`` takes as flags, without those that were not given.

    As with TorchServe's command, several models may follow one ``--models``.
    """
    if more_models and not load_models:
        raise click.UsageError(f"Got unexpected extra argument ({more_models[0]})")
    items = [item for given in (*load_models, *more_models) for item in given.split()]
    given = {key: value for key, value in flags.items() if value is not None}
    if load_models:
        given["load_models"] = ",".join(item.strip(",") for item in items) or "none"
    return given


def command_line(flags: dict[str, object]) -> list[str]:
    """The options that give ``flags`` again."""
    words: list[str] = []
    for key, value in flags.items():
        flag = SETTINGS[key].flag if key in SETTINGS else f"--{key}"
        if flag is None:
            raise ValueError(f"{key} has no flag")
        on, _, off = flag.partition("/")
        words += [on if value else off] if isinstance(value, bool) else [f"{on}={value}"]
    return words


def read_config(flags: dict[str, object]) -> Config:
    """The configuration for this process; raises ConfigError."""
    return load_config(flags, os.environ, Path.cwd())


def show_warnings(config: Config) -> None:
    """Print what whoever sets the configuration should know."""
    for warning in config.warnings:
        click.echo(f"Warning: {warning}", err=True)


@click.group(short_help="Show the configuration.")
def config() -> None:
    """Show the configuration and where it comes from."""


@config.command()
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(as_json: bool, **options: Any) -> None:
    """Print every key with its value and what set it.

    Takes the options of `flambeau start`. A key is set by its flag, else by the environment
    variable FLAMBEAU_<KEY> or TS_<KEY>, else by the configuration file.
    """
    found = read_config(read_flags(**options))
    show_warnings(found)
    rows = found.explain()
    if as_json:
        settings = [{"key": key, "value": value, "source": source} for key, value, source in rows]
        click.echo(json.dumps({"settings": settings, "warnings": found.warnings}, indent=2))
        return
    shown = ((key, _shown(value), source) for key, value, source in rows)
    click.echo(render_table(("KEY", "VALUE", "SOURCE"), shown))


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--torchserve", is_flag=True, help="Ask about a start by the command torchserve.")
@click.option("--model-store", metavar="DIR", help="The model store, if FILE does not name it.")
def check(file: Path, torchserve: bool, model_store: str | None) -> None:
    """Say whether a server can be started with FILE.

    Problems with a value are printed with its line. Exit code 1 if there is one.
    """
    from .config_check import check_config

    problems, warnings = check_config(
        file, os.environ, Path.cwd(), model_store=model_store, torchserve=torchserve
    )
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
    for problem in problems:
        click.echo(f"Problem: {problem}")
    if problems:
        raise click.exceptions.Exit(1)
    click.echo(f"{file} can work.")


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keys(as_json: bool) -> None:
    """List every key with what it may be, its default and its meaning."""
    if as_json:
        click.echo(json.dumps([_described(key) for key in SETTINGS], indent=2))
        return
    for key, setting in SETTINGS.items():
        click.echo(f"{key}\n    {setting.meaning}")
        click.echo(f"    Must be {setting.kind.allowed}. Default: {setting.default}.")


def _described(key: str) -> dict[str, object]:
    setting = SETTINGS[key]
    return {
        "key": key,
        "allowed": setting.kind.allowed,
        "default": setting.default,
        "flag": setting.flag,
        "variables": setting.variables,
        "meaning": setting.meaning,
    }


def _shown(value: object) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value)
