"""Has ``time.time`` jump as the chaos run wants it: the offset is a number in a shared file."""

import mmap
import os
import struct
import time

_path = os.environ.get("CHAOS_CLOCK")
if _path and os.path.exists(_path):
    with open(_path, "rb") as _file:
        _offset = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _true_time = time.time
    _true_time_ns = time.time_ns
    time.time = lambda: _true_time() + struct.unpack("d", _offset[:8])[0]
    time.time_ns = lambda: _true_time_ns() + int(struct.unpack("d", _offset[:8])[0] * 1e9)
