"""`python -m serving.server`: both doors over one service, in one process, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import structlog
import typer
import uvicorn
import uvloop
from pydantic import ValidationError

from serving.admin_api import create_admin_app
from serving.device import DeviceUnusable, check_device
from serving.grpc_api import GrpcApi
from serving.http_server import http_server
from serving.memory_keys import MemoryKeyFile, MemoryKeysError
from serving.metrics import Metrics
from serving.model_control import ModelControl
from serving.repository import Repository
from serving.rest_api import RestApi
from serving.service import AgentService
from serving.sessions import Sessions
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.sealing import Sealer

log = structlog.get_logger("serving")

_WATCH_KEYS_S = 1.0
_SWEEP_S = 1.0
_ADMIN_HOST = "127.0.0.1"


class StartError(Exception):
    """The server cannot start; the text says what to do."""


def check_engine() -> None:
    """Refuse to run on two onnxruntime packages at once.

    Both install into the same folder, where the one installed last wins, and pip does not object.
    """
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(found) > 1:
        raise StartError(
            f"{' and '.join(found)} are both installed and overwrite each other's files. Fix: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them again: "
            "pip install 'unmix[serve]', or 'unmix[serve-gpu]' for an NVIDIA GPU"
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


async def serve(settings: Settings) -> None:
    """Load the models, open both doors, and run until SIGTERM or SIGINT. Raises: StartError"""
    start = time.perf_counter()
    stop = _signalled()
    repository = Repository(settings.models, settings.device)
    repository.load_all()
    if not repository.models():
        raise StartError(f"no usable model in {settings.models}/NAME/VERSION/")
    for model in repository.models():
        log.info("model loaded", model=model.name, version=model.version, provider=model.provider)
    memory_keys = _memory_keys(settings)
    sealer = None if memory_keys is None else _sealer(memory_keys)
    service = AgentService(repository, Metrics(), settings, sealer)
    control = ModelControl(service)
    sessions = Sessions(
        settings.max_sessions,
        settings.session_ttl_s,
        client_cap=settings.max_client_sessions,
    )
    rest = http_server(RestApi(service, sessions, settings.max_body_bytes), settings)
    listener = _listen(settings.host, settings.http_port, "REST")
    rpc = _grpc_api(service, settings)
    # What is loaded by now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await rpc.start()
    serving = asyncio.create_task(rest.serve(sockets=[listener]))
    while not rest.started and not serving.done():
        await asyncio.sleep(0.001)
    admin = await _open_admin(control, settings)
    log.info(
        "ready",
        rest=f"http://{_address(settings.host, listener.getsockname()[1])}",
        grpc=f"grpc://{_address(settings.host, rpc.port)}",
        models=[f"{model.name}/{model.version}" for model in repository.models()],
        providers=sorted({model.provider for model in repository.models()}),
        start_s=round(time.perf_counter() - start, 3),
        **({"admin": admin.url} if admin else {}),
    )
    async with _watched(memory_keys), _kept_up(control, sessions, settings):
        await stop.wait()
    log.info("draining")
    if admin:
        await admin.close()
    await _drain(service, rpc, settings)
    rest.should_exit = True
    await asyncio.gather(rpc.stop(settings.grace_s), serving)
    log.info("stopped")


def _memory_keys(settings: Settings) -> MemoryKeyFile | None:
    """Raises: StartError"""
    if settings.memory_keys is None:
        return None
    try:
        return MemoryKeyFile(settings.memory_keys)
    except MemoryKeysError as error:
        raise StartError(str(error)) from None


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


async def _open_admin(control: ModelControl, settings: Settings) -> _Admin | None:
    """Raises: StartError"""
    if settings.admin_port is None:
        return None
    listener = _listen(_ADMIN_HOST, settings.admin_port, "admin")
    server = http_server(create_admin_app(control), settings)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.001)
    url = f"http://{_address(_ADMIN_HOST, listener.getsockname()[1])}"
    return _Admin(url, server, serving)


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


def _grpc_api(service: AgentService, settings: Settings) -> GrpcApi:
    """Raises: StartError"""
    address = _address(settings.host, settings.grpc_port)
    try:
        return GrpcApi(service, address, settings.max_body_bytes, settings.max_streams)
    except RuntimeError as error:
        raise StartError(f"gRPC port {settings.grpc_port}: {error}") from error


def _listen(host: str, port: int, door: str) -> socket.socket:
    """A listening socket. Raises: StartError"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartError(f"{door} port {port}: {error.strerror}") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _configure_logging(settings: Settings) -> None:
    """One event a line on stderr, the libraries' own messages among them."""
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    # uvicorn tells of its start, of malformed requests and of its end: ours to tell, or noise.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


_FLAGS = ("models", "host", "http_port", "grpc_port", "device", "log_level", "log_format")


def _variable(field: str) -> str:
    return f"UNMIX_{field.upper()}"


def _option(field: str) -> Any:
    info = Settings.model_fields[field]
    return typer.Option(
        help=f"{info.description} Default: {info.default}, or {_variable(field)}.",
        show_default=False,
    )


_HELP = """
Serve the models of a folder over REST and gRPC.

Each request steps one agent: its own observation in, its action out. Memory is either the
caller's (it gets `next_hidden` and sends it back as `hidden`) or the service's (a gRPC stream
per unit, or a REST session).

REST is documented at http://HOST:HTTP_PORT/docs, gRPC in proto/unmix/v1/agent_service.proto
and by reflection. Probes: /livez, /readyz and grpc.health.v1. Prometheus: /metrics.

SIGTERM or Ctrl-C: not ready, nothing new, finish what runs, exit 0.
"""
_MORE = "More settings, from the environment:\n\n" + "\n\n".join(
    f"{_variable(field)}: {info.description} Default: {info.default}."
    for field, info in Settings.model_fields.items()
    if field not in _FLAGS
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP, epilog=_MORE)
def command(
    models: Annotated[Path | None, _option("models")] = None,
    host: Annotated[str | None, _option("host")] = None,
    http_port: Annotated[int | None, _option("http_port")] = None,
    grpc_port: Annotated[int | None, _option("grpc_port")] = None,
    device: Annotated[str | None, _option("device")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
) -> None:
    given = {name: value for name, value in locals().items() if value is not None}
    try:
        check_engine()
        settings = Settings(**given)
        _configure_logging(settings)
        check_device(settings.device)
        uvloop.run(serve(settings))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            typer.echo(f"setting {'.'.join(map(str, fault['loc']))}: {fault['msg']}", err=True)
        raise typer.Exit(2) from None
    except (StartError, DeviceUnusable) as error:
        typer.echo(f"cannot start: {error}", err=True)
        raise typer.Exit(1) from None


def main() -> None:
    """The entry point of `unmix-serve`."""
    app()


if __name__ == "__main__":
    main()
