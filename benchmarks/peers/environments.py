"""A Python environment for each server, under ``.make/peers``; torch is installed once for all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from echo import say
from processes import HERE, BenchmarkError

ROOT = HERE.parent
HOME = ROOT / ".make" / "peers"
TORCH = "torch==2.13.0"
"""Of one version, so that all serve with the same; one that PyPI has as a small CPU build, too."""
_BASE = "base"
_PIP = (HOME / _BASE / "bin" / "python", "-m", "pip", "--disable-pip-version-check")


@dataclass(frozen=True)
class Needs:
    """What is installed for a server, and the commands that it cannot do without.

    The first package, or that of this ``name``, is the one whose version counts.
    """

    packages: tuple[str, ...]
    commands: tuple[str, ...] = ()
    name: str = ""


NEEDS = {
    "flambeau": Needs(("--editable", f"{ROOT}[fast]"), name="flambeau"),
    "mosec": Needs(("mosec",)),
    # Its worker imports yaml, which its package does not ask for.
    "torchserve": Needs(("torchserve", "torch-model-archiver", "pyyaml"), ("java",)),
    "litserve": Needs(("litserve",)),
    # With a newer uvloop its worker finds no event loop.
    "mlserver": Needs(("mlserver", "uvloop<0.22")),
    "bentoml": Needs(("bentoml",)),
    "ray": Needs(("ray[serve]",), name="ray"),
    "pytriton": Needs(("nvidia-pytriton",)),
    "plots": Needs(("matplotlib",)),
}


def python_of(name: str) -> Path:
    """The interpreter of a server's environment."""
    return HOME / name / "bin" / "python"


def install(name: str) -> None:
    """Make the server's environment, unless it is there; BenchmarkError if that cannot be done."""
    needs = NEEDS[name]
    for command in needs.commands:
        if shutil.which(command) is None:
            raise BenchmarkError(f"{command} is not installed.")
    _make(_BASE, (TORCH, "numpy"))
    _make(name, needs.packages)


def versions(names: list[str]) -> dict[str, str]:
    """What is installed for each of these, with Python and torch, which all have in common."""
    script = "import platform, torch; print(platform.python_version(), torch.__version__)"
    python, torch = _run([python_of(_BASE), "-c", script]).split()
    found = {"Python": python, "torch": torch}
    for name in names:
        package = NEEDS[name].name or NEEDS[name].packages[0]
        script = f"from importlib import metadata; print(metadata.version('{package}'))"
        found[package] = _run([python_of(name), "-c", script]).strip()
    return found


def _make(name: str, packages: tuple[str, ...]) -> None:
    """The stamp in the environment says what has been installed into it."""
    stamp = HOME / name / "installed.txt"
    wanted = "\n".join(packages) + "\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"  installing {', '.join(packages)} into {(HOME / name).relative_to(ROOT)}")
    if not python_of(name).exists():
        # Only the first environment has pip, which installs into the others as well.
        without = [] if name == _BASE else ["--without-pip"]
        _run([sys.executable, "-m", "venv", *without, HOME / name])
    if name != _BASE:
        _see_base(name)
    _run([*_PIP, "--python", python_of(name), "install", "--quiet", *packages])
    stamp.write_text(wanted)


def _see_base(name: str) -> None:
    """Let this environment import what the first one has, after what it has itself."""
    places = []
    for each in (_BASE, name):
        asked = [python_of(each), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        places.append(Path(_run(asked).strip()))
    (places[1] / "base.pth").write_text(f"{places[0]}\n")


def _run(command: list[object]) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise BenchmarkError(f"{Path(str(command[0])).name} failed: {' '.join(last)}")
    return done.stdout
