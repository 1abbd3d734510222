"""Throws bytes at what reads the bytes of strangers, for a bounded time: ``make fuzz``.

    python tests/fuzz/fuzz.py [--seconds 30] [--seed N] [--atheris] [TARGET ...]

A target may raise the errors that it promises and nothing else. With atheris installed coverage
leads the way; without it, samples are cut up and put together at random. What is found becomes an
ordinary test.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "--atheris" in sys.argv:
    import atheris

    # Only what is instrumented while it is imported tells the fuzzer where it has been.
    with atheris.instrument_imports(include=["flambeau"]):
        for name in ("frontend.http.payload", "frontend.properties", "worker.protocol"):
            importlib.import_module(f"flambeau.{name}")
        for name in ("allowed_urls", "archive", "pickles"):
            importlib.import_module(f"flambeau.model_store.{name}")

from flambeau import FlambeauError
from flambeau.frontend.errors import BadRequestError
from flambeau.frontend.http.payload import body_parts, parse_query
from flambeau.frontend.properties import PropertiesError, parse
from flambeau.model_store.allowed_urls import AllowedUrls, parse_url
from flambeau.model_store.archive import unpack
from flambeau.model_store.pickles import HIDDEN, UNREADABLE, imported_names
from flambeau.worker.messages import Answer, Chunk, Part, Request, Result, Work
from flambeau.worker.protocol import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

FORM = b"application/x-www-form-urlencoded\0a=1&b=%20x&c"
MULTIPART = (
    b"multipart/form-data; boundary=b\0"
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n'
    b"Content-Type: text/plain\r\n\r\nhello\r\n--b--\r\n"
)


def payload(data: bytes) -> None:
    kind, _, body = data.partition(b"\0")
    with contextlib.suppress(BadRequestError):
        body_parts(kind.decode("latin-1"), body)
    with contextlib.suppress(BadRequestError):
        parse_query(kind.decode("latin-1"))


def wire(data: bytes) -> None:
    with contextlib.suppress(FlambeauError):
        decode(data.split(b"\xfe\xfe"))


def properties(data: bytes) -> None:
    with contextlib.suppress(PropertiesError):
        parse(data.decode("latin-1"))


def urls(data: bytes) -> None:
    allowed = AllowedUrls("https://models.example.com/team")
    try:
        url = parse_url(data.decode("latin-1"))
    except ValueError:
        return
    if allowed.admit(url) and not str(url).startswith("https://models.example.com/team"):
        raise AssertionError(f"admitted {url}")


def archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        source, target = Path(folder, "a.mar"), Path(folder, "out", "a")
        target.parent.mkdir()
        source.write_bytes(data)
        with contextlib.suppress(FlambeauError):
            unpack(source, target)
        outside = {path.name for path in Path(folder).iterdir()} - {"a.mar", "out"}
        if outside:
            raise AssertionError(f"written outside: {outside}")


class _Recorder(pickle._Unpickler):  # type: ignore[name-defined]
    """Follows a pickle for real, with something harmless for everything that it imports.

    It is the one in Python: that in C fills memory for a number in a pickle.
    """

    names: set[str]

    def find_class(self, module: str, name: str) -> Any:
        self.names.add(f"{module}.{name}")
        return _Harmless

    def persistent_load(self, pid: Any) -> Any:
        return _Harmless()


class _Harmless:
    def __init__(self, *arguments: object) -> None:
        pass


def pickles(data: bytes) -> None:
    """What Python itself would import must be seen, unless the program counts as unreadable."""
    names = imported_names(io.BytesIO(data))
    if b"\x96" in data:
        # Python would fill memory for the announced length of a bytearray.
        return
    recorder = _Recorder(io.BytesIO(data))
    recorder.names = set()
    with contextlib.suppress(Exception):
        recorder.load()
    if not recorder.names <= names and not names & {UNREADABLE, HIDDEN}:
        raise AssertionError(f"overlooked {recorder.names - names}")


def _zip() -> bytes:
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("MAR-INF/MANIFEST.json", "{}")
            made.writestr("handler.py", "x = 1\n")
        file.seek(0)
        return file.read()


def _frames(message: object) -> bytes:
    return b"\xfe\xfe".join(bytes(frame) for frame in encode(message))  # type: ignore[arg-type]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


_EVIL = [_Evil(), "torch", "Size", ("a", {"b": [1, 2.5]}), _Evil(), {3}, OrderedDict(x=b"y")]
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "payload": (payload, [FORM, MULTIPART]),
    "wire": (
        wire,
        [
            _frames(Work(1, [Request("r", {"a": "b"}, [Part("body", "", b"x")])])),
            _frames(Result(1, 0.5, [Answer(body=b"x" * 20_000)])),
            _frames(Chunk(1, 0, Answer(body=b"x"))),
        ],
    ),
    "properties": (properties, [b"a=1\\\n 2\n#c\nb : \\u0041\n"]),
    "urls": (urls, [b"https://models.example.com/team/a.mar", b"s3://bucket/prod/a.mar"]),
    "archive": (archive, [_zip()]),
    "pickles": (pickles, [pickle.dumps(_EVIL, protocol) for protocol in range(6)]),
}


def mutated(samples: list[bytes], chance: random.Random) -> bytes:
    """A sample with a few bytes changed, cut out, doubled or taken from another."""
    data = bytearray(chance.choice(samples))
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(data))
        match chance.randint(0, 3):
            case 0:
                data[at : at + 1] = bytes([chance.randint(0, 255)])
            case 1:
                del data[at : at + chance.randint(1, 16)]
            case 2:
                data[at:at] = data[at : at + chance.randint(1, 16)]
            case _:
                other = chance.choice(samples)
                start = chance.randint(0, len(other))
                data[at:at] = other[start : start + chance.randint(1, 16)]
    return bytes(data)


def run(name: str, seconds: float, seed: int) -> bool:
    """Whether the target kept its promises."""
    check, samples = TARGETS[name]
    chance = random.Random(seed)
    deadline, count = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        data = mutated(samples, chance)
        count += 1
        try:
            check(data)
        except Exception:
            print(f"{name}: broken by {data!r} (seed {seed}, try {count})")
            traceback.print_exc()
            return False
    print(f"{name}: {count} inputs, seed {seed}, nothing found")
    return True


def run_with_atheris(name: str, seconds: float, seed: int) -> None:
    """Does not return: libFuzzer ends the process."""
    check, samples = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="corpus") as corpus:
        for number, sample in enumerate(samples):
            Path(corpus, str(number)).write_bytes(sample)
        flags = [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-verbosity=0", corpus]
        atheris.Setup([sys.argv[0], *flags], check)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=30.0, help="for each target")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--atheris", action="store_true", help="let coverage lead (needs atheris)")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if options.atheris and len(names) == 1:
        run_with_atheris(names[0], options.seconds, options.seed)
    if options.atheris:
        # Each target in a process of its own, which ends with it.
        flags = ["--atheris", f"--seconds={options.seconds}", f"--seed={options.seed}"]
        command = [sys.executable, __file__, *flags]
        failed = [
            name for name in names if subprocess.run([*command, name], check=False).returncode
        ]
        print(f"led by coverage: {', '.join(failed) or 'nothing'} found")
        return 1 if failed else 0
    return 0 if all(run(name, options.seconds, options.seed) for name in names) else 1


if __name__ == "__main__":
    sys.exit(main())
