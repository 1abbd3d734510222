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
MAX_OPCODES = 5_000_000

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
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
_TEXTS.add("BINUNICODE8")
_STORES = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCHES = {"GET", "BINGET", "LONG_BINGET"}
_MARK = object()


def beyond_tensors(names: set[str]) -> set[str]:
    """Those of ``names`` that a state dict does not need."""
    return {name for name in names if not _TENSORS.fullmatch(name)}


def imported_names(file: IO[bytes], *, several: bool = False) -> set[str]:
    """The ``module.name``s that the pickle in ``file`` imports.

    ``several``: another pickle may follow, as in the files of old versions of torch; what follows
    the last one is not looked at. ``UNREADABLE`` and ``HIDDEN`` stand for names that cannot be
    told.
    """
    names = _Program(file).names()
    while several and UNREADABLE not in names and file.read(1) == b"\x80":
        file.seek(-1, io.SEEK_CUR)
        more = _Program(file).names()
        # Raw numbers follow, which may begin like a pickle.
        names |= more - {UNREADABLE}
        several = UNREADABLE not in more
    return names


class _Program:
    """One pickle, followed with a stack of texts: ``None`` is anything that is no text."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = _Tap(file)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._names: set[str] = set()

    def names(self) -> set[str]:
        try:
            program = pickletools.genops(cast("IO[bytes]", self._file))
            for count, (opcode, argument, _) in enumerate(program):
                if count > MAX_OPCODES:
                    raise ValueError("too long")
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

    def __init__(self, file: IO[bytes]) -> None:
        self.read = file.read
        self._readline = file.readline
        self.lines: deque[bytes] = deque(maxlen=2)

    def readline(self) -> bytes:
        self.lines.append(self._readline())
        return self.lines[-1]


def _dotted(module: Any, name: Any) -> str:
    if isinstance(module, str) and isinstance(name, str):
        return f"{module}.{name}"
    return HIDDEN
