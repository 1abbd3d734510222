"""The server's life: start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..worker.messages import Load
from .admission import make_access
from .app import Services
from .config import SECRET_VARIABLES, prepare_run_dir
from .dependencies import Dependencies
from .devices import gpu_memory, gpu_usage, visible_gpus
from .engine import Engine
from .entrances import Entrances, open_entrances
from .fleet import Fleet
from .fleet_metrics import count_workers, fleet_families
from .handover import Handover, handover_path
from .headroom import GpuMemory, Headroom
from .inherited import InheritedSockets
from .launcher import LocalLauncher, visible
from .lifecycle import SERVER_TRANSITIONS, Lifecycle, ServerState
from .metrics import Metrics
from .metrics_config import read_metrics_config
from .placements import Placements
from .rank_launcher import RankLauncher
from .reload import watch
from .rollout import RollingRegistry
from .runstate import remove_state, write_state
from .snapshots import Snapshots
from .startup import first_failure, load_startup_models
from .storage import make_model_store, make_workflow_store
from .system_metrics import SystemMetrics
from .takeover import OccupiedPlace, load_beside
from .workflows import Workflows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .config import Config
    from .handover import Predecessor
    from .inherited import ListeningSocket
    from .lifecycle import VersionKey
    from .runstate import Launch
    from .version_spec import VersionSpec

logger = logging.getLogger("flambeau.server")

LOOK_AT_GPUS_EVERY = 5.0
"""Seconds between two looks at the memory of the GPUs."""
MODEL_FAILED = 3
"""Exit code of a server that ends because of ``exit_on_model_failure``."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Under which a server starts.

    ``tell`` is told when its models are there. With ``reload`` models get new workers when their
    files change. It takes the place of ``predecessor``, or listens at sockets that are ``given`` by
    who supervises it. ``launch`` is how it was started, for who is to start the next one.
    """

    tell: Callable[[Mapping[str, object]], None] = lambda _: None
    reload: bool = False
    predecessor: Predecessor | None = None
    given: Sequence[ListeningSocket] = ()
    launch: Launch | None = None


class Server:
    """Puts the pieces together and owns their order of coming and going.

    Made inside a running event loop.
    """

    def __init__(self, config: Config, around: Circumstances | None = None) -> None:
        self._config = config
        self._around = around or Circumstances()
        self._refuses = False
        self._life = Lifecycle("server", SERVER_TRANSITIONS, ServerState.STARTING)
        self.exit_code = 0
        """What the process is to end with once ``run`` is over."""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._visible = visible_gpus(os.environ)[: config.number_of_gpu]
        self._wanted = read_metrics_config(
            config.metrics_config, detect_models=config.model_metrics_auto_detect
        )
        self.metrics = Metrics(
            mode=config.metrics_mode,
            wanted=self._wanted,
            system=None if config.disable_system_metrics else SystemMetrics(),
        )
        self._run_dir = prepare_run_dir(config)
        self._fleet = Fleet(
            lambda spec: self._placements.assign(spec),
            lambda: random.uniform(0.8, 1.2),  # noqa: S311
            self._load_message,
            config.initial_worker_port,
            lambda *asked: self._headroom.room_for(*asked),
            config.gpu_batches,
            config.cpu_batches,
        )
        self._headroom = Headroom(self._fleet.versions)
        self._placements = Placements(self._visible, self._fleet.versions)
        self._remove_stale_sockets()
        self.engine = self._make_engine()
        self._store = make_model_store(config)
        self._dependencies = Dependencies(self.engine, config, self._workers_environ())
        self.registry = self._make_registry()
        self._workflows = Workflows(
            self.registry,
            make_workflow_store(config, self._store),
            float(config.unregister_model_timeout),
        )
        self._access = make_access(config)
        self._snapshots = Snapshots(config, self.registry) if config.snapshots else None
        self.metrics.workers = functools.partial(count_workers, self._fleet.versions)
        self.metrics.of_fleet = functools.partial(fleet_families, self._fleet.versions)
        self.metrics.late_results = lambda: self._fleet.late_results

    async def run(self) -> None:
        """Serve until told to stop. Raises ConfigError if it cannot listen."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        services = Services(
            self.engine,
            self.registry,
            self._workflows,
            self.metrics,
            self._config,
            self._access,
            self._is_draining,
            lambda: self._refuses,
            lambda: self._life.state is ServerState.STARTING,
        )
        entrances = await self._open(services)
        if entrances.uses_tls or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # Under nohup nobody wants it to end with the terminal.
            loop.add_signal_handler(signal.SIGHUP, self._hung_up, entrances)
        state = write_state(
            self._run_dir, entrances.urls, self._config.certificate_file, self._around.launch
        )
        handover = Handover(
            handover_path(self._run_dir, os.getpid()),
            OccupiedPlace(services, entrances, self._stop.set),
        )
        await handover.open()
        logger.info("flambeau %s serves, pid %d", __version__, os.getpid())
        # Scripts written for TorchServe wait for these words.
        logger.info("Model server started.")
        loading = loop.create_task(self._load_models(entrances))
        others = [loop.create_task(self._log_system_metrics())]
        if self._visible:
            others.append(loop.create_task(self._watch_gpus()))
        if self._around.reload:
            others.append(loop.create_task(watch(self.registry, self.engine)))
        try:
            await self._stop.wait()
            await handover.close()
            self.registry.changed = lambda: None
            if self._snapshots is not None and not handover.is_done:
                self._snapshots.take("shutdown")
            timeout = float(self._config.drain_timeout)
            if handover.is_done or self._around.given:
                # Others take the connections that come.
                began = loop.time()
                await entrances.see_off(timeout, self._hurry)
                await self._drain(0.0, max(0.0, timeout - (loop.time() - began)))
            else:
                entrances.end_connections()
                await self._drain(float(self._config.pre_stop_delay), timeout)
        finally:
            for task in (loading, *others):
                task.cancel()
            await asyncio.wait([loading, *others])
            await entrances.close()
            if self._snapshots is not None:
                await asyncio.to_thread(self._snapshots.close)
            remove_state(self._run_dir, state)
            self._socket_path().unlink(missing_ok=True)
            if not handover.is_done:
                self._access.retire()
            self._life.move(ServerState.STOPPED)
            logger.info("flambeau has stopped")

    async def _open(self, services: Services) -> Entrances:
        """Load beside the server whose place this one takes, if there is one, and listen."""
        before = self._around.predecessor
        inherited = None if before is None else InheritedSockets(before.sockets)
        if self._around.given:
            inherited = InheritedSockets(self._around.given)
        try:
            if before is not None:
                await load_beside(
                    before,
                    self.registry,
                    self._workflows,
                    self._store,
                    self._config,
                    self._access,
                    self._stop,
                )
                self._life.move(ServerState.SERVING)
            entrances = await open_entrances(services, inherited)
        except BaseException:
            if before is not None:
                before.close()
            await self.close()
            raise
        if before is not None:
            before.serving()
            entrances.own()
        for place in inherited.close() if inherited is not None else ():
            logger.warning("no listener of this server is at %s", place)
        return entrances

    async def close(self) -> None:
        """End the workers of a server that is not run."""
        await self._dependencies.close()
        await self.engine.close(0.0)
        self._socket_path().unlink(missing_ok=True)
        self._access.retire()

    def _hung_up(self, entrances: Entrances) -> None:
        """SIGHUP: certificates are read again, where there are some."""
        if entrances.uses_tls:
            entrances.reload_certificates()
        else:
            # Whoever hangs up on a server without any wants it to end, and to end well.
            self._signalled()

    async def _load_models(self, entrances: Entrances) -> None:
        failed = []
        if self._around.predecessor is None:
            failed = await load_startup_models(self.registry, self._store, self._config)
        if self._life.state is ServerState.STARTING:
            self._life.move(ServerState.SERVING)
        if self._snapshots is not None and not self._stop.is_set():
            self._snapshots.take("startup")
            self.registry.changed = functools.partial(self._snapshots.take, "snapshot")
        # What lives now lives for good: the collector need not look at it again and again. What a
        # request leaves behind holds no cycles, so looking for some can wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 50, 50)
        self._around.tell({"pid": os.getpid(), "addresses": entrances.urls, "failed": failed})
        logger.info("flambeau is ready")
        if self._config.exit_on_model_failure:
            why = await first_failure(self.engine, list(self._fleet.versions), failed)
            logger.error("flambeau ends (exit_on_model_failure): %s", why)
            self.exit_code = MODEL_FAILED
            self._stop.set()

    async def _log_system_metrics(self) -> None:
        """Where metrics go to the log, the host's go there once in a while."""
        while self._config.metrics_mode != "prometheus":
            # Graphics drivers may take their time.
            await asyncio.to_thread(self.metrics.log_system)
            await asyncio.sleep(self._config.metric_time_interval)

    async def _watch_gpus(self) -> None:
        while True:
            memory = await asyncio.to_thread(gpu_memory)
            self._headroom.gpus = {number: GpuMemory(*each) for number, each in memory.items()}
            await asyncio.sleep(LOOK_AT_GPUS_EVERY)

    async def _drain(self, delay: float, timeout: float) -> None:
        """Refuse new work, finish what was accepted, let the workers go.

        The listeners stay open meanwhile: whoever comes now is told to try elsewhere. For ``delay``
        seconds they are served, for not everybody knows yet that there is an elsewhere.
        """
        self._life.move(ServerState.DRAINING)
        logger.info("flambeau is draining; a second signal skips the wait")
        await self._dependencies.close()
        await self._wait(self._hurry, delay)
        self._refuses = True
        draining = asyncio.ensure_future(self._finish(timeout))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            self.engine.abort()
        await draining

    async def _finish(self, timeout: float) -> None:
        """Workflows first: their later nodes are asked while the earlier ones are served."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._workflows.unused(timeout)
        await self.engine.close(max(0.0, deadline - asyncio.get_running_loop().time()))

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        if seconds > 0:
            waiting = asyncio.ensure_future(event.wait())
            await asyncio.wait([waiting], timeout=seconds)
            waiting.cancel()

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _is_draining(self) -> bool:
        return self._life.state in (ServerState.DRAINING, ServerState.STOPPED)

    def _remove_stale_sockets(self) -> None:
        """Sockets of servers that were killed; a server's socket has its pid for a name."""
        for path in self._run_dir.glob("*.sock"):
            pid = path.name.partition(".")[0]
            if pid.isdigit() and not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)

    def _make_engine(self) -> Engine:
        config = self._config
        environ = self._workers_environ()
        launcher = LocalLauncher(
            config.workers_python,
            environ,
            "" if config.preload == "none" else config.preload,
            lambda key, sample: self.metrics.record_samples(key, [sample]),
        )
        return Engine(
            self._fleet,
            RankLauncher(launcher, config.initial_distribution_port, environ),
            self._socket_path(),
            os.cpu_count() or 1,
            self._placements.environ,
            lambda key, exit: self.metrics.worker_exit(key, exit.reason.value),
            self.metrics.record_samples,
            self.metrics.worker_loaded,
        )

    def _workers_environ(self) -> dict[str, str]:
        """What of our environment the processes may see that run code of archives."""
        environ = {key: text for key, text in os.environ.items() if key not in SECRET_VARIABLES}
        # Where handlers look for the names of the headers.
        for end in ("id", "start", "end"):
            name = getattr(self._config, f"ts_header_key_sequence_{end}")
            environ[f"TS_REQUEST_SEQUENCE_{end.upper()}"] = name
        return visible(environ, self._config.blacklist_env_vars)

    def _make_registry(self) -> RollingRegistry:
        config = self._config
        workers = config.default_workers_per_model or len(self._visible) or os.cpu_count() or 1
        return RollingRegistry(
            self.engine,
            self._store,
            self._dependencies,
            config,
            workers,
            gpu_usage,
            self._forget,
            self._placements.room_for,
        )

    def _socket_path(self) -> Path:
        return self._run_dir / f"{os.getpid()}.sock"

    def _load_message(self, spec: VersionSpec, device: int | None) -> Load:
        return Load(
            model_name=spec.key[0],
            model_version=spec.key[1],
            model_dir=spec.model_dir,
            handler=spec.handler,
            batch_size=spec.batch_size,
            gpu_id=self._placements.gpu_id(spec, device),
            limit_max_image_pixels=self._config.limit_max_image_pixels,
            decode_input_request=self._config.decode_input_request,
            name_content_types=self._config.content_type == "auto",
            envelope=self._config.service_envelope,
            archive_code=self._config.allow_archive_code,
            concurrency=spec.concurrency,
            asynchronous=spec.asynchronous,
            continuous=spec.continuous,
            metrics=self._wanted.for_workers(),
            response_timeout=spec.response_timeout,
            isolate_failures=spec.isolate_failures,
            retries_lost=spec.lost_retries > 0 and spec.sequences is None,
        )

    def _forget(self, key: VersionKey) -> None:
        self.metrics.forget(key)
        self._placements.forget(key)
