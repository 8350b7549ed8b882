"""A name for each request, in its answer and in every line of the log that is about it."""

from __future__ import annotations

import itertools
import re
import secrets
from contextvars import ContextVar

HEADER = "x-request-id"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PREFIX = secrets.token_hex(6)
_numbers = itertools.count(1)

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that the running task is about; empty outside of one."""

traceparent: ContextVar[str] = ContextVar("traceparent", default="")
"""The trace that the caller says its request belongs to (W3C Trace Context), as it was sent."""


def begin_request(given: bytes = b"") -> str:
    """The id of a request that begins: the caller's own if it is well-formed, else a new one."""
    chosen = given.decode() if _WELL_FORMED.fullmatch(given) else f"{_PREFIX}-{next(_numbers):x}"
    request_id.set(chosen)
    return chosen
