"""`unmix-serve check`: everything that could keep the server from starting, looked at at once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from serving.access.entry import check_exposure, open_access
from serving.access.keys import read_keys
from serving.access.tls import open_tls
from serving.access.tokens import read_jwks
from serving.models.device import check_device
from serving.models.repository import Repository
from serving.process.envoy_front import check_envoy
from serving.process.supervisor import check_workers
from serving.rest.admin import ADMIN_HOST
from serving.settings import Settings, SetupError
from serving.steps.memory_keys import open_memory_keys

RENEW_DAYS = 14
T = TypeVar("T")


class Finding(NamedTuple):
    """One line of the report."""

    good: bool
    text: str

    def line(self) -> str:
        return f"{'ok   ' if self.good else 'FAULT'}  {self.text}"


def check(settings: Settings) -> Iterator[Finding]:
    """What there is to say about the settings and the files they name; the last takes seconds."""
    yield from _credentials(settings)
    yield from _tls(settings)
    if settings.memory_keys is not None:
        yield _memory_keys(settings)
    if settings.workers > 1:
        yield _try(lambda: check_workers(settings), lambda _: f"workers: {settings.workers}")
    if settings.front == "envoy":
        yield _try(lambda: check_envoy(settings), lambda _: "front: Envoy is there")
    yield from _ports(settings)
    yield _device(settings)
    yield from _models(settings)


def _credentials(settings: Settings) -> Iterator[Finding]:
    yield _try(lambda: check_exposure(settings), lambda _: f"host: {settings.host}")
    faults = set()
    if settings.keys is not None:
        path = settings.keys
        found = _try(lambda: read_keys(path), lambda keys: f"keys: {path} holds {len(keys)}")
        faults.add(found)
        yield found
    if settings.jwks is not None:
        path = settings.jwks
        found = _try(lambda: read_jwks(path), lambda keys: f"jwks: {path} holds {len(keys)}")
        faults.add(found)
        yield found
    if all(found.good for found in faults):  # else it would say the same again
        yield _try(
            lambda: open_access(settings),
            lambda access: "credentials: none are asked for" if access is None
            else "credentials: are asked for",
        )  # fmt: skip


def _tls(settings: Settings) -> Iterator[Finding]:
    try:
        tls = open_tls(settings)
    except SetupError as error:
        yield Finding(False, str(error))
        return
    if tls is None:
        yield Finding(True, "tls_certificate: none, connections are plain")
        return
    days = (tls.watched.value.not_after - time.time()) / 86400
    soon = ": renew it soon" if days < RENEW_DAYS else ""
    path = settings.tls_certificate
    yield Finding(True, f"tls_certificate: {path} fits its key, {days:.0f} days left{soon}")


def _memory_keys(settings: Settings) -> Finding:
    return _try(
        lambda: open_memory_keys(settings),
        lambda keys: f"memory_keys: {settings.memory_keys} holds {len(keys()) if keys else 0}",
    )


def _device(settings: Settings) -> Finding:
    return _try(
        lambda: check_device(settings.device), lambda _: f"device: {settings.device} runs models"
    )


def _ports(settings: Settings) -> Iterator[Finding]:
    doors = [("http_port", settings.host, settings.http_port, "--http-port"),
             ("grpc_port", settings.host, settings.grpc_port, "--grpc-port")]  # fmt: skip
    if settings.front == "envoy":
        del doors[1:]  # both are the first
    elif settings.http_port and settings.http_port == settings.grpc_port:
        yield Finding(False, "grpc_port: is that of REST. Fix: name another with --grpc-port")
        return
    admin = settings.admin_port
    if admin is not None:
        if admin and admin in (settings.http_port, settings.grpc_port):
            yield Finding(
                False,
                "admin_port: is that of another door. Fix: name another in UNMIX_ADMIN_PORT",
            )
        else:
            doors.append(("admin_port", ADMIN_HOST, admin, "UNMIX_ADMIN_PORT"))
    for name, host, port, where in doors:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            reason = os.strerror(error.errno or 0) if (error.errno or 0) > 0 else "no such host"
            other = "" if name == "admin_port" else "or another --host, "
            yield Finding(False, f"{name}: {port} on {host} cannot be listened on ({reason}). "
                          f"Fix: name another with {where}, {other}or stop what listens "
                          "there")  # fmt: skip
        else:
            yield Finding(True, f"{name}: {port or 'any'} is free")


def _models(settings: Settings) -> Iterator[Finding]:
    repository = Repository(settings.models, settings.device)
    repository.load_all()
    statuses = repository.statuses()
    for status in statuses:
        label = f"models: {status.name}/{status.version}"
        if status.model is None:
            yield Finding(False, f"{label} is refused: {status.reason}. Fix: export it again, or "
                          "take its folder away")  # fmt: skip
        else:
            provider = status.model.provider
            yield Finding(True, f"{label} loads and repeats its golden steps on {provider}")
    if not statuses:
        text = f"models: none in {settings.models}/NAME/VERSION/. Fix: export one there "
        yield Finding(False, f"{text}(python -m training.export), or name another with --models")


def _try(attempt: Callable[[], T], good: Callable[[T], str]) -> Finding:
    try:
        return Finding(True, good(attempt()))
    except SetupError as error:
        return Finding(False, str(error))
