"""``flambeau scan``: what in an archive is code, said before anything of it runs."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..model_store.archive import unpack
from ..model_store.contents import Danger, inspect
from ..model_store.errors import InvalidModelError
from ..model_store.manifest import load_manifest
from .table import render_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..model_store.contents import Finding

_REFUSED = {False: {Danger.HIDDEN}, True: {Danger.HIDDEN, Danger.CODE, Danger.TENSORS}}


@click.command(short_help="Show what in an archive is code.")
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--no-code",
    is_flag=True,
    help="Fail for all that a server with allow_archive_code=false refuses.",
)
@click.pass_context
def scan(ctx: click.Context, archives: tuple[Path, ...], no_code: bool) -> None:
    """Show what in ARCHIVES is code, or makes a server run code. Nothing is loaded or run.

    A handler is code and has to be. What should give pause is "hidden code": machine code, and
    pickled weights that call something other than the making of tensors. A file that is not listed
    is plain data.

    Exit codes: 0 no hidden code, 1 some, or an archive that cannot be read.
    """
    refused = 0
    for archive in archives:
        try:
            with _unpacked(archive) as folder:
                findings = inspect(folder, load_manifest(folder))
        except (InvalidModelError, OSError) as error:
            reason = error.message if isinstance(error, InvalidModelError) else error.strerror
            click.echo(f"{archive.name}: {reason}", err=True)
            refused += 1
            continue
        click.echo(_report(archive.name, findings))
        refused += any(finding.danger in _REFUSED[no_code] for finding in findings)
    ctx.exit(1 if refused else 0)


@contextlib.contextmanager
def _unpacked(archive: Path) -> Iterator[Path]:
    if archive.is_dir():
        yield archive
        return
    with tempfile.TemporaryDirectory(prefix="flambeau-scan-") as folder:
        unpack(archive, Path(folder, "model"))
        yield Path(folder, "model")


def _report(name: str, findings: Sequence[Finding]) -> str:
    if not findings:
        return f"{name}: plain data only"
    rows = [[each.file, each.danger.value, each.what] for each in findings]
    return f"{name}:\n{render_table(['FILE', 'IS', 'WHAT'], rows)}"
