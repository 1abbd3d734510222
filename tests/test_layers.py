"""Imports run strictly downward: the order below is the architecture (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up; a module may import modules of lower rows only.
LAYERS = [
    """
    worker.leaving worker.model_files
    worker.errors worker.messages worker.io_threads worker.modules worker.instruments
    worker.streaming worker.coroutines worker.refused_handlers worker.torchvision_ops
    model_store.errors model_store.snapshot model_store.allowed_urls model_store.pickles
    model_store.make_environment
    frontend.errors frontend.properties frontend.table frontend.version_settings
    frontend.worker_memory frontend.control_groups frontend.access_log frontend.shielded
    frontend.metric_lines frontend.exposition
    """,
    "model_store.strict_yaml model_store.signatures model_store.file_kinds "
    "model_store.shared_cache model_store.requirements worker.protocol",
    "frontend.oom_kills frontend.settings model_store.installation "
    "frontend.exits worker.memory worker.safe_batch",
    "frontend.inherited",
    "frontend.handover",
    "frontend.autoscaler model_store.s3 model_store.environments worker.log_lines worker.metrics "
    "worker.isolation",
    "worker.context model_store.remote model_store.model_config frontend.lifecycle frontend.jobs "
    "frontend.arrivals "
    "frontend.run_dir "
    "frontend.metric_log frontend.metrics_config frontend.ranks "
    "frontend.config_key frontend.access frontend.template",
    "frontend.server_timing frontend.disciplines frontend.latency_target",
    "frontend.deadlines frontend.samples frontend.input_check "
    "model_store.manifest model_store.workflow_spec "
    "frontend.batcher frontend.config_sources frontend.config_listeners "
    "frontend.config_models frontend.config_observability frontend.config_security "
    "frontend.tokens frontend.api_keys",
    "model_store.workflow_archive frontend.access_policy frontend.sequences "
    "frontend.version_spec model_store.warm_up frontend.memory_limits "
    "frontend.workflow_run",
    "frontend.handler_metrics "
    "model_store.archive model_store.contents frontend.roster frontend.versions frontend.config "
    "frontend.devices frontend.runstate",
    "model_store.store frontend.commands frontend.precedence frontend.launcher frontend.describe "
    "frontend.system_metrics frontend.logs frontend.fleet_metrics frontend.headroom "
    "frontend.tls",
    "handlers archiver.writers frontend.storage frontend.records frontend.rank_launcher "
    "frontend.placements worker.envelopes worker.loader worker.rows worker.link "
    "frontend.outcomes frontend.estimates frontend.worker_choice frontend.worker_processes",
    "frontend.dispatcher frontend.fair_share frontend.heartbeat",
    "frontend.turn_taking",
    "worker.service worker.continuous",
    "worker.asynchronous worker.compat worker.warm_up",
    "archiver.sources worker.main frontend.crew frontend.router frontend.metrics",
    "frontend.restarts",
    "frontend.succession",
    "frontend.elastic",
    "frontend.vigil",
    "archiver.packager frontend.fleet frontend.streams",
    "archiver.workflow_packager worker.__main__ worker.template frontend.engine "
    "frontend.background frontend.cli_client frontend.cli_description",
    "archiver.cli frontend.self_description frontend.dependencies",
    "frontend.catalog",
    "frontend.registry",
    "frontend.rollout",
    "frontend.snapshots frontend.startup frontend.workflows frontend.reload",
    "frontend.inventory",
    "frontend.predictor frontend.workflow_predictor frontend.admission",
    "frontend.http",
    "frontend.app",
    "frontend.grpc",
    "frontend.entrances",
    "frontend.takeover",
    "frontend.server",
    "frontend.serve",
    "frontend.config_check frontend.rehearsal frontend.pytest_plugin",
    "frontend.cli_config frontend.cli_keys frontend.cli_scan",
    "frontend.cli_server",
    "frontend.cli_restart",
    "frontend.cli_status frontend.cli_torchserve",
    "frontend.cli_models",
    "frontend.bench",
    "frontend.cli_handler frontend.cli_bench",
    "frontend.cli",
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
# Within these packages modules may import each other, without cycles.
PACKAGES = ("worker.compat", "handlers", "frontend.http", "frontend.grpc", "frontend.bench")
PURE = (
    "bench.answers",
    "bench.histogram",
    "bench.report",
    "bench.requests",
    "bench.schedule",
    "bench.tally",
    "workflow_run",
    "ranks",
    "server_timing",
    "disciplines",
    "jobs",
    "lifecycle",
    "arrivals",
    "latency_target",
    "batcher",
    "deadlines",
    "version_spec",
    "samples",
    "outcomes",
    "estimates",
    "worker_choice",
    "sequences",
    "exits",
    "roster",
    "versions",
    "commands",
    "heartbeat",
    "memory_limits",
    "dispatcher",
    "fair_share",
    "turn_taking",
    "crew",
    "restarts",
    "succession",
    "autoscaler",
    "elastic",
    "vigil",
    "fleet",
)
IMPURE = {"asyncio", "zmq", "aiohttp", "time", "socket", "subprocess", "threading", "os"}


def unit_of(module: str) -> str:
    return next((package for package in PACKAGES if module.startswith(package)), module)


def modules() -> dict[str, ast.Module]:
    found = {}
    for package in ("frontend", "worker", "archiver", "handlers", "model_store"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if not name.endswith("__init__"):
                found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(name: str, tree: ast.Module, *, with_types: bool = True):
    """Modules of ours that ``name`` imports, anywhere in its code."""
    skipped = set()
    if not with_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in skipped:
            base = name.split(".")[: -node.level]
            target = [*base, *(node.module.split(".") if node.module else [])]
            joined = ".".join(target)
            if joined in MODULES:
                yield joined
            else:
                yield from (
                    f"{joined}.{alias.name}".strip(".")
                    for alias in node.names
                    if f"{joined}.{alias.name}".strip(".") in MODULES
                )


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downward(name):
    unit = unit_of(name)
    assert unit in RANK, f"{name} has no place in LAYERS: give it one"
    for target in imported(name, MODULES[name], with_types=False):
        other = unit_of(target)
        if other != unit:
            assert RANK[other] < RANK[unit], f"{name} imports {target}, which is not below it"


@pytest.mark.parametrize("name", MODULES)
def test_packages_keep_to_themselves(name):
    """Workers and handlers know nothing of the frontend, which knows only the wire of theirs."""
    package = name.split(".")[0]
    allowed = {
        "frontend": {"frontend", "model_store", "archiver"}
        | {"worker.messages", "worker.protocol", "worker.io_threads"},
        "worker": {"worker", "handlers"},
        "handlers": {"handlers", "worker.context", "worker.metrics", "worker.errors"}
        | {"worker.modules", "worker.streaming"},
        "archiver": {"archiver", "model_store"},
        "model_store": {"model_store"},
    }[package]
    for target in imported(name, MODULES[name]):
        assert target in allowed or target.split(".")[0] in allowed, f"{name} imports {target}"


@pytest.mark.parametrize("name", [f"frontend.{name}" for name in PURE])
def test_the_core_is_pure(name):
    roots = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            roots.add(node.module.split(".")[0])
    assert not roots & IMPURE


def test_the_frontend_never_imports_torch():
    for name, tree in MODULES.items():
        if not name.startswith(("frontend", "archiver", "model_store")):
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(each.split(".")[0] in ("torch", "PIL") for each in names), name


def test_nothing_rests_on_assert():
    for name, tree in MODULES.items():
        lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        assert not lines, f"{name} asserts in lines {lines}"


def test_only_the_weights_of_an_archive_are_ever_unpickled():
    loaders = {"load", "loads", "Unpickler"}
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in loaders:
                owner = ast.unparse(node.value)
                assert owner not in ("pickle", "marshal", "dill", "joblib"), f"{name} unpickles"
                assert owner != "torch" or name == "handlers.weights", f"{name} calls torch.load"
