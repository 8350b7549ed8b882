"""The life of one process: load the models, open the doors, run until told to stop, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog
import uvicorn

from serving.access.entry import Access, check_exposure, open_access
from serving.access.tls import Tls, open_tls
from serving.access.watched import watch
from serving.metrics import Metrics
from serving.models.control import ModelControl
from serving.models.repository import Repository
from serving.rest.admin import ADMIN_HOST, create_admin_app
from serving.rest.api import RestApi
from serving.rest.front import RestFront
from serving.rest.http_server import http_server
from serving.rest.inference import RestInference
from serving.rest.security import describe_security
from serving.rpc.api import GrpcApi
from serving.settings import Settings, SetupError
from serving.steps.memory_keys import MemoryKeyFile, open_memory_keys
from serving.steps.service import AgentService
from serving.steps.sessions import Sessions
from serving.traces import TracedService

if TYPE_CHECKING:
    from serving.process.worker import Worker
    from serving.steps.sealing import Sealer

log = structlog.get_logger("serving")

_WATCH_KEYS_S = 1.0
_SWEEP_S = 1.0


class Doors(NamedTuple):
    """Both doors, open."""

    rest: str
    """Where REST is, as a URL."""
    grpc: str
    rpc: GrpcApi
    close: Callable[[], Awaitable[object]]
    """Finish what runs, for at most the grace, and hang up."""


class OpenDoors(Protocol):
    """How doors are opened. Raises: SetupError"""

    async def __call__(
        self,
        front: RestFront,
        service: AgentService,
        sessions: Sessions,
        settings: Settings,
        access: Access | None,
        tls: Tls | None,
    ) -> Doors: ...


async def open_doors(
    front: RestFront,
    service: AgentService,
    sessions: Sessions,
    settings: Settings,
    access: Access | None,
    tls: Tls | None,
    shares_ports: bool = False,
) -> Doors:
    """uvicorn and grpcio, each on a port of its own. Raises: SetupError"""
    rest = http_server(front, settings, tls)
    listener = _listen(settings.host, settings.http_port, "REST", shares_ports)
    rpc = _grpc_api(service, sessions, settings, access, tls, shares_ports)
    await rpc.start()
    serving = asyncio.create_task(rest.serve(sockets=[listener]))
    while not rest.started and not serving.done():
        await asyncio.sleep(0.001)

    async def close() -> None:
        rest.should_exit = True
        await asyncio.gather(rpc.stop(settings.grace_s), serving)

    return Doors(
        f"{'https' if tls else 'http'}://{_address(settings.host, listener.getsockname()[1])}",
        f"{'grpcs' if tls else 'grpc'}://{_address(settings.host, rpc.port)}",
        rpc,
        close,
    )


async def serve(
    settings: Settings,
    open_doors: OpenDoors = open_doors,
    stop: asyncio.Event | None = None,
    worker: Worker | None = None,
) -> None:
    """Load the models, open both doors, and run until it is time to stop.

    Args:
        stop: when set, that is; without it, SIGTERM or SIGINT say so.
        worker: what this process has to know where it is one of several.

    Raises:
        SetupError
    """
    start = time.perf_counter()
    stop = stop or _signalled(again_kills=worker is None)
    check_exposure(settings)
    access = open_access(settings, worker.buckets if worker else None)
    tls = open_tls(settings)
    repository = Repository(settings.models, settings.device)
    repository.load_all()
    if not repository.models():
        raise SetupError(
            f"no usable model in {settings.models}/NAME/VERSION/",
            "export one there (python -m training.export), or name another folder with --models",
        )
    for model in repository.models():
        log.info("model loaded", model=model.name, version=model.version, provider=model.provider)
    memory_keys = open_memory_keys(settings)
    sealer = None if memory_keys is None else _sealer(memory_keys)
    service = _service(repository, settings, sealer)
    if tls is not None:
        service.metrics.not_after = lambda: tls.watched.value.not_after
    control = ModelControl(service)
    sessions = Sessions(
        settings.max_sessions,
        settings.session_ttl_s,
        client_cap=settings.max_client_sessions,
        prefix=worker.session_prefix if worker else "",
    )
    api = RestApi(service, sessions, settings.max_body_bytes)
    if access is not None:
        describe_security(api.app, settings)
    traced = settings.traces != "none"
    rest = RestInference(service, sessions, api, holds_sequences=worker is None)
    door = await worker.open(rest, api, service.metrics) if worker else rest
    front = RestFront(door, access, count=api.count_error, traced=traced)
    # What is loaded by now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    doors = await open_doors(front, service, sessions, settings, access, tls)
    admin = await _open_admin(control, settings, access, tls)
    log.info(
        "worker ready" if worker else "ready",
        rest=doors.rest,
        grpc=doors.grpc,
        models=[f"{model.name}/{model.version}" for model in repository.models()],
        providers=sorted({model.provider for model in repository.models()}),
        start_s=round(time.perf_counter() - start, 3),
        **({"admin": admin.url} if admin else {}),
    )
    if worker:
        worker.say_ready()
    watched = [*(access.watched if access else ()), *([tls.watched] if tls else ())]
    watching = asyncio.create_task(watch(watched))
    async with _watched(memory_keys), _kept_up(control, sessions, settings):
        await stop.wait()
    log.info("draining")
    if admin:
        await admin.close()
    await _drain(service, doors.rpc, settings)
    await doors.close()
    watching.cancel()
    if worker:
        worker.close()
    if isinstance(service, TracedService):
        service.end_traces()
    log.info("stopped")


def _service(repository: Repository, settings: Settings, sealer: Sealer | None) -> AgentService:
    """Raises: SetupError"""
    kind = AgentService if settings.traces == "none" else TracedService
    return kind(repository, Metrics(), settings, sealer)


def _sealer(keys: MemoryKeyFile) -> Sealer:
    from serving.steps.sealing import (
        Sealer,  # its library takes time to load: only where it is used
    )

    return Sealer(keys)


@contextlib.asynccontextmanager
async def _watched(keys: MemoryKeyFile | None) -> AsyncIterator[None]:
    """Within, the keys are read again when their file changes, and at once on SIGHUP."""
    if keys is None:
        yield
        return

    async def watch() -> None:
        while True:
            await asyncio.sleep(_WATCH_KEYS_S)
            keys.reload_if_changed()

    with contextlib.suppress(RuntimeError, ValueError):  # signals are for the main thread alone
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, keys.reload)
    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


@contextlib.asynccontextmanager
async def _kept_up(
    control: ModelControl, sessions: Sessions, settings: Settings
) -> AsyncIterator[None]:
    """Within, finished models leave, and new ones are looked for if that is wished."""
    tasks = [asyncio.create_task(control.sweep(_SWEEP_S, sessions.expire))]
    if settings.watch_models_s:
        tasks.append(asyncio.create_task(control.watch(settings.watch_models_s)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


class _Admin(NamedTuple):
    """The open admin door."""

    url: str
    server: uvicorn.Server
    serving: asyncio.Task[None]

    async def close(self) -> None:
        self.server.should_exit = True
        await self.serving


async def _open_admin(
    control: ModelControl, settings: Settings, access: Access | None, tls: Tls | None
) -> _Admin | None:
    """Raises: SetupError"""
    if settings.admin_port is None:
        return None
    listener = _listen(ADMIN_HOST, settings.admin_port, "admin")
    front = RestFront(create_admin_app(control), access, needs=lambda _: "admin")
    server = http_server(front, settings, tls)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.001)
    address = _address(ADMIN_HOST, listener.getsockname()[1])
    return _Admin(f"{'https' if tls else 'http'}://{address}", server, serving)


async def _drain(service: AgentService, rpc: GrpcApi, settings: Settings) -> None:
    """Turn callers away, at both doors, until nothing runs and the load balancers know."""
    service.drain()
    await rpc.say_not_serving()
    await asyncio.sleep(settings.drain_delay_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.grace_s):
            await service.drained()


def _signalled(again_kills: bool) -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT.

    Args:
        again_kills: whether a second one kills the process as it always would. Service managers
            signal a worker beside its parent, which does so too: that must not cut it short.
    """
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def receive() -> None:
        event.set()
        for number in numbers if again_kills else ():
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, receive)
    return event


def _grpc_api(
    service: AgentService,
    sessions: Sessions,
    settings: Settings,
    access: Access | None,
    tls: Tls | None,
    shares_port: bool,
) -> GrpcApi:
    """Raises: SetupError"""
    address = _address(settings.host, settings.grpc_port)
    credentials = None if tls is None else tls.grpc_credentials()
    limits = settings.max_body_bytes, settings.max_streams, settings.max_client_streams
    try:
        return GrpcApi(service, sessions, address, *limits, access, credentials, shares_port)
    except RuntimeError as error:
        raise SetupError(
            f"gRPC port {settings.grpc_port}: {error}", "name a free port with --grpc-port"
        ) from error


def _listen(host: str, port: int, door: str, shares_port: bool = False) -> socket.socket:
    """A listening socket. Raises: SetupError"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port), family=family, backlog=2048, reuse_port=shares_port
        )
    except OSError as error:
        flag = "--http-port" if door == "REST" else "UNMIX_ADMIN_PORT"
        raise SetupError(
            f"{door} port {port}: {error.strerror}", f"name a free port with {flag}"
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
