"""The life of one process: load the models, open the doors, run until told to stop, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

import structlog
import uvicorn

from serving.access import Access, check_exposure, open_access
from serving.admin_api import ADMIN_HOST, create_admin_app
from serving.grpc_api import GrpcApi
from serving.http_server import http_server
from serving.memory_keys import MemoryKeyFile, open_memory_keys
from serving.metrics import Metrics
from serving.model_control import ModelControl
from serving.repository import Repository
from serving.rest_api import RestApi
from serving.rest_front import RestFront
from serving.rest_inference import RestInference
from serving.service import AgentService
from serving.sessions import Sessions
from serving.settings import Settings, SetupError
from serving.tls import Tls, open_tls
from serving.traces import TracedService
from serving.watched import watch

if TYPE_CHECKING:
    from serving.sealing import Sealer

log = structlog.get_logger("serving")

_WATCH_KEYS_S = 1.0
_SWEEP_S = 1.0


async def serve(settings: Settings) -> None:
    """Load the models, open both doors, and run until SIGTERM or SIGINT. Raises: SetupError"""
    start = time.perf_counter()
    stop = _signalled()
    check_exposure(settings)
    access, tls = open_access(settings), open_tls(settings)
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
    )
    api = RestApi(service, sessions, settings.max_body_bytes)
    traced = settings.traces != "none"
    doors = RestInference(service, sessions, api)
    front = RestFront(doors, access, count=api.count_error, traced=traced)
    rest = http_server(front, settings, tls)
    listener = _listen(settings.host, settings.http_port, "REST")
    rpc = _grpc_api(service, sessions, settings, access, tls)
    # What is loaded by now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await rpc.start()
    serving = asyncio.create_task(rest.serve(sockets=[listener]))
    while not rest.started and not serving.done():
        await asyncio.sleep(0.001)
    admin = await _open_admin(control, settings, access, tls)
    log.info(
        "ready",
        rest=f"{'https' if tls else 'http'}://{_address(settings.host, listener.getsockname()[1])}",
        grpc=f"{'grpcs' if tls else 'grpc'}://{_address(settings.host, rpc.port)}",
        models=[f"{model.name}/{model.version}" for model in repository.models()],
        providers=sorted({model.provider for model in repository.models()}),
        start_s=round(time.perf_counter() - start, 3),
        **({"admin": admin.url} if admin else {}),
    )
    watched = [*(access.watched if access else ()), *([tls.watched] if tls else ())]
    watching = asyncio.create_task(watch(watched))
    async with _watched(memory_keys), _kept_up(control, sessions, settings):
        await stop.wait()
    log.info("draining")
    if admin:
        await admin.close()
    await _drain(service, rpc, settings)
    rest.should_exit = True
    await asyncio.gather(rpc.stop(settings.grace_s), serving)
    watching.cancel()
    if isinstance(service, TracedService):
        service.end_traces()
    log.info("stopped")


def _service(repository: Repository, settings: Settings, sealer: Sealer | None) -> AgentService:
    """Raises: SetupError"""
    kind = AgentService if settings.traces == "none" else TracedService
    return kind(repository, Metrics(), settings, sealer)


def _sealer(keys: MemoryKeyFile) -> Sealer:
    from serving.sealing import Sealer  # its library takes time to load: only where it is used

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


def _signalled() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one kills the process as it always would."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def receive() -> None:
        event.set()
        for number in numbers:
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
) -> GrpcApi:
    """Raises: SetupError"""
    address = _address(settings.host, settings.grpc_port)
    credentials = None if tls is None else tls.grpc_credentials()
    limits = settings.max_body_bytes, settings.max_streams
    try:
        return GrpcApi(service, sessions, address, *limits, access, credentials)
    except RuntimeError as error:
        raise SetupError(
            f"gRPC port {settings.grpc_port}: {error}", "name a free port with --grpc-port"
        ) from error


def _listen(host: str, port: int, door: str) -> socket.socket:
    """A listening socket. Raises: SetupError"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        flag = "--http-port" if door == "REST" else "UNMIX_ADMIN_PORT"
        raise SetupError(
            f"{door} port {port}: {error.strerror}", f"name a free port with {flag}"
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
