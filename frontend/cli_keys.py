"""``flambeau keys``: makes API keys, and the lines by which a server knows them."""

from __future__ import annotations

import sys

import click

from .access import Scope
from .api_keys import SHORTEST_KEY, digest_text, entry_line, new_key


@click.group(short_help="Make API keys.")
def keys() -> None:
    """Make API keys, for the file that the server is given as --api-keys-file."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key is good for; may be given several times.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Model that the key is for; may be given several times.  [default: all]",
)
def create(name: str, scopes: tuple[str, ...], models: tuple[str, ...]) -> None:
    """Make a key called NAME and print it.

    The key goes to standard error, the line for the file of keys to standard output. The line
    holds the key's hash only, so this is the one time that the key is seen.
    """
    key = new_key()
    try:
        line = entry_line(name, key, scopes, models)
    except ValueError as error:
        raise click.UsageError(f"The key {error}.") from None
    click.echo(f"Key (shown this once): {key}", err=True)
    click.echo("Line for the file of keys:", err=True)
    click.echo(line)


@keys.command("hash")
def hash_key() -> None:
    """Read a key from standard input and print the sha256 that stands for it."""
    if sys.stdin.isatty():
        key = click.prompt("Key", hide_input=True, err=True)
    else:
        key = sys.stdin.buffer.readline().decode(errors="replace").strip()
    if not key:
        raise click.UsageError("Give the key on standard input.")
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable():
        raise click.UsageError(
            f"That is no key: it has fewer than {SHORTEST_KEY} characters, or others than ASCII. "
            "'flambeau keys create' makes one."
        )
    click.echo(digest_text(key))
