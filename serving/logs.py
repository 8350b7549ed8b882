"""One event a line on stderr: JSON for machines, colours for people on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from serving.access.entry import principal
from serving.request_ids import request_id
from serving.settings import Settings


def configure_logging(settings: Settings, worker: int | None = None) -> None:
    """For this program's events and the libraries' own messages alike.

    Args:
        worker: this process' number among several, to be in every line.
    """
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
        *([] if worker is None else [_Worker(worker)]),
    ]
    last: list[Any] = (
        [_escape, structlog.dev.ConsoleRenderer()]
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


class _Worker:
    """Adds the worker's number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(
        self, _: Any, __: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["worker"] = self._number
        return event


def _add_request_id(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    named = request_id.get()
    if named:
        event["request_id"] = named
        if asking := principal.get():
            event["caller"] = asking.name
    return event


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """JSON has no raw control characters; let a terminal see none either."""
    text = str(event.get("event", ""))
    event["event"] = "".join(it if it.isprintable() else repr(it)[1:-1] for it in text)
    return event
