"""Who a client is, and whom it trusts: an API key or JWT, authorities, a certificate of its own.

    Credentials(key=..., ca=Path("ca.pem"))

Programs take it from the environment (`from_environment`), never from a command line, which every
user of a machine can read.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

HINT = (
    "say who calls: UNMIX_CALLER_KEY (an API key or token) or UNMIX_CALLER_CERTIFICATE in the "
    "environment, credentials=Credentials(...) in code"
)
"""What to do about a service that asks who calls."""

VARIABLES = {
    "UNMIX_CALLER_KEY": "the API key or JWT to call with.",
    "UNMIX_CALLER_CA": "PEM file of the authorities that a service's certificate must come from; "
    "without it, those of the system over https:// and those of gRPC's package over grpcs://.",
    "UNMIX_CALLER_CERTIFICATE": "PEM file of a certificate to show.",
    "UNMIX_CALLER_CERTIFICATE_KEY": "PEM file of that certificate's private key.",
}
"""Name -> what it is."""

HELP = "A service that asks who calls is told so by the environment:\n" + "\n".join(
    f"  {name}: {meaning}" for name, meaning in VARIABLES.items()
)


@dataclass(frozen=True)
class Credentials:
    """What to show to a service, and whom to believe that it is the service.

    The files are read whenever a connection is opened, so that a renewed one is in use from the
    next connection on. Raises: ValueError: they cannot be what is meant; no message has the key.
    """

    key: str = field(default="", repr=False)
    """An API key or JWT; it goes over TLS, or stays on this machine."""
    ca: Path | None = None
    """PEM file of the authorities to believe."""
    certificate: Path | None = None
    """PEM file of an own certificate and its chain."""
    certificate_key: Path | None = None
    """PEM file of its private key, without a password."""

    def __post_init__(self) -> None:
        if not all("!" <= letter <= "~" for letter in self.key):
            raise ValueError("the key has a character that no key or token has, such as a space")
        if (self.certificate is None) != (self.certificate_key is None):
            lacking = "certificate" if self.certificate is None else "certificate_key"
            raise ValueError(f"{lacking} is missing: a certificate and its key go together")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Credentials:
        """What the variables UNMIX_CALLER_* say. Raises: ValueError"""
        key, ca, certificate, certificate_key = map(environment.get, VARIABLES)
        paths = [Path(path) if path else None for path in (ca, certificate, certificate_key)]
        try:
            return cls((key or "").strip(), *paths)
        except ValueError as error:
            raise ValueError(f"UNMIX_CALLER_*: {error}") from None

    def metadata(self, host: str, secure: bool) -> tuple[tuple[str, str], ...]:
        """The headers of each call to this host. Raises: ValueError: the key would be readable."""
        if not self.key:
            return ()
        if not (secure or _is_here(host)):
            raise ValueError(
                f"the key would travel readable to {host}: use grpcs:// or https:// (TLS)"
            )
        return (("authorization", f"Bearer {self.key}"),)

    def ssl_context(self) -> ssl.SSLContext:
        """Raises: ValueError: naming the file that is wrong."""
        context = ssl.create_default_context() if self.ca is None else _believing(self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None and self.certificate_key is not None:
            _show(context, self.certificate, self.certificate_key)
        return context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Raises: ValueError: naming the file that is wrong."""
        self.ssl_context()  # gRPC would say no more of a wrong file than that it cannot connect
        files = (self.ca, self.certificate_key, self.certificate)
        return grpc.ssl_channel_credentials(
            *(path.read_bytes() if path else None for path in files)
        )


NOBODY = Credentials()


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _believing(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ValueError(f"ca: {ca} holds no PEM certificate") from None
    except OSError as error:
        raise ValueError(f"ca: {ca}: {error.strerror}") from None


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def password() -> str:
        raise ValueError(f"certificate_key: {key} is encrypted; save it without a password")

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError:
        raise ValueError(f"{certificate} and {key} are not a PEM certificate and its key") from None
    except OSError as error:
        raise ValueError(f"{certificate}, {key}: {error.strerror}") from None
