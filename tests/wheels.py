"""Small packages for tests: wheels, which are zips, and a source that builds when it may."""

from __future__ import annotations

import io
import textwrap
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_WARN_CONFLICTS": "1"}
"""Variables with which pip asks nobody, and does not look through all of the server's packages."""


def wheel(name: str, version: str, requires: str | None = None) -> tuple[str, bytes]:
    """File name and content of a wheel with a module and a command called ``name``.

    The module has ``VERSION``, which the command prints.
    """
    info = f"{name}-{version}.dist-info"
    needs = "" if requires is None else f"Requires-Dist: {requires}\n"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n\ndef main():\n    print(VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in files.items():
            # With a time of its own it would be another wheel each second.
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-py3-none-any.whl", content.getvalue()


def source_that_waits(started: Path, gate: Path) -> dict[str, str | bytes]:
    """Files of the package ``waiting``: its build notes its process in ``started`` and goes on once
    ``gate`` is there. It needs nothing that pip would have to fetch.
    """
    backend = f"""
        import os, time
        from pathlib import Path

        def build_wheel(folder, config_settings=None, metadata_directory=None):
            print("building now", flush=True)
            Path({str(started)!r}).write_text(str(os.getpid()))
            while not Path({str(gate)!r}).exists():
                time.sleep(0.01)
            Path(folder, {wheel("waiting", "1.0")[0]!r}).write_bytes(
                Path(__file__).with_name("built.bin").read_bytes()
            )
            return {wheel("waiting", "1.0")[0]!r}
    """
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    return {
        "waiting/pyproject.toml": f'{project}[project]\nname = "waiting"\nversion = "1.0"\n',
        "waiting/backend.py": textwrap.dedent(backend),
        "waiting/built.bin": wheel("waiting", "1.0")[1],
    }
