"""TLS for both doors, from files that may be replaced while it is in use.

New connections get the new certificate; those that are open go on with the one they began with.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from serving.access.watched import Watched, read_text
from serving.settings import Settings, SetupError

_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED and _NOT_YET_VALID


@dataclass(frozen=True)
class Identity:
    """What the doors need, made of one reading of the files."""

    context: ssl.SSLContext
    """For HTTP."""
    configuration: Any
    """For gRPC."""
    not_after: float
    """When the certificate expires, in seconds since the epoch."""


class Tls:
    """The server's identity as it is now. Raises: SetupError"""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._client_ca = client_ca
        paths = [path for path in (certificate, key, client_ca) if path]
        self.watched = Watched(paths, lambda: _read(certificate, key, client_ca))

    def http_context(self) -> ssl.SSLContext:
        """A context that stands for whatever the newest one is."""
        context = _Newest(ssl.PROTOCOL_TLS_SERVER)
        context.watched = self.watched
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        given = self.watched.value.configuration

        def newest() -> Any:
            """What changed since the last connection; called in gRPC's own thread."""
            nonlocal given
            current = self.watched.value.configuration
            if current is given:
                return None
            given = current
            return current

        return grpc.dynamic_ssl_server_credentials(
            given, newest, require_client_authentication=self._client_ca is not None
        )


class _Newest(ssl.SSLContext):
    """asyncio and uvloop ask a context for nothing but `wrap_bio`, once a connection."""

    watched: Watched[Identity]

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.watched.value.context.wrap_bio(*args, **kwargs)


def open_tls(settings: Settings) -> Tls | None:
    """TLS as the settings want it, or None. Raises: SetupError"""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        if settings.client_ca is None:
            return None
        raise SetupError(
            "client_ca: certificates can be asked for over TLS only",
            "set UNMIX_TLS_CERTIFICATE and UNMIX_TLS_KEY",
        )
    if certificate is None or key is None:
        lacking = "tls_certificate" if certificate is None else "tls_key"
        raise SetupError(f"{lacking}: missing", f"set UNMIX_{lacking.upper()} too")
    return Tls(certificate, key, settings.client_ca)


def _read(certificate: Path, key: Path, client_ca: Path | None) -> Identity:
    """Raises: SetupError"""
    certificate_pem = read_text(certificate, "tls_certificate")
    key_pem = read_text(key, "tls_key")
    ca_pem = read_text(client_ca, "client_ca") if client_ca else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, certificate, key)
    not_after = _check_dates(context, certificate)
    if client_ca is not None:
        _load_ca(context, client_ca)
    pair = (key_pem.encode(), certificate_pem.encode())
    configuration = grpc.ssl_server_certificate_configuration(
        [pair], None if ca_pem is None else ca_pem.encode()
    )
    return Identity(context, configuration, not_after)


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def password() -> str:
        raise SetupError(
            f"tls_key: {key} is encrypted, and there is nobody to ask for its password",
            "save it without: openssl pkey -in KEY -out PLAIN",
        )

    try:
        context.load_cert_chain(certificate, key, password)
    except OSError as error:  # SSLError is one
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise SetupError(
                f"tls_key: {key} is not the key of {certificate}",
                "name a certificate and the key it was made for",
            ) from None
        raise SetupError(
            f"tls_certificate: {certificate} and {key} are not a PEM certificate and its key",
            "name PEM files: -----BEGIN CERTIFICATE----- and -----BEGIN PRIVATE KEY-----",
        ) from None


def _load_ca(context: ssl.SSLContext, path: Path) -> None:
    """Ask callers for a certificate. One who has none may still ask for the probes: `Access` does
    the refusing."""
    try:
        context.load_verify_locations(path)
    except OSError:  # SSLError is one
        raise SetupError(
            f"client_ca: {path} holds no PEM certificate",
            "name the certificate of the authority that signs callers' certificates",
        ) from None
    context.verify_mode = ssl.CERT_OPTIONAL


def _check_dates(context: ssl.SSLContext, path: Path) -> float:
    """When the certificate expires, found by shaking hands with ourselves, as a caller would who
    trusts it. Raises: SetupError"""
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname = False
    caller.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        caller.load_verify_locations(path)
        shown = _shake_hands(context, caller)
    except OSError as error:  # SSLError is one
        code = getattr(error, "verify_code", 0)
        when = {_EXPIRED: "has expired", _NOT_YET: "is not valid yet"}.get(code)
        reason = getattr(error, "verify_message", "") or "no handshake comes about"
        raise SetupError(
            f"tls_certificate: {path} {when or f'is refused ({reason})'}",
            "put a certificate there that is valid now, or set the clock",
        ) from None
    return ssl.cert_time_to_seconds(str(shown["notAfter"]))


def _shake_hands(context: ssl.SSLContext, caller: ssl.SSLContext) -> dict[str, Any]:
    """The server's certificate as the caller sees it. Raises: ssl.SSLCertVerificationError"""
    to_server, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = caller.wrap_bio(to_caller, to_server)
    server = context.wrap_bio(to_server, to_caller, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.getpeercert() or {}


def certificate_name(certificate: Any) -> str:
    """The common name of a certificate as `getpeercert` gives it; empty if there is none."""
    for relative in (certificate or {}).get("subject", ()):
        for name, value in relative:
            if name == "commonName":
                return str(value)
    return ""
