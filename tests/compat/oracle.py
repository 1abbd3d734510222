"""Asks the real TorchServe the compatibility cases, and keeps what it answers.

    python tests/compat/oracle.py [--venv DIR] [--only TEXT] [--check]

The archives are made by ``flambeau archive``: that TorchServe serves them is a part of what is
shown. The answers go to ``answers/``, one file for each case; ``--check`` compares instead of
writing. The other way, the real ``torch-model-archiver`` writes the archives in ``real_archives/``,
which the tests serve by flambeau.

``--venv`` is an environment with TorchServe 0.12 and what the handlers import, made and filled if
it is not there (``real_torchserve.py`` has the list; Java must be installed).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from compat.archives import FILES, REAL_ARCHIVES, build
from compat.catalog import CASES
from compat.profiles import PROFILES
from contract.exchange import exchange
from contract.rows import Row
from real_torchserve import TORCH, environment, torchserve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compat.case import Answer, Case

FORMATS = ("default", "zip-store", "tgz")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=Path(".make/oracle"))
    parser.add_argument("--only", default="", help="ask only cases whose id holds this text")
    parser.add_argument("--check", action="store_true", help="compare with what is kept")
    options = parser.parse_args()
    commands = environment(options.venv.absolute())
    cases = [case for case in CASES if options.only in case.id]
    wrong = 0
    for name in dict.fromkeys(case.profile for case in cases):
        with tempfile.TemporaryDirectory(prefix="oracle") as folder:
            base = Path(folder)
            (base / "store").mkdir()
            with torchserve(commands, base, PROFILES[name], answers_pings) as addresses:
                for case in cases:
                    if case.profile == name:
                        answers = asked(addresses, case, base)
                        wrong += (compare if options.check else keep)(case, answers)
    if not options.check and not options.only:
        archive(commands)
    return 1 if wrong else 0


def answers_pings(addresses: Mapping[str, str]) -> bool:
    return exchange(addresses, Row(target="/ping")).status == 200


def asked(addresses: Mapping[str, str], case: Case, base: Path) -> list[list[Answer]]:
    """Serve the case's archive and ask everything."""
    url = build(case, base / "store")
    target = f"/models?url={url}&initial_workers=1&synchronous=true"
    reply = exchange(addresses, Row("POST", target, port="management"), patience=130)
    if reply.status != 200:
        log = (base / "log").read_text()[-6000:]
        raise SystemExit(f"{log}\n{case.id} was not registered: {reply}")
    try:
        return case.play(addresses)
    finally:
        exchange(addresses, Row("DELETE", f"/models/{case.id}", port="management"))


def keep(case: Case, answers: list[list[Answer]]) -> int:
    """Write down what TorchServe has answered."""
    content = {
        "case": case.id,
        "torchserve": "0.12.0",
        "torch": TORCH.partition("==")[2],
        "python": platform.python_version(),
        "rounds": [[answer.fields() for answer in each] for each in answers],
    }
    case.answers_file.write_text(json.dumps(content, indent=1) + "\n")
    seen = [(answer.status, answer.body[:60]) for each in answers for answer in each]
    print(f"kept  {case.id}: {seen}", flush=True)
    return 0


def compare(case: Case, answers: list[list[Answer]]) -> int:
    """How many answers are not what is kept."""
    wrong = 0
    for number, (known, found) in enumerate(
        zip(case.known_answers(), answers, strict=True), start=1
    ):
        for one, other in zip(known, found, strict=True):
            faults = one.faults(other, case.exact)
            wrong += bool(faults)
            if faults:
                print(f"UNEXPECTED  {case.id}, round {number}: {'; '.join(faults)}", flush=True)
    return wrong


def archive(commands: Path) -> None:
    """Let the real archiver write one small model in each of its formats."""
    REAL_ARCHIVES.mkdir(exist_ok=True)
    for form in FORMATS:
        command = [commands / "torch-model-archiver", "--model-name", f"real_{form}"]
        command += ["--version", "2.1", "--handler", FILES / "streaming" / "handler.py"]
        command += ["--archive-format", form, "--export-path", REAL_ARCHIVES, "--force"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
