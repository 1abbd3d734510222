"""What the command line shows of versions and workers, from the management API's description."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .table import render_table

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_COLUMNS = ("MODEL", "VERSION", "STATE", "WORKERS", "QUEUE", "RESTARTS", "LAST EXIT")
WORKER_COLUMNS = ("WORKER", "PID", "STATE", "GPU", "MEMORY MIB", "RESTARTS", "LAST EXIT")
_LONGEST_REASON = 80
_NOT_SETTINGS = ("workers", "failure", "lastExit", "exits", "jobQueueStatus")
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def model_row(version: Mapping[str, Any]) -> tuple[object, ...]:
    """One line of the table of models."""
    workers = version.get("workers", [])
    ready = sum(worker.get("status") == "READY" for worker in workers)
    exit = _last_exit(version)
    return (
        version.get("modelName"),
        version.get("modelVersion"),
        version.get("status") or ("READY" if ready else "UNLOADING"),
        f"{ready}/{len(workers)}",
        version.get("jobQueueStatus", {}).get("pendingRequests"),
        sum(worker.get("restarts", 0) for worker in workers),
        None if exit is None else _cut(_headline(exit, version.get("exits", {}))),
    )


def trouble(version: Mapping[str, Any]) -> str | None:
    """For a version that does not have all it should have: why, in whole sentences."""
    workers = version.get("workers", [])
    exit = _last_exit(version)
    is_well = version.get("status") == "READY" and all(
        worker.get("status") == "READY" for worker in workers
    )
    silent = [worker for worker in workers if worker.get("state") == "unresponsive"]
    if is_well or (exit is None and not silent):
        return None
    name = f"{version.get('modelName')} {version.get('modelVersion')}"
    lines = [
        f"  Worker {worker.get('id')}, pid {worker.get('pid')}, does not answer"
        + (": its process is stopped." if worker.get("process") == "stopped" else ".")
        for worker in silent
    ]
    if exit is not None:
        lines.append(f"  {_headline(exit, version.get('exits', {}))}")
        words = [line.strip() for line in exit.get("tail", []) if line.strip()]
        if words and words[-1] not in str(exit.get("message")):
            lines.append(f"  Its last words: {words[-1]}")
    if "retryInSec" in version:
        lines.append(f"  It is tried again in {_span(version['retryInSec'])}.")
    return "\n".join([f"{name}:", *lines, f"  More: flambeau status {version.get('modelName')}"])


def description(version: Mapping[str, Any]) -> str:
    """All about a version: its line, its settings, its workers, and how those ended."""
    settings = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in version.items()
        if name not in _NOT_SETTINGS and value != ""
    ]
    parts = [
        render_table(MODEL_COLUMNS, [model_row(version)]),
        render_table(("SETTING", "VALUE"), settings),
    ]
    workers = [_worker_row(worker) for worker in version.get("workers", [])]
    if workers:
        parts.append(render_table(WORKER_COLUMNS, workers))
    if version.get("exits"):
        rows = sorted(version["exits"].items(), key=lambda each: -each[1])
        parts.append(render_table(("ENDED", "TIMES"), rows))
    return "\n\n".join([*parts, *_stories(version)])


def _worker_row(worker: Mapping[str, Any]) -> tuple[object, ...]:
    state = worker.get("state") or worker.get("status")
    exit = worker.get("lastExit")
    return (
        worker.get("id"),
        worker.get("pid"),
        f"{state}, {worker['process']}" if "process" in worker else state,
        worker.get("gpuId"),
        _mebibytes(worker.get("memoryUsage")),
        worker.get("restarts"),
        None if exit is None else _label(exit) + _ago(exit),
    )


def _last_exit(version: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Why the version failed, else how a worker ended that was not meant to, else any."""
    exits = [worker["lastExit"] for worker in version.get("workers", []) if "lastExit" in worker]
    exits.sort(key=lambda each: str(each.get("time", "")))
    found: Mapping[str, Any] | None = version.get("failure") or version.get("lastExit")
    return found or (exits[-1] if exits else None)


def _headline(exit: Mapping[str, Any], exits: Mapping[str, int]) -> str:
    """Reason, when, how often; then the message."""
    times = exits.get(str(exit.get("reason")), 0)
    head = _label(exit) + _ago(exit) + (f", {times} times" if times > 1 else "")
    message = str(exit.get("message") or "").split("\n")[0]
    return ": ".join(part for part in (head, message) if part)


def _label(exit: Mapping[str, Any]) -> str:
    reason = str(exit.get("reason") or "")
    detail = {"signal": exit.get("signal"), "exit_code": exit.get("exitCode")}.get(reason)
    return reason if detail is None else f"{reason} {detail}"


def _ago(exit: Mapping[str, Any]) -> str:
    seconds = exit.get("secondsAgo")
    return f", {_span(seconds)} ago" if isinstance(seconds, int | float) else ""


def _span(seconds: float) -> str:
    length, unit = next((each for each in _SPANS if seconds >= each[0]), _SPANS[-1])
    return f"{round(seconds) // length} {unit}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def _stories(version: Mapping[str, Any]) -> list[str]:
    """The whole story of each worker that ended: what the tables have no room for."""
    exits = [worker["lastExit"] for worker in version.get("workers", []) if "lastExit" in worker]
    exits = [version[name] for name in ("failure", "lastExit") if version.get(name)] + exits
    stories = []
    for each in exits:
        story = [f"{each.get('time', '')} {_label(each)}: {each.get('message', '')}"]
        facts = []
        if "secondsAlive" in each:
            facts.append(f"It had been there for {_span(each['secondsAlive'])}")
        if "requestsServed" in each:
            count = each["requestsServed"]
            facts.append(f"answered {count} request{'' if count == 1 else 's'}")
        if each.get("memoryAtExit"):
            facts.append(f"had {_mebibytes(each['memoryAtExit'])} MiB when last measured")
        if facts:
            story.append(
                f"  {', '.join(facts)}. Its last words:"
                if each.get("tail")
                else f"  {', '.join(facts)}."
            )
        story += [f"  | {line}" for line in each.get("tail", [])]
        stories.append("\n".join(story))
    return list(dict.fromkeys(stories))


def _mebibytes(size: object) -> int | None:
    return round(size / 2**20) if isinstance(size, int) and size > 0 else None
