"""Asks the real TorchServe every row of the contract and prints where flambeau differs.

    python tests/contract/oracle.py [--venv DIR] [--only TEXT]

``--venv`` is an environment with TorchServe 0.12, made and filled if it is not there (Java must be
installed). Exit code 1 if a row says of TorchServe what it does not do: then the contract is
written down wrongly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from typing import TYPE_CHECKING

from contract.exchange import exchange
from contract.models import fill
from contract.profiles import PROFILES, Profile
from contract.rows import Case, Row
from contract.tables import CASES
from real_server import Store
from real_torchserve import environment, torchserve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    Addresses = Mapping[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--venv", type=Path, default=Path(".make/oracle"))
    parser.add_argument("--only", default="", help="ask only cases whose id holds this text")
    options = parser.parse_args()
    commands = environment(options.venv.absolute())
    cases = [case for case in CASES if options.only in case.id]
    wrong = on_purpose = rows = 0
    for name in dict.fromkeys(case.profile for case in cases):
        with (
            tempfile.TemporaryDirectory(prefix="oracle") as base,
            served(commands, Path(base), PROFILES[name]) as addresses,
        ):
            for case in cases:
                if case.profile == name:
                    rows += len(case.rows)
                    key_file = Path(base, "key_file.json") if name == "tokens" else None
                    found = ask(addresses, case, key_file)
                    wrong += found
                    on_purpose += sum(row.torchserve is not None for row in case.rows)
    print(f"{rows} rows: {wrong} not as the contract says; {on_purpose} differ on purpose")
    return 1 if wrong else 0


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def served(commands: Path, base: Path, profile: Profile) -> AbstractContextManager[Addresses]:
    """A real TorchServe with the models of the contract; where it listens."""
    fill(Store(base / "store"))
    return torchserve(
        commands,
        base,
        profile.settings,
        has_loaded,
        profile.torchserve_flags,
        profile.environ,
        profile.one_address,
    )


def has_loaded(addresses: Addresses) -> bool:
    """Whether the model that is loaded at the start has a worker that answers."""
    reply = exchange(addresses, Row("GET", "/models/telling", port="management"))
    return b'"READY"' in reply.body or reply.status == 400


def ask(addresses: Addresses, case: Case, key_file: Path | None) -> int:
    """Ask the rows of a case; how many are not as written down."""
    wrong = 0
    for number, row in enumerate(case.rows, start=1):
        expect = row.expect if row.torchserve is None else row.torchserve.expect
        try:
            faults = expect.faults(exchange(addresses, row, key_file))
        except OSError as error:
            faults = [f"{type(error).__name__}: {error}"]
        if row.torchserve is not None:
            print(f"on purpose  {case.id}, row {number}, {row}: {row.torchserve.why}")
        if faults:
            wrong += 1
            print(f"UNEXPECTED  {case.id}, row {number}, {row}: {'; '.join(faults)}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
