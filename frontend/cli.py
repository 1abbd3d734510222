"""The command ``flambeau``. Commands are imported when they are used, so that each starts fast."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from .. import FlambeauError, __version__

_COMMANDS = {
    "start": ".cli_server:start",
    "stop": ".cli_server:stop",
    "restart": ".cli_restart:restart",
    "status": ".cli_status:status",
    "archive": "..archiver.cli:archive",
    "archive-workflow": "..archiver.cli:archive_workflow",
    "scan": ".cli_scan:scan",
    "models": ".cli_models:models",
    "predict": ".cli_models:predict",
    "bench": ".cli_bench:bench",
    "handler": ".cli_handler:handler",
    "keys": ".cli_keys:keys",
    "config": ".cli_config:config",
}


class _Commands(click.Group):
    """Finds the commands in other modules, and turns flambeau's errors into exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command = getattr(import_module(module, __package__), name)
        return command if isinstance(command, click.Command) else None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlambeauError as error:
            raise click.ClickException(error.message) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "--version", message="flambeau %(version)s")
def main() -> None:
    """Serve PyTorch models over HTTP.

    \b
    flambeau archive   makes an archive from a model and its handler
    flambeau start     serves the archives of a model store
    flambeau predict   asks a model

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """


if __name__ == "__main__":
    main()
