"""What can go wrong in the step service, without a word of HTTP or gRPC.

    ServingError
    ├── RequestError                 the caller's request
    │   ├── MalformedRequest         not JSON, or not the protobuf message
    │   ├── RequestTooLarge          over the size limit
    │   └── InvalidRequest           readable, but a field makes no sense; names the field
    ├── NotFound
    │   ├── ModelNotFound
    │   ├── AgentNotFound
    │   └── SessionNotFound
    ├── SessionBusy                  another step of the same session is running
    ├── Unavailable
    │   ├── ModelNotReady            the model is known, but was refused or is still loading
    │   └── ShuttingDown
    ├── NotAuthenticated             no credential, or none that holds
    ├── NotAllowed                   the caller is known, but this is not for its role
    ├── TryLater                     worth another try soon
    │   ├── Overloaded               a queue or a store is full
    │   └── RateLimited              this caller asks for more than its share
    ├── DeadlineExceeded             the caller's time, or the service's own limit, ran out
    ├── Abandoned                    the caller left before its step was run; counted, never read
    └── ModelInvalid                 an artifact in the repository cannot be trusted or used

Messages are for the caller: they name the field, the limit and the size of what was given, and
never repeat the caller's own text.
"""

# ruff: noqa: N818 - the names are the error table's, which callers read in metrics and problems.

from __future__ import annotations


class ServingError(Exception):
    """The root of the family; its text may be shown to the caller."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(ServingError):
    """The request itself is at fault."""


class MalformedRequest(RequestError):
    """The bytes are not what the door takes."""


class RequestTooLarge(RequestError):
    """The request is over the size limit."""


class InvalidRequest(RequestError):
    """A field makes no sense."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def in_row(row: int, error: ServingError, rows: str = "rows") -> ServingError:
    """The error of one row of many, so that it names the row."""
    error.message = f"{rows}[{row}]: {error.message}"
    error.args = (error.message,)
    if isinstance(error, InvalidRequest):
        error.field = f"{rows}[{row}].{error.field}"
    return error


class NotFound(ServingError):
    """What the request names is not there."""


class ModelNotFound(NotFound):
    """No model, or no version of it, by that name."""


class AgentNotFound(NotFound):
    """The model has no such agent."""


class SessionNotFound(NotFound):
    """No such session: never opened, closed, or expired."""


class SessionBusy(ServingError):
    """A session takes one step at a time."""


class Unavailable(ServingError):
    """Not now, perhaps elsewhere."""


class ModelNotReady(Unavailable):
    """The model is in the repository but does not take steps."""


class ShuttingDown(Unavailable):
    """The server finishes what it has and takes nothing new."""


class TryLater(ServingError):
    """Too much at once; the caller may try again."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(TryLater):
    """Full, whoever asks."""


class RateLimited(TryLater):
    """The caller asks for more than its share."""


class NotAuthenticated(ServingError):
    """Nobody known: no credential, or none that holds."""


class NotAllowed(ServingError):
    """Somebody known, whose role this is not."""


class DeadlineExceeded(ServingError):
    """The step was not run in time."""


class Abandoned(ServingError):
    """Nobody waits for the step any more, so it was not run."""


class ModelInvalid(ServingError):
    """The artifact is refused."""
