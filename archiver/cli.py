"""The commands ``torch-model-archiver`` and ``torch-workflow-archiver``.

They are also ``flambeau archive`` and ``flambeau archive-workflow``.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from .packager import FORMATS, RUNTIMES, ArchiverError, ArchiveSpec, build_archive
from .workflow_packager import WorkflowArchiveSpec, build_workflow_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model-name", required=True, help="Name of the model and of the archive.")
@click.option("-v", "--version", required=True, help="Version of the model, such as 1.0.")
@click.option(
    "--handler",
    required=True,
    help="A built-in handler (such as image_classifier), or the path of a Python file, "
    "with :function after it if the entry point is not named handle.",
)
@click.option(
    "--model-file", type=_FILE, help="Python file with the model's class; eager models need it."
)
@click.option("--serialized-file", type=_FILE, help="Weights: a state dict, TorchScript, ONNX, ...")
@click.option(
    "--extra-files",
    default="",
    metavar="LIST",
    help="Comma-separated files, directories (their contents) and glob patterns.",
)
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="python",
    show_default=True,
    help="Interpreter that runs the model.",
)
@click.option(
    "--export-path",
    type=_FILE,
    default=Path(),
    metavar="DIR",
    help="Directory that the archive goes to.  [default: the current one]",
)
@click.option(
    "--archive-format",
    type=click.Choice(FORMATS),
    default="default",
    show_default=True,
    help="default: NAME.mar; tgz: NAME.tar.gz; no-archive: a directory; zip-store: as default.",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite an archive that exists.")
@click.option("-r", "--requirements-file", type=_FILE, help="Python packages that the model needs.")
@click.option(
    "-c", "--config-file", type=_FILE, help="Model configuration in YAML (batchSize, ...)."
)
@click.pass_context
def archive(ctx: click.Context, /, extra_files: str, **flags: Any) -> None:
    """Package a model and its handler into an archive that can be served."""
    spec = ArchiveSpec(extra_files=_items(extra_files), **flags)
    _build(ctx, spec.model_name, lambda show: build_archive(spec, show))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workflow-name", required=True, help="Name of the workflow and of the archive.")
@click.option(
    "--spec-file",
    type=_FILE,
    required=True,
    help="YAML file with the workflow's models and its graph.",
)
@click.option(
    "--handler", type=_FILE, help="Python file with the functions that are nodes of the graph."
)
@click.option(
    "--export-path",
    type=_FILE,
    default=Path(),
    metavar="DIR",
    help="Directory that the archive goes to.  [default: the current one]",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite an archive that exists.")
@click.option(
    "--extra-files",
    default="",
    metavar="LIST",
    help="Comma-separated files, directories (their contents) and glob patterns.",
)
@click.pass_context
def archive_workflow(ctx: click.Context, /, extra_files: str, **flags: Any) -> None:
    """Package a workflow, a graph of models and functions, into an archive that can be served."""
    spec = WorkflowArchiveSpec(extra_files=_items(extra_files), **flags)
    _build(ctx, spec.workflow_name, lambda show: build_workflow_archive(spec, show))


def _items(extra_files: str) -> tuple[str, ...]:
    items = (item.strip() for item in extra_files.split(","))
    return tuple(item for item in items if item)


def _build(
    ctx: click.Context, name: str, build: Callable[[Callable[[int, int], None]], Path]
) -> None:
    try:
        with _warnings_shown(), _ProgressBar(f"Packing {name}") as bar:
            target = build(bar.show)
    except ArchiverError as exc:
        raise _Refusal(exc.message) from exc
    # Scripts rely on the archivers being silent when all went well.
    if ctx.parent is not None or sys.stdout.isatty():
        click.echo(f"Wrote {target} ({_size_text(_size(target))})")


def main() -> None:
    """Entry point of the console command ``torch-model-archiver``."""
    archive.main(prog_name="torch-model-archiver")


def main_workflow() -> None:
    """Entry point of the console command ``torch-workflow-archiver``."""
    archive_workflow.main(prog_name="torch-workflow-archiver")


class _Refusal(click.ClickException):
    """Ends the command with exit code 1 and one line, in torch-model-archiver's form."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"ERROR - {self.message}", file=file, err=file is None)


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname} - {record.getMessage()}", err=True)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    logger = logging.getLogger(__package__)
    handler = _Stderr(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _ProgressBar:
    """A bar on stderr once packing has taken a second; nothing unless a person watches."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._due = time.monotonic() + 1.0
        self._bar: Any = None
        self._shown = 0

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and (now < self._due or not sys.stderr.isatty()):
            return
        if self._bar is None:
            if done == total:
                return
            self._bar = click.progressbar(length=total, label=self._label, file=sys.stderr)
        self._bar.update(done - self._shown)
        self._shown = done
        self._due = now + 0.1


def _size(target: Path) -> int:
    files = target.rglob("*") if target.is_dir() else [target]
    return sum(path.stat().st_size for path in files if path.is_file())


def _size_text(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if size < 999.95 * scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"
