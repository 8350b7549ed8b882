"""What stands before the gRPC door: a request id for every call, and who may go in."""

from __future__ import annotations

import logging
from typing import Any

from serving.access.entry import Access
from serving.request_ids import HEADER, begin_request, traceparent
from serving.settings import Role

logger = logging.getLogger(__name__)


def enter(context: Any, access: Access | None, role: Role | None) -> None:
    """Name the call, and admit its caller; without a role, whoever that is.

    Raises:
        NotAuthenticated, NotAllowed, RateLimited
    """
    given: dict[str, Any] = {}
    for name, value in context.invocation_metadata() or ():
        given.setdefault(name, value)
    name = begin_request(str(given.get(HEADER, "")).encode("utf-8", "replace"))
    context.set_trailing_metadata(((HEADER, name),))
    traceparent.set(str(given.get("traceparent", "")))
    logger.debug("call: %s", role or "probe")
    if access is not None and role is not None:
        access.admit(_token(given), _certificate(context), role)


def _token(metadata: dict[str, Any]) -> str:
    scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return str(metadata.get("x-api-key", ""))


def _certificate(context: Any) -> str:
    """The common name of the certificate that TLS has checked, if there is one."""
    names = context.auth_context().get("x509_common_name") or [b""]
    return str(names[0].decode("utf-8", "replace"))
