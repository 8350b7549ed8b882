"""Clients of the step service: one per unit, each with its own connection and its own memory.

    with Unit("grpc://localhost:50051/3s5z", agent_id=0) as unit:
        unit.begin_episode()
        action = unit.act(obs, avail_actions)

A unit sees its own observation and nothing else. `Unit` is for one, `Units` drives many at once
(still one connection each), and `connect` gives the asyncio client that both are made of;
`serving.client.team` has many units behind one connection, and `LocalAgent` runs the model in the
unit's own process. For all but the last the base install is enough: neither torch nor onnxruntime
is needed.

A policy's address is `grpc://HOST:PORT/MODEL` or `http://HOST:PORT/MODEL`, over TLS `grpcs://` and
`https://`, with `/VERSION` behind it to insist on one; without MODEL it is the only model the
server has. Connections are direct: proxies named in the environment are not used. Who calls, and
which authorities it believes, is said with `Credentials`.

Memory is `held` by the server (in the unit's gRPC stream, or in a REST session) or `carried` by
the unit, which sends it along with each step. Both give the same actions, bit for bit.

With `retry=Retry()` a unit outlives its server: it keeps its last memory, and when a connection
breaks or a server turns it away, it goes on from there, on the same server or another replica, with
the actions that it would have taken anyway.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast
from urllib.parse import quote, urlsplit

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from serving.client.credentials import HINT, NOBODY, Credentials
from serving.client.retry import Retry
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc

Memory = Literal["held", "carried"]
T = TypeVar("T")

_NO_ACTION = -1
_BROKEN_WRITE = "Internal error from Core"
"""What grpc.aio itself, and no server, says of a stream whose connection broke under a write."""


class ServingClientError(Exception):
    """The service refused a call, or could not be reached.

    `status` is the door's own: a gRPC code ("NOT_FOUND"), an HTTP number ("404"), or "UNREACHABLE".
    """

    def __init__(self, status: str, message: str) -> None:
        if status in ("UNAUTHENTICATED", "401"):
            message = f"{message}; {HINT}"
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


@dataclass(frozen=True)
class PolicyUrl:
    """Where a policy is served."""

    scheme: Literal["grpc", "grpcs", "http", "https"]
    host: str
    port: int
    model: str
    """Empty: the only model there is."""
    version: int
    """0: the newest."""

    @classmethod
    def parse(cls, url: str) -> PolicyUrl:
        """Raises: ValueError"""
        parts = urlsplit(url)
        model, _, version = parts.path.strip("/").partition("/")
        if (
            parts.scheme not in ("grpc", "grpcs", "http", "https")
            or not (parts.hostname and parts.port)
            or not (version or "0").isdecimal()
            or parts.query
            or parts.fragment
            or parts.username is not None
        ):
            raise ValueError(
                f"{url!r} is not the address of a policy; "
                "expected grpc://HOST:PORT/MODEL or http://HOST:PORT/MODEL, with TLS grpcs:// or "
                "https://, /VERSION if wished"
            )
        scheme = cast(Literal["grpc", "grpcs", "http", "https"], parts.scheme)
        return cls(scheme, parts.hostname, parts.port, model, int(version or 0))

    @property
    def is_grpc(self) -> bool:
        return self.scheme in ("grpc", "grpcs")

    @property
    def is_secure(self) -> bool:
        """Whether over TLS."""
        return self.scheme in ("grpcs", "https")

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ModelInfo:
    """What the service says of a model; enough to tell whether it fits an environment."""

    name: str
    version: int
    map: str
    environment: str
    layout_sha256: str
    algorithm: str
    n_agents: int
    n_actions: int
    obs_dim: int
    hidden_dim: int
    episode_limit: int
    unit_types: tuple[str, ...]
    win_rate: float
    sha256: str


class Checkpoint(NamedTuple):
    """Where a unit is in its episode; enough to go on from there, through the same kind of door."""

    version: int
    """Of the model that the episode began with."""
    hidden: Any
    """The memory as the door gave it."""
    last_action: int


class UnitClient(ABC):
    """One unit's connection. One step at a time; not for several tasks at once."""

    def __init__(
        self, url: PolicyUrl, agent_id: int, timeout_s: float, credentials: Credentials
    ) -> None:
        self.url, self.agent_id, self.timeout_s = url, agent_id, timeout_s
        self.credentials = credentials
        self.keep_memory = False
        self.model, self.version = "", 0
        """What answers this episode; known from its first step on."""

    @abstractmethod
    async def begin_episode(self) -> None:
        """Forget the memory; the next step is an episode's first, on the newest model version."""

    @abstractmethod
    async def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        """The unit's action.

        Args:
            obs: [O] numbers; sent as float32.
            avail_actions: [U] truth values.

        Raises:
            ServingClientError
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connection; what the server holds for the unit is forgotten."""

    @property
    @abstractmethod
    def checkpoint(self) -> Checkpoint | None:
        """Where the unit is after its last step; None before an episode's first, and where the
        server holds the memory and has not been asked for it (see `connect`)."""

    @abstractmethod
    async def resume(self, checkpoint: Checkpoint) -> None:
        """Let the next step be the one after this, whatever came before.

        Raises:
            ServingClientError
        """

    def is_forgotten(self, error: ServingClientError) -> bool:
        """Whether the error says that the server has lost what it held for the unit."""
        return False

    @abstractmethod
    async def abandon(self) -> None:
        """Drop the connection at once, without a word to the server."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def connect(
    url: str,
    agent_id: int,
    memory: Memory = "held",
    timeout_s: float = 10.0,
    retry: Retry | None = None,
    credentials: Credentials = NOBODY,
) -> UnitClient:
    """The client of one unit; to be called, and used, on a running event loop.

    Nothing is sent before the first episode begins.

    Args:
        timeout_s: how long one step may take, all its tries together.
        retry: whether, and how, to go on after a failure. Each answer then brings the memory along,
            held or not.
        credentials: for services that ask who calls, and for certificates of authorities that the
            system does not know.

    Raises:
        ValueError: an address is none, a file of the credentials is wrong, or a key would travel
            readable.
    """
    parsed = PolicyUrl.parse(url)
    if retry is not None:
        from serving.client.resuming import ResumingUnit  # which is made of what is in here

        return ResumingUnit(parsed, agent_id, memory, timeout_s, retry, credentials)
    return open_unit(parsed, agent_id, memory, timeout_s, credentials)


def open_unit(
    url: PolicyUrl,
    agent_id: int,
    memory: Memory,
    timeout_s: float,
    credentials: Credentials = NOBODY,
    keep_memory: bool = False,
) -> UnitClient:
    """One connection of a unit, which ends with it.

    Args:
        keep_memory: ask for held memory too, so that there is a `checkpoint`.
    """
    kinds: dict[tuple[bool, Memory], type[UnitClient]] = {
        (True, "held"): _GrpcHeld,
        (True, "carried"): _GrpcCarried,
        (False, "held"): _HttpHeld,
        (False, "carried"): _HttpCarried,
    }
    unit = kinds[url.is_grpc, memory](url, agent_id, timeout_s, credentials)
    unit.keep_memory = keep_memory
    return unit


class _Stream:
    """A stream of requests and answers, one for one; opened when the first is sent.

    Args:
        open_call: the stub's method.
    """

    def __init__(self, open_call: Callable[[], Any], timeout_s: float) -> None:
        self._open_call, self._timeout_s = open_call, timeout_s
        self._call: Any = None

    @property
    def is_open(self) -> bool:
        """False also once it is lost, and with it what the server held for it."""
        return self._call is not None

    async def exchange(self, request: Message) -> Any:
        """The answer. Raises: ServingClientError, and the stream is lost"""
        call = self._call = self._call or self._open_call()
        try:
            async with asyncio.timeout(self._timeout_s):
                await call.write(request)
                answer = await call.read()
        except TimeoutError:
            call.cancel()
            self._call = None
            raise ServingClientError(
                "DEADLINE_EXCEEDED", f"no answer in {self._timeout_s} s"
            ) from None
        except (grpc.RpcError, asyncio.InvalidStateError):
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            self._call = None
            raise _grpc_error(await call.code(), await call.details())
        return answer

    async def close(self) -> None:
        call, self._call = self._call, None
        if call is not None and not call.done():
            await call.done_writing()
            async with asyncio.timeout(self._timeout_s):
                await call.code()


class _GrpcUnit(UnitClient):
    def __init__(
        self, url: PolicyUrl, agent_id: int, timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_id, timeout_s, credentials)
        self._metadata = credentials.metadata(url.host, url.is_secure)
        self._channel = _grpc_channel(url, credentials)
        self._stub = _stub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def abandon(self) -> None:
        await self._channel.close()


class _GrpcHeld(_GrpcUnit):
    """The stream holds the memory."""

    def __init__(
        self, url: PolicyUrl, agent_id: int, timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_id, timeout_s, credentials)
        self._begin = self._new = pb.Episode(
            model=url.model, version=url.version, agent_id=agent_id
        )
        self._checkpoint: Checkpoint | None = None
        self._stream = _Stream(lambda: self._stub.ActStream(metadata=self._metadata), timeout_s)
        self._fresh = True
        self._sequence = 0

    async def begin_episode(self) -> None:
        self._fresh, self._begin, self._checkpoint = True, self._new, None

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self._checkpoint

    async def resume(self, checkpoint: Checkpoint) -> None:
        self._fresh, self._checkpoint = True, checkpoint
        self._begin = pb.Episode(
            model=self.url.model,
            version=checkpoint.version,
            agent_id=self.agent_id,
            hidden=checkpoint.hidden,
            last_action=checkpoint.last_action,
        )

    async def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        self._sequence += 1
        request = pb.ActStreamRequest(
            begin=self._begin if self._fresh else None,
            obs=_float_bytes(obs),
            avail_actions=_bool_bytes(avail_actions),
            want_next_hidden=self.keep_memory,
            sequence=self._sequence,
        )
        if not (self._stream.is_open or self._fresh):
            raise ServingClientError("UNREACHABLE", "the stream is lost, and its memory too")
        answer: pb.ActStreamResponse = await self._stream.exchange(request)
        if answer.sequence != self._sequence:
            raise ServingClientError("INTERNAL", "the answer is another request's")
        if self._fresh:
            self.model, self.version = answer.model, answer.version
            self._fresh = False
        if self.keep_memory:
            self._checkpoint = Checkpoint(self.version, answer.next_hidden, answer.action)
        return int(answer.action)

    async def close(self) -> None:
        await self._stream.close()
        await super().close()


class _GrpcCarried(_GrpcUnit):
    """The unit sends its memory along; each call could be answered by another replica."""

    def __init__(
        self, url: PolicyUrl, agent_id: int, timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_id, timeout_s, credentials)
        self._hidden = b""
        self._last_action = _NO_ACTION
        self._version = url.version

    async def begin_episode(self) -> None:
        self._hidden, self._last_action, self._version = b"", _NO_ACTION, self.url.version

    @property
    def checkpoint(self) -> Checkpoint | None:
        if not self._hidden:
            return None
        return Checkpoint(self._version, self._hidden, self._last_action)

    async def resume(self, checkpoint: Checkpoint) -> None:
        self._version, self._hidden, self._last_action = checkpoint

    async def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        request = pb.ActRequest(
            model=self.url.model,
            version=self._version,
            agent_id=self.agent_id,
            obs=_float_bytes(obs),
            avail_actions=_bool_bytes(avail_actions),
            last_action=self._last_action,
            hidden=self._hidden,
        )
        try:
            answer: pb.ActResponse = await self._stub.Act(
                request, timeout=self.timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise _grpc_error(error.code(), error.details()) from None
        self.model, self.version = answer.model, answer.version
        self._version = answer.version
        self._hidden, self._last_action = answer.next_hidden, answer.action
        return int(answer.action)


class _HttpUnit(UnitClient):
    def __init__(
        self, url: PolicyUrl, agent_id: int, timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_id, timeout_s, credentials)
        self._http = _HttpConnection(url, timeout_s, credentials)
        self._path = f"/agents/{agent_id}/act"

    async def close(self) -> None:
        await self._http.close()

    async def abandon(self) -> None:
        await self._http.close()

    async def _step(
        self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike, memory: dict[str, Any]
    ) -> Any:
        body = {
            "obs": np.asarray(obs, np.float32).tolist(),
            "avail_actions": np.asarray(avail_actions, np.bool_).tolist(),
        }
        answer = await self._http.call("POST", self._path, body | memory)
        self.model, self.version = answer["model"], answer["version"]
        return answer

    def _where(self, version: int) -> dict[str, Any]:
        """The request's model and version, where they are known."""
        where: dict[str, Any] = {"model": self.url.model, "version": version}
        return {name: value for name, value in where.items() if value}

    def _from(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The request's memory, with the model that it belongs to."""
        return self._where(checkpoint.version) | {
            "hidden": checkpoint.hidden,
            "last_action": checkpoint.last_action,
        }


class _HttpHeld(_HttpUnit):
    """A session holds the memory."""

    def __init__(
        self, url: PolicyUrl, agent_id: int, timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_id, timeout_s, credentials)
        # Where the service is several replicas, their proxy sends equal names to the same one.
        self._http.client_id = secrets.token_hex(8)
        self._session = ""
        self._checkpoint: Checkpoint | None = None

    async def begin_episode(self) -> None:
        self._checkpoint = None
        await self._begin(self._where(self.url.version))

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self._checkpoint

    async def resume(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        await self._begin(self._from(checkpoint))

    async def _begin(self, where: dict[str, Any]) -> None:
        if self._session:
            try:
                await self._http.call("POST", f"/sessions/{self._session}/reset", where)
                return
            except ServingClientError as error:
                if error.status != "404":  # else it expired between two episodes: open another
                    raise
        opened = await self._http.call("POST", "/sessions", where | {"agent_id": self.agent_id})
        self._session = opened["session"]

    def is_forgotten(self, error: ServingClientError) -> bool:
        return bool(self._session) and error.status == "404"

    async def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        if not self._session:
            await self.begin_episode()
        memory: dict[str, Any] = {"session": self._session}
        if self.keep_memory:
            memory["want"] = ["next_hidden"]
        answer = await self._step(obs, avail_actions, memory)
        if self.keep_memory:
            self._checkpoint = Checkpoint(
                answer["version"], answer["next_hidden"], answer["action"]
            )
        return int(answer["action"])

    async def close(self) -> None:
        try:
            if self._session:
                await self._http.call("DELETE", f"/sessions/{self._session}")
        except ServingClientError:
            pass  # the session will expire
        finally:
            await super().close()


class _HttpCarried(_HttpUnit):
    """The unit sends its memory along."""

    def __init__(
        self, url: PolicyUrl, agent_id: int, timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_id, timeout_s, credentials)
        self._checkpoint: Checkpoint | None = None

    async def begin_episode(self) -> None:
        self._checkpoint = None

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self._checkpoint

    async def resume(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    async def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        known = self._checkpoint
        memory = self._where(self.url.version) if known is None else self._from(known)
        answer = await self._step(obs, avail_actions, memory)
        # JSON numbers are doubles, which hold every float32 exactly: nothing is lost on the way.
        self._checkpoint = Checkpoint(answer["version"], answer["next_hidden"], answer["action"])
        return int(answer["action"])


class _HttpConnection:
    """One HTTP/1.1 connection, one request at a time, answers with a content-length.

    That is all the service needs, and eight times as fast as a general client for its small calls.
    """

    def __init__(self, url: PolicyUrl, timeout_s: float, credentials: Credentials) -> None:
        """Raises: ValueError: a file of the credentials is wrong, or a key would be readable."""
        self._url, self._timeout_s = url, timeout_s
        self.client_id = ""
        """Sent along, if there is one."""
        shown = credentials.metadata(url.host, url.is_secure)
        self._shown = "".join(f"{name}: {value}\r\n" for name, value in shown)
        self._context = credentials.ssl_context() if url.is_secure else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON; None if it is empty. Raises: ServingClientError"""
        try:
            async with asyncio.timeout(self._timeout_s):
                status, content = await self._exchange(method, path, body)
        except TimeoutError:
            await self.close()
            raise ServingClientError("UNREACHABLE", f"no answer in {self._timeout_s} s") from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            await self.close()
            where = f"{self._url.scheme}://{self._url.address}"
            raise ServingClientError("UNREACHABLE", f"{where}: {error or 'hung up'}") from None
        if status >= 400:
            detail = content.get("detail", "") if isinstance(content, dict) else ""
            raise ServingClientError(str(status), detail or "no details")
        return content

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()

    async def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[int, Any]:
        """(status, content). Raises: OSError, EOFError, ValueError"""
        reader, writer = await self._connected()
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._url.address}\r\n{self._shown}"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n"
        )
        head += f"x-client-id: {self.client_id}\r\n\r\n" if self.client_id else "\r\n"
        writer.write(head.encode() + data)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if "transfer-encoding" in headers:
            raise ValueError("the answer is not the service's: it comes in pieces")
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return int(first[9:12]), json.loads(content) if content else None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # The server may have hung up on an idle connection.
        if self._streams is None or self._streams[0].at_eof():
            await self.close()
            self._streams = await asyncio.open_connection(
                self._url.host, self._url.port, ssl=self._context
            )
        return self._streams


class Units:
    """Many units, driven from plain code. Each has its own connection and its own memory; all that
    is shared is the thread that waits for their answers.

        with Units(url, agent_ids=[0, 1, 2]) as units:
            units.begin_episode()
            actions = units.act(obs, avail_actions)  # [3, O], [3, U] -> [3]
    """

    def __init__(
        self,
        url: str,
        agent_ids: Sequence[int],
        memory: Memory = "held",
        timeout_s: float = 10.0,
        retry: Retry | None = None,
        credentials: Credentials = NOBODY,
    ) -> None:
        async def connect_all() -> list[UnitClient]:
            return [
                connect(url, agent, memory, timeout_s, retry, credentials) for agent in agent_ids
            ]

        self._units = _run(connect_all())

    def begin_episode(self, which: Sequence[int] | None = None) -> None:
        """Begin an episode for the units at these places (all by default)."""
        _run(_gather([unit.begin_episode() for unit in self._chosen(which)]))

    def act(
        self,
        obs: npt.ArrayLike,
        avail_actions: npt.ArrayLike,
        which: Sequence[int] | None = None,
    ) -> npt.NDArray[np.int64]:
        """One step of the units at these places (all by default), side by side.

        Args:
            obs: [N, O] numbers, a row for each of the N units named.
            avail_actions: [N, U] truth values.

        Returns:
            [N] actions.

        Raises:
            ServingClientError: of the first unit whose step failed.
        """
        rows = zip(np.asarray(obs, np.float32), np.asarray(avail_actions, np.bool_), strict=True)
        steps = [
            unit.act(own, mask) for unit, (own, mask) in zip(self._chosen(which), rows, strict=True)
        ]
        return np.array(_run(_gather(steps)), np.int64)

    @property
    def checkpoints(self) -> list[Checkpoint | None]:
        """Each unit's, as `UnitClient.checkpoint`."""
        return [unit.checkpoint for unit in self._units]

    def resume(self, checkpoints: Sequence[Checkpoint]) -> None:
        """As `UnitClient.resume`, for all units."""
        pairs = zip(self._units, checkpoints, strict=True)
        _run(_gather([unit.resume(checkpoint) for unit, checkpoint in pairs]))

    def close(self) -> None:
        _run(_gather([unit.close() for unit in self._units]))

    def __len__(self) -> int:
        return len(self._units)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _chosen(self, which: Sequence[int] | None) -> list[UnitClient]:
        return self._units if which is None else [self._units[place] for place in which]


class Unit:
    """One unit, driven from plain code."""

    def __init__(
        self,
        url: str,
        agent_id: int,
        memory: Memory = "held",
        timeout_s: float = 10.0,
        retry: Retry | None = None,
        credentials: Credentials = NOBODY,
    ) -> None:
        self._units = Units(url, [agent_id], memory, timeout_s, retry, credentials)

    def begin_episode(self) -> None:
        """As `UnitClient.begin_episode`."""
        self._units.begin_episode()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """As `UnitClient.checkpoint`."""
        return self._units.checkpoints[0]

    def resume(self, checkpoint: Checkpoint) -> None:
        """As `UnitClient.resume`."""
        self._units.resume([checkpoint])

    def act(self, obs: npt.ArrayLike, avail_actions: npt.ArrayLike) -> int:
        """As `UnitClient.act`."""
        return int(self._units.act(np.asarray(obs)[None], np.asarray(avail_actions)[None])[0])

    def close(self) -> None:
        self._units.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def __getattr__(name: str) -> Any:
    """`LocalAgent`, which takes onnxruntime: nothing else here does."""
    if name != "LocalAgent":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serving.client.local import LocalAgent

    return LocalAgent


def get_model(url: str, timeout_s: float = 10.0, credentials: Credentials = NOBODY) -> ModelInfo:
    """What the service says of the model at this address, to callers with the role `observe`.

    Raises:
        ServingClientError, ValueError
    """
    parsed = PolicyUrl.parse(url)
    ask = _get_model_grpc if parsed.is_grpc else _get_model_http
    return _run(ask(parsed, timeout_s, credentials))


async def _get_model_grpc(url: PolicyUrl, timeout_s: float, credentials: Credentials) -> ModelInfo:
    request = pb.GetModelRequest(name=url.model, version=url.version)
    metadata = credentials.metadata(url.host, url.is_secure)
    async with _grpc_channel(url, credentials) as channel:
        try:
            answer: pb.GetModelResponse = await _stub(channel).GetModel(
                request, timeout=timeout_s, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            raise _grpc_error(error.code(), error.details()) from None
    model = answer.model
    if model.state == pb.Model.STATE_REFUSED:
        raise ServingClientError("UNAVAILABLE", f"the model was refused: {model.reason}")
    return ModelInfo(
        model.name,
        model.version,
        model.map,
        model.environment,
        model.layout_sha256,
        model.algorithm,
        model.dims.n_agents,
        model.dims.n_actions,
        model.dims.obs_dim,
        model.dims.hidden_dim,
        model.episode_limit,
        tuple(model.unit_types),
        model.win_rate,
        model.sha256,
    )


async def _get_model_http(url: PolicyUrl, timeout_s: float, credentials: Credentials) -> ModelInfo:
    http = _HttpConnection(url, timeout_s, credentials)
    try:
        if url.model:
            version = f"/versions/{url.version}" if url.version else ""
            model = await http.call("GET", f"/models/{quote(url.model)}{version}")
        else:
            listed = (await http.call("GET", "/models"))["models"]
            newest = [model for model in listed if model["latest"]]
            if len(newest) != 1:
                names = ", ".join(model["name"] for model in newest) or "none"
                raise ServingClientError("422", f"the address must name one model of: {names}")
            model = newest[0]
    finally:
        await http.close()
    if model["state"] == "refused":
        raise ServingClientError("503", f"the model was refused: {model['reason']}")
    dims = model["dims"]
    return ModelInfo(
        model["name"],
        model["version"],
        model["map"],
        model["environment"],
        model["layout_sha256"],
        model["algorithm"],
        dims["n_agents"],
        dims["n_actions"],
        dims["obs_dim"],
        dims["hidden_dim"],
        model["episode_limit"],
        tuple(model["unit_types"]),
        model["win_rate"],
        model["sha256"],
    )


@functools.cache
def _keep_grpc() -> None:
    """Hold on to gRPC's queue for good.

    It is taken down with the last channel, by whichever thread collects that as garbage, while the
    event loop may be reading from it.
    """
    grpc.aio.init_grpc_aio()


_making_loop = threading.Lock()


@functools.cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """The event loop of everything here that is called from plain code, on a thread of its own.

    One for the whole process, and never closed: gRPC keeps one queue for a process, and goes on
    looking for every loop that ever used it.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="unmix-client", daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, T]) -> T:
    with _making_loop:  # else threads that begin at the same time would each make one
        loop = _background_loop()
    return asyncio.run_coroutine_threadsafe(work, loop).result()


async def _gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, once all are there; the first error if there was one."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast(list[T], results)


def _grpc_channel(url: PolicyUrl, credentials: Credentials) -> grpc.aio.Channel:
    """Raises: ValueError: a file of the credentials is wrong."""
    _keep_grpc()
    options = [
        # Without this, channels to one address share a connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if url.is_secure:
        secret = credentials.channel_credentials()
        return grpc.aio.secure_channel(url.address, secret, options=options)
    return grpc.aio.insecure_channel(url.address, options=options)


def _stub(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]


def _grpc_error(code: grpc.StatusCode, details: str | None) -> ServingClientError:
    if code is grpc.StatusCode.CANCELLED:  # not by us: so a server ends what it will not answer
        code = grpc.StatusCode.UNAVAILABLE
    if code is grpc.StatusCode.INTERNAL and details == _BROKEN_WRITE:
        code = grpc.StatusCode.UNAVAILABLE
    return ServingClientError(code.name, details or "no details")


def _float_bytes(values: npt.ArrayLike) -> bytes:
    return np.asarray(values, "<f4").tobytes()


def _bool_bytes(values: npt.ArrayLike) -> bytes:
    return np.asarray(values, np.bool_).tobytes()
