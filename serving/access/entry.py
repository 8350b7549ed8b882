"""Who may do what: one check behind both doors, without a word of HTTP or gRPC.

A caller shows an API key or a JWT, or its client certificate was checked by TLS. Where none of
these is set up there is no `Access` at all, and nothing is spent on it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from serving.access.keys import PREFIX, find_key, read_keys
from serving.access.rates import Bucket, Buckets
from serving.access.shared_rates import SharedBuckets
from serving.access.tokens import Claims, PublicKey, read_jwks, read_token
from serving.access.watched import Watched
from serving.errors import NotAllowed, NotAuthenticated
from serving.settings import Role, Settings, SetupError

logger = logging.getLogger(__name__)

MAX_TOKEN = 8192
MAX_REMEMBERED = 4096
"""Tokens that need not be verified again: a signature costs more than a step."""


class Principal:
    """Somebody known, for one request or one stream."""

    __slots__ = ("_bucket", "_holds", "name", "roles")

    def __init__(
        self,
        name: str,
        roles: frozenset[Role],
        bucket: Bucket | None,
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name, self.roles, self._bucket, self._holds = name, roles, bucket, holds

    def spend(self, n: int = 1) -> None:
        """Count n requests of the caller's; streams do so for each message.

        Raises:
            NotAuthenticated: the credential holds no longer.
            RateLimited
        """
        if not self._holds():
            raise NotAuthenticated("the credential was taken back or has expired")
        if self._bucket is not None:
            self._bucket.take(n)

    def check_role(self, role: Role) -> None:
        """Raises: NotAllowed"""
        if role not in self.roles and "admin" not in self.roles:
            raise NotAllowed(f"this needs the role {role}")


principal: ContextVar[Principal | None] = ContextVar("principal", default=None)
"""Who asks, in the task of its request; None where no credentials are needed."""


def charge(n: int = 1) -> None:
    """Count n more requests of whoever asks. Raises: NotAuthenticated, RateLimited"""
    asking = principal.get()
    if asking is not None:
        asking.spend(n)


class Access:
    """The credentials that are set up. Raises: SetupError"""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        buckets: Buckets | SharedBuckets | None = None,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._keys = _watched(settings.keys, read_keys)
        self._jwks = _watched(settings.jwks, read_jwks)
        if self._jwks and not (settings.jwt_issuer and settings.jwt_audience):
            raise SetupError(
                "jwks: tokens for anybody, or by anybody, would be taken",
                "set UNMIX_JWT_ISSUER and UNMIX_JWT_AUDIENCE",
            )
        self._buckets = buckets or Buckets(settings.rate_per_s, settings.rate_burst)
        self._remembered: OrderedDict[bytes, tuple[Claims, PublicKey]] = OrderedDict()

    @property
    def watched(self) -> list[Watched[Any]]:
        """What has to be refreshed."""
        return [value for value in (self._keys, self._jwks) if value]

    def admit(self, token: str, certificate: str, role: Role) -> Principal:
        """The caller, for whom one request is counted.

        Args:
            token: the API key or JWT shown; empty for none.
            certificate: whose certificate TLS has checked; empty for none.

        Raises:
            NotAuthenticated, NotAllowed, RateLimited
        """
        if self._settings.client_ca and not certificate:
            raise NotAuthenticated("a client certificate is needed")
        admitted = self._by_token(token) if token else self._by_certificate(certificate)
        admitted.check_role(role)
        admitted.spend()
        principal.set(admitted)
        return admitted

    def _by_certificate(self, name: str) -> Principal:
        role = self._settings.client_role
        if not name or role == "none":
            raise NotAuthenticated("a key or token is needed")
        return self._caller(f"certificate:{name}", frozenset({role}))

    def _by_token(self, token: str) -> Principal:
        if len(token) <= MAX_TOKEN:
            found = self._by_key(token) if token.startswith(PREFIX) else self._by_jwt(token)
            if found is not None:
                return found
        # One answer for all that can be wrong, so that nothing is learned from it.
        raise NotAuthenticated("the key or token does not hold")

    def _by_key(self, token: str) -> Principal | None:
        watched = self._keys
        key = find_key(watched.value, token) if watched else None
        if watched is None or key is None:
            return None
        # Equal lines are the same key, though the file was read again.
        return self._caller(
            f"key:{key.name}", key.roles, lambda: watched.value.get(key.name) == key
        )

    def _by_jwt(self, token: str) -> Principal | None:
        if self._jwks is None:
            return None
        jwks = self._jwks
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        claims, key = self._remembered.get(digest, (None, None))
        if claims is None or jwks.value.get(claims.kid) != key or claims.expires <= self._clock():
            self._remembered.pop(digest, None)
            read = read_token(
                jwks.value, token, self._settings.jwt_issuer, self._settings.jwt_audience
            )
            if isinstance(read, str):
                logger.debug("token refused: %s", read)
                return None
            claims, key = read, jwks.value[read.kid]
            self._remember(digest, claims, key)
        kid, expires = claims.kid, claims.expires

        def holds() -> bool:
            return self._clock() < expires and bool(jwks.value.get(kid) == key)

        return self._caller(f"jwt:{claims.subject}", claims.roles, holds)

    def _remember(self, digest: bytes, claims: Claims, key: PublicKey) -> None:
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        self._remembered[digest] = (claims, key)

    def _caller(
        self, name: str, roles: frozenset[Role], holds: Callable[[], bool] = lambda: True
    ) -> Principal:
        bucket = self._buckets.of(name) if self._settings.rate_per_s else None
        return Principal(_printable(name), roles, bucket, holds)


def has_credentials(settings: Settings) -> bool:
    """Whether callers have to show one."""
    return any((settings.keys, settings.jwks, settings.client_ca))


def open_access(settings: Settings, buckets: SharedBuckets | None = None) -> Access | None:
    """The check, or None where everybody may do everything.

    Args:
        buckets: of all processes together; by default this one has its own.

    Raises:
        SetupError
    """
    if has_credentials(settings):
        return Access(settings, buckets=buckets)
    if settings.rate_per_s:
        raise SetupError(
            "rate_per_s: callers are not told apart without credentials",
            "set UNMIX_KEYS, UNMIX_JWKS or UNMIX_CLIENT_CA, or leave UNMIX_RATE_PER_S out",
        )
    return None


def check_exposure(settings: Settings) -> None:
    """Refuse to listen beyond this machine unless callers are known and cannot be overheard.

    Raises:
        SetupError
    """
    if settings.insecure or _is_loopback(settings.host):
        return
    lacks = []
    if settings.tls_certificate is None:
        lacks.append("TLS (UNMIX_TLS_CERTIFICATE and UNMIX_TLS_KEY)")
    if not has_credentials(settings):
        lacks.append("a credential (UNMIX_KEYS, UNMIX_JWKS or UNMIX_CLIENT_CA)")
    if lacks:
        raise SetupError(
            f"host: {settings.host} is reached from other machines, and {' and '.join(lacks)} is "
            "not set up",
            "set it up, or listen on 127.0.0.1, or say --insecure where something in front of the "
            "server does it",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _watched(path: Path | None, read: Callable[[Path], Any]) -> Watched[Any] | None:
    return None if path is None else Watched([path], lambda: read(path))


def _printable(name: str) -> str:
    """A name fit for a log: issuers may put anything into a token."""
    return re.sub(r"[^\x21-\x7e]", "?", name[:80])
