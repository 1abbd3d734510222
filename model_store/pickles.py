"""What a pickle would do when it is loaded, found out without loading it.

A pickle is a program for a stack machine that may import any name and call it. The names are read
off the program: it is followed step by step, with texts kept and everything else left blank.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections import deque
from typing import IO, Any, cast

UNREADABLE = "an unreadable program"
HIDDEN = "a name that is computed"
TORCH_PICKLES = 5
MOST_PICKLES = 16
_LONGEST_LINE = 1 << 20

# The rebuilding of tensors, as torch.save writes it: what torch.load(weights_only=True) admits.
_TENSORS = re.compile(
    r"""
      collections\.OrderedDict | (builtins|__builtin__)\.(set|complex|bytearray) | _codecs\.encode
    | torch\.(Size|device|Tensor|dtype|layout)
    | torch\.(BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long|Short)(Storage|Tensor)
    | torch\.(ComplexFloat|ComplexDouble|Q[A-Za-z0-9]+)Storage
    | torch\.(b?float|u?int|complex|quint|qint)[0-9a-z_]* | torch\.(bool|half|double|long|short)
    | torch\.storage\.(UntypedStorage|TypedStorage)
    | torch\.nn\.parameter\.(Parameter|Buffer|UninitializedParameter)
    | torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor
                               |sparse_tensor|meta_tensor_no_storage|wrapper_subclass)
    | torch\._tensor\._rebuild_from_type_v2
    """,
    re.VERBOSE,
)
_TEXTS = {
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_STORES = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCHES = {"GET", "BINGET", "LONG_BINGET"}
_MARK = object()


class Budget:
    """What looking at one archive may cost: opcodes that are followed, bytes that are read."""

    def __init__(self, opcodes: int = 2_000_000, size: int = 512 << 20) -> None:
        self._opcodes = opcodes
        self._size = size

    def spend(self, opcodes: int = 0, size: int = 0) -> None:
        """Raises ValueError when there is no more to spend."""
        self._opcodes -= opcodes
        self._size -= size
        if self._opcodes < 0 or self._size < 0:
            raise ValueError("too much to look through")


def beyond_tensors(names: set[str]) -> set[str]:
    """Those of ``names`` that a state dict does not need."""
    return {name for name in names if not _TENSORS.fullmatch(name)}


def imported_names(file: IO[bytes], budget: Budget | None = None) -> set[str]:
    """The ``module.name``s that the pickle in ``file`` imports, and those of pickles behind it.

    Files of old versions of torch hold five pickles and then raw numbers, which may look like more:
    only what comes later than that may be unreadable. ``UNREADABLE`` and ``HIDDEN`` stand for names
    that cannot be told.
    """
    budget = budget or Budget()
    names: set[str] = set()
    for number in range(MOST_PICKLES):
        if number and not file.read(1):
            break
        file.seek(-1 if number else 0, io.SEEK_CUR)
        found = _Program(file, budget).names()
        # Whatever runs before the unreadable part has run.
        names |= found if number < TORCH_PICKLES else found - {UNREADABLE}
        if UNREADABLE in found:
            break
    return names


class _Program:
    """One pickle, followed with a stack of texts: ``None`` is anything that is no text."""

    def __init__(self, file: IO[bytes], budget: Budget) -> None:
        self._file = _Tap(file, budget)
        self._budget = budget
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._names: set[str] = set()

    def names(self) -> set[str]:
        try:
            program = pickletools.genops(cast("IO[bytes]", self._file))
            for opcode, argument, _ in program:
                self._budget.spend(opcodes=1)
                self._step(opcode, argument)
        except Exception:
            # pickletools raises whatever comes to its mind; the machine runs out of its stack.
            self._names.add(UNREADABLE)
        return self._names

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            # pickletools reads escapes where Python reads none, so its argument may be wrong.
            module, imported = (line[:-1].decode(errors="replace") for line in self._file.lines)
            self._names.add(_dotted(module, imported))
        elif name == "STACK_GLOBAL":
            self._names.add(_dotted(self._stack[-2], self._stack[-1]))
        elif name.startswith("EXT"):
            self._names.add(HIDDEN)
        if name in _STORES:
            self._memo[int(argument)] = self._stack[-1]
            return
        if name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
            return
        self._pop(opcode)
        self._push(opcode, argument)

    def _pop(self, opcode: pickletools.OpcodeInfo) -> None:
        wanted = list(opcode.stack_before)
        to_mark = pickletools.markobject in wanted
        if opcode.name == "POP" and self._stack and self._stack[-1] is _MARK:
            wanted = [pickletools.markobject]
            to_mark = True
        if to_mark:
            while self._stack.pop() is not _MARK:
                pass
            # What stands below the mark in the opcode's own list is taken as well.
            wanted = wanted[: wanted.index(pickletools.markobject)]
        elif opcode.name == "DUP":
            return
        for _ in wanted:
            if self._stack.pop() is _MARK:
                raise ValueError("a mark where a value should be")

    def _push(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        if opcode.name == "DUP":
            self._stack.append(self._stack[-1])
        elif opcode.name in _FETCHES:
            self._stack.append(self._memo[int(argument)])
        elif opcode.name in _TEXTS:
            self._stack.append(argument)
        else:
            self._stack.extend(
                _MARK if each is pickletools.markobject else None for each in opcode.stack_after
            )


class _Tap:
    """A file that remembers the last two lines that were read from it, as they are."""

    def __init__(self, file: IO[bytes], budget: Budget) -> None:
        self._file = file
        self._budget = budget
        self.lines: deque[bytes] = deque(maxlen=2)

    def read(self, size: int) -> bytes:
        # Before it is read: a few bytes may announce gigabytes.
        self._budget.spend(size=max(0, size))
        return self._file.read(size)

    def readline(self) -> bytes:
        self.lines.append(self._file.readline(_LONGEST_LINE))
        self._budget.spend(size=len(self.lines[-1]))
        return self.lines[-1]


def _dotted(module: Any, name: Any) -> str:
    if isinstance(module, str) and isinstance(name, str):
        return f"{module}.{name}"
    return HIDDEN
