"""The models that are asked: each answers with what only its own request can have led to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from real_server import Store

# What both sides reckon: the handlers have it in their own words below.


def right_answer(token: str, pad: int) -> str:
    """The answer to the request with this token, and so many bytes beside it."""
    return f"{hashlib.sha256(token.encode()).hexdigest()}:{pad}"


HANDLER = """
import ctypes
import hashlib
import os
import sys
import time


def handle(data, context):
    if data is None:
        return None
    orders = [row.get("body") or {} for row in data]
    for order in orders:
        suffer(order.get("do"))
    return [answer(order) for order in orders]


def answer(order):
    token, pad = order["token"], len(order.get("pad", ""))
    return f"{hashlib.sha256(token.encode()).hexdigest()}:{pad}"


def suffer(fault):
    if fault == "exit":
        os._exit(3)
    if fault == "leave":
        sys.exit(4)
    if fault == "crash":
        ctypes.string_at(0)
    if fault == "raise":
        raise ValueError("a poisonous input")
    if fault == "memory":
        raise MemoryError("no memory for that")
    if fault == "hang":
        time.sleep(3600)
    if fault == "slow":
        time.sleep(0.2)
"""

STREAM = (
    HANDLER.replace(
        "return [answer(order) for order in orders]",
        "return [pieces(answer(order)) for order in orders]",
    )
    + """

def pieces(text):
    for start in range(0, len(text), 16):
        yield text[start : start + 16]
"""
)

ASYNC = """
import asyncio
import hashlib


async def handle(data, context):
    if data is None:
        return None
    await asyncio.sleep(0.002)
    answers = []
    for row in data:
        order = row.get("body") or {}
        if order.get("do") == "raise":
            raise ValueError("a poisonous input")
        token, pad = order["token"], len(order.get("pad", ""))
        answers.append(f"{hashlib.sha256(token.encode()).hexdigest()}:{pad}")
    return answers
"""

_COMMON = "responseTimeout: 2\nstartupTimeout: 30\njobQueueSize: 200\n"


def write_models(store: Store) -> dict[str, int]:
    """The archives in the store, and how many workers each is to have."""
    store.mar("batched", {"handler.py": HANDLER}, _COMMON + "batchSize: 8\nmaxBatchDelay: 5\n")
    store.mar("single", {"handler.py": HANDLER}, _COMMON)
    store.mar("stream", {"handler.py": STREAM}, _COMMON + "batchSize: 4\n")
    store.mar(
        "async",
        {"handler.py": ASYNC},
        _COMMON + "batchSize: 4\nasyncCommunication: true\nmaxConcurrency: 8\n",
    )
    store.mar("volatile", {"handler.py": HANDLER}, _COMMON + "batchSize: 4\n")
    return {"batched": 2, "single": 2, "stream": 2, "async": 1, "volatile": 1}
