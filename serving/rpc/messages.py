"""How the gRPC door reads messages: inside its handlers, so that bytes that are no message are the
caller's error and not the server's."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from serving.errors import MalformedRequest

M = TypeVar("M", bound=Message)


def parse(message: type[M], data: bytes) -> M:
    """Raises: MalformedRequest"""
    try:
        return message.FromString(data)
    except DecodeError:
        name = message.DESCRIPTOR.full_name
        raise MalformedRequest(f"the message is not a {name}") from None
