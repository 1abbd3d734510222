"""Makes one environment; run as a program of its own, by the interpreter of the workers.

    python -I make_environment.py PLAN
    python make_environment.py

Without PLAN it prints as JSON what environments of this interpreter depend on. PLAN is JSON:
``folder`` (of the new environment), ``site`` (folders of the server's packages, to be seen in it),
and ``cwd`` and ``requirements``, if pip is to install some. It needs nothing but Python's own
library: the interpreter may be another than the server's. What pip says comes out of stdout. When
whoever started this ends, stdin does, and with it pip and all that it has started.

Exit codes: 0 done, 3 the environment cannot be made, 4 there is no pip, else pip's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

NO_VENV, NO_PIP = 3, 4
# After every other file of its kind: what is installed here comes before the server's packages.
_LAYER = "zzz-flambeau-server.pth"


def main() -> int:
    if len(sys.argv) == 1:
        _say(json.dumps(facts()))
        return 0
    plan = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, server = Path(plan["folder"]), plan["site"]
    try:
        _make(folder, server)
    except (OSError, subprocess.CalledProcessError) as error:
        _say(f"ERROR: {error}")
        return NO_VENV
    if plan["requirements"] is None:
        return 0
    if not any(Path(each, "pip").is_dir() for each in server) and _run(folder, "ensurepip", []):
        _say("ERROR: there is no pip: install it beside flambeau")
        return NO_PIP
    return _install(folder, plan["cwd"], plan["requirements"])


def facts() -> dict[str, Any]:
    """What this interpreter is, and in which folders the packages are that it sees."""
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return {
        "python": [sys.implementation.cache_tag, sys.version, sys.base_prefix],
        "platform": sysconfig.get_platform(),
        "site": folders,
    }


def _make(folder: Path, server: list[str]) -> None:
    """An environment without pip, and with a view of the server's packages."""
    import venv

    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    layer = folder / "lib" / version / "site-packages" / _LAYER
    # addsitedir, and not their names alone: packages of theirs may have such files, too.
    layer.write_text("".join(f"import site; site.addsitedir({each!r})\n" for each in server))


def _install(folder: Path, cwd: str, requirements: str) -> int:
    temporary = folder / "tmp"
    temporary.mkdir()
    options = ["--disable-pip-version-check", "--no-input", "install", "--no-user"]
    options += ["--progress-bar", "off", "-r", requirements]
    code = _run(folder, "pip", options, cwd, TMPDIR=str(temporary))
    shutil.rmtree(temporary, ignore_errors=True)
    return code


def _run(folder: Path, module: str, options: list[str], cwd: str = "/", **environ: str) -> int:
    path = os.pathsep.join(filter(None, [str(folder / "bin"), os.environ.get("PATH")]))
    return subprocess.run(
        # -I keeps modules of the archive, which is the current folder, from those of pip's.
        [str(folder / "bin" / "python"), "-I", "-m", module, *options],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env={**os.environ, **environ, "PATH": path},
        check=False,
    ).returncode


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - stdout is where the server listens


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
