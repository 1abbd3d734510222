"""``flambeau scan``: what in an archive is code, said before anything of it runs."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..model_store.archive import unpack
from ..model_store.contents import Danger, inspect, refuse_code
from ..model_store.errors import InvalidModelError, printable
from ..model_store.manifest import MANIFEST_PATH, load_manifest
from .table import render_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ARCHIVES = (".mar", ".tar.gz", ".war")


@click.command(short_help="Show what in an archive is code.")
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--no-code",
    is_flag=True,
    help="Fail for all that a server with allow_archive_code=false refuses.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def scan(ctx: click.Context, archives: tuple[Path, ...], no_code: bool, as_json: bool) -> None:
    """Show what in ARCHIVES is code, or makes a server run code. Nothing is loaded or run.

    A handler is code and has to be. What should give pause is "hidden code": machine code, pickled
    weights that call something other than the making of tensors, and what cannot be looked into. A
    file that is not listed is plain data. Of a folder of archives, each is looked at.

    Exit codes: 0 no hidden code, 1 some, or an archive that cannot be read.
    """
    reports = [_look(path, no_code) for path in _each(archives)]
    if as_json:
        click.echo(json.dumps(reports, indent=2))
    else:
        for report in reports:
            _show(report)
    ctx.exit(1 if any(report["refused"] for report in reports) else 0)


def _each(archives: Sequence[Path]) -> Iterator[Path]:
    for path in archives:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        packed = [each for each in inside if each.name.endswith(_ARCHIVES) and each.is_file()]
        if packed and not (path / MANIFEST_PATH).exists():
            yield from packed
        else:
            yield path


def _look(archive: Path, no_code: bool) -> dict[str, Any]:
    """What is found, ``error`` where nothing can be; ``refused`` is what the exit code tells."""
    report: dict[str, Any] = {"archive": archive.name, "findings": [], "error": None}
    try:
        with _unpacked(archive) as folder:
            manifest = load_manifest(folder)
            findings = inspect(folder, manifest)
            report["findings"] = [
                {"file": each.file, "is": each.danger.value, "what": each.what} for each in findings
            ]
            report["refused"] = any(each.danger is Danger.HIDDEN for each in findings)
            if no_code:
                refuse_code(folder, manifest)
    except InvalidModelError as error:
        report.update(error=error.message, refused=True)
    except OSError as error:
        report.update(error=str(error.strerror), refused=True)
    return report


@contextlib.contextmanager
def _unpacked(archive: Path) -> Iterator[Path]:
    if archive.is_dir():
        yield archive
        return
    with tempfile.TemporaryDirectory(prefix="flambeau-scan-") as folder:
        unpack(archive, Path(folder, "model"))
        yield Path(folder, "model")


def _show(report: dict[str, Any]) -> None:
    name = printable(report["archive"])
    rows = [[printable(each[key]) for key in each] for each in report["findings"]]
    if rows:
        click.echo(f"{name}:\n{render_table(['FILE', 'IS', 'WHAT'], rows)}")
    elif report["error"] is None:
        click.echo(f"{name}: plain data only")
    if report["error"] is not None:
        click.echo(f"{name}: {printable(report['error'])}", err=True)
