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
from asyncio.events import TimerHandle
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, cast

import structlog
import typer
import uvicorn
import uvloop
from pydantic import ValidationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.grpc_api import GrpcApi
from serving.metrics import Metrics
from serving.repository import Repository
from serving.rest_api import RestApi
from serving.service import AgentService
from serving.sessions import Sessions
from serving.settings import Settings

log = structlog.get_logger("serving")


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
    repository = Repository(settings.models, settings.device)
    repository.load_all()
    if not repository.models():
        raise StartError(f"no usable model in {settings.models}/NAME/VERSION/")
    for model in repository.models():
        log.info("model loaded", model=model.name, version=model.version, provider=model.provider)
    service = AgentService(repository, Metrics(), settings)
    sessions = Sessions(settings.max_sessions, settings.session_ttl_s)
    rest = RestApi(service, sessions, settings.max_body_bytes)
    http = _http_server(rest, settings)
    listener = _listen(settings.host, settings.http_port)
    try:
        grpc_api = GrpcApi(
            service,
            _address(settings.host, settings.grpc_port),
            settings.max_body_bytes,
            settings.max_streams,
        )
    except RuntimeError as error:
        raise StartError(f"gRPC port {settings.grpc_port}: {error}") from error
    # What is loaded by now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await grpc_api.start()
    http_task = asyncio.create_task(http.serve(sockets=[listener]))
    while not http.started and not http_task.done():
        await asyncio.sleep(0.001)
    log.info(
        "ready",
        rest=f"http://{_address(settings.host, listener.getsockname()[1])}",
        grpc=f"grpc://{_address(settings.host, grpc_api.port)}",
        models=[f"{model.name}/{model.version}" for model in repository.models()],
        start_s=round(time.perf_counter() - start, 3),
    )
    await _wait_for_signal()
    log.info("draining")
    service.drain()
    await grpc_api.say_not_serving()
    await asyncio.sleep(settings.drain_delay_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.grace_s):
            await service.drained()
    http.should_exit = True
    await asyncio.gather(grpc_api.stop(settings.grace_s), http_task)
    log.info("stopped")


async def _wait_for_signal() -> None:
    """Return at the first SIGTERM or SIGINT; a second one kills the process as it always would."""
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.set)
    await received.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


class _HttpServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for the whole process, not for this door."""
        yield


class _Joining:
    """A transport that sends what is written in one turn of the event loop at once.

    Else an answer's head and its body would be two system calls and two packets.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def _flush(self) -> None:
        if self._written:
            self._transport.write(b"".join(self._written))
            self._written.clear()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _PatientlessProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests have to arrive in time: a caller that stalls is hung up on."""

    receive_timeout_s: float
    _arrival: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Joining(transport, self.loop)))
        self._expect()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._arrival is None:
            self._expect()

    def on_message_complete(self) -> None:
        self._forget()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._arrival = self.loop.call_later(self.receive_timeout_s, self.transport.close)

    def _forget(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None


def _http_server(app: RestApi, settings: Settings) -> uvicorn.Server:
    timeout = {"receive_timeout_s": settings.receive_timeout_s}
    config = uvicorn.Config(
        app,
        http=type("_Protocol", (_PatientlessProtocol,), timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
    )
    return _HttpServer(config)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: StartError"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StartError(f"REST port {port}: {error.strerror}") from error


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
        uvloop.run(serve(settings))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            typer.echo(f"setting {'.'.join(map(str, fault['loc']))}: {fault['msg']}", err=True)
        raise typer.Exit(2) from None
    except StartError as error:
        typer.echo(f"cannot start: {error}", err=True)
        raise typer.Exit(1) from None


def main() -> None:
    """The entry point of `unmix-serve`."""
    app()


if __name__ == "__main__":
    main()
