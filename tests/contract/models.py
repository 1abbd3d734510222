"""The models of the contract: handlers that both servers can run, in archives."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from real_server import Store

TELLING = '''
"""Does what a JSON body says under "do"; otherwise tells what it was given."""

import os
import time

try:
    from ts.utils.util import PredictionException
except ImportError:
    from flambeau.worker.errors import PredictionException


def shown(value):
    kind = type(value).__name__
    return {kind: value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else value}


def handle(data, context):
    if data is None:
        return None
    return [answer(index, row, context) for index, row in enumerate(data)]


def answer(index, row, context):
    if not isinstance(row, dict) or "datatype" in row:
        return len(row) if isinstance(row, (bytes, list)) else row["data"]
    order = row.get("body")
    if isinstance(order, dict) and "do" in order:
        return obey(index, order, context)
    headers = context.get_all_request_header(index)
    return {
        "data": {name: shown(value) for name, value in row.items()},
        "headers": {name: value for name, value in headers.items() if name in WATCHED},
    }


WATCHED = ("url_path", "explain", "describe", "X-Request-Id", "x-a", "X-A", "Authorization", "f")


def obey(index, order, context):
    what = order["do"]
    if what == "return":
        return order["value"]
    if what == "bytes":
        return order["value"].encode("latin-1")
    if what == "bytearray":
        return bytearray(order["value"].encode("latin-1"))
    if what == "set":
        return {1, 2}
    if what == "raise":
        raise ValueError("a handler's own words")
    if what == "memory":
        raise MemoryError("none left")
    if what == "cuda":
        raise RuntimeError("CUDA error: out of memory")
    if what == "refuse":
        raise PredictionException(order["message"], order["code"])
    if what == "status":
        context.set_response_status(order["code"], order["phrase"], index)
        return order.get("value", "")
    if what == "header":
        context.set_response_header(index, order["name"], order["value"])
        return "done"
    if what == "type":
        context.set_response_content_type(index, order["value"])
        return "done"
    if what == "exit":
        os._exit(order["code"])
    if what == "sleep":
        time.sleep(order["seconds"])
        return "slept"
    raise ValueError(what)
'''

SHAPELESS = '''
"""Answers a batch with something that is no list of as many items."""


def handle(data, context):
    if data is None:
        return None
    return {"list": [1, 2, 3], "text": "text", "nothing": None, "empty": []}[data[0]["body"]]
'''

BROKEN = '''
"""Cannot be loaded."""

raise RuntimeError("broken on purpose")
'''

DESCRIBING = '''
"""Answers a call that asks for a description with what it is told to."""


def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "describe") == "True":
        return [{"about": "this model", "rows": len(data)}]
    return ["prediction"] * len(data)
'''


STREAMING = '''
"""Gives its answer away in as many pieces as the body says, then fails if it says so."""

try:
    from ts.handler_utils.utils import send_intermediate_predict_response
except ImportError:
    from flambeau.worker.streaming import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    order = data[0]["body"]
    for step in range(order["pieces"]):
        send_intermediate_predict_response(
            [f"piece {step} "] * len(data), context.request_ids, "ok", 200, context
        )
    if order.get("fail"):
        raise ValueError("no more")
    return ["last"] * len(data)
'''


FUNCTIONS = '''
"""Functions that are nodes of workflows."""

import json


def first(data, context):
    if data is None:
        return None
    body = data[0].get("body", "nothing")
    return [json.dumps(body) if isinstance(body, dict) else body]


def last(data, context):
    if data is None:
        return None
    parts = {name: bytes(value).decode("latin-1") for name, value in data[0].items()}
    about = {"name": context.model_name, "manifest": context.manifest, "rows": len(data)}
    kind = context.get_request_header(0, "body")
    return [json.dumps({"parts": parts, "about": about, "kind": kind})]


def plain(data, context):
    return None if data is None else ["plain"]
'''

ONE = {"m": {"url": "telling.mar"}}


def fill_workflows(store: Store) -> None:
    store.war("chain", {"models": ONE, "dag": {"first": ["m"], "m": ["last"]}}, FUNCTIONS)
    store.war("single", {"models": ONE, "dag": {"m": []}}, FUNCTIONS)
    store.war("ends", {"models": ONE, "dag": {"first": ["m", "last"]}}, FUNCTIONS)
    store.war("mixed", {"models": ONE, "dag": {"first": ["m", "plain"]}}, FUNCTIONS)
    store.war("starts", {"models": ONE, "dag": {"m": ["last"], "first": ["last"]}}, FUNCTIONS)
    store.war("self", {"models": ONE, "dag": {"first": ["m"], "m": ["m"]}}, FUNCTIONS)
    store.war("cycle", {"models": ONE, "dag": {"first": ["m"], "m": ["last"], "last": ["m"]}}, "")
    store.war("empty", {"models": ONE}, FUNCTIONS)
    store.war("absent", {"models": {"m": {"url": "no.mar"}}, "dag": {"m": []}}, FUNCTIONS)
    store.war("failing", {"models": {"m": {"url": "broken.mar"}}, "dag": {"m": []}}, FUNCTIONS)
    store.war("wrong", {"models": {"batch-size": "two", **ONE}, "dag": {"m": []}}, FUNCTIONS)


def fill(store: Store) -> None:
    """Put every archive of the contract into ``store``."""
    fill_workflows(store)
    store.mar("telling", {"handler.py": TELLING})
    store.mar("telling2", {"handler.py": TELLING}, modelName="telling", modelVersion="2.0")
    store.mar("shapeless", {"handler.py": SHAPELESS})
    store.mar("broken", {"handler.py": BROKEN})
    store.mar("streaming", {"handler.py": STREAMING})
    store.mar("ticketed", {"handler.py": TELLING}, "useJobTicket: true\n")
    store.mar("describing", {"handler.py": DESCRIBING})
    store.mar(
        "configured",
        {"handler.py": TELLING},
        "batchSize: 3\nmaxBatchDelay: 7\nresponseTimeout: 33\n",
    )
