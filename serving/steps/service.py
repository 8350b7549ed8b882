"""The step service itself: what the two doors open onto. No HTTP and no gRPC in here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from serving.errors import (
    AgentNotFound,
    InvalidRequest,
    Overloaded,
    RequestTooLarge,
    ServingError,
    SessionBusy,
    ShuttingDown,
    in_row,
)
from serving.metrics import Door, Metrics, error_code
from serving.models.agent_model import AgentModel, BadRow, Row, StepResult
from serving.models.repository import Repository
from serving.settings import Settings
from serving.steps.batcher import Batcher, Caller, Results
from serving.steps.memory import Memory

if TYPE_CHECKING:  # not on every machine that serves: only sealed memory needs its library
    from serving.steps.sealing import Sealer

NO_ACTION = -1
"""`last_action` at an episode's first step."""
ANYONE = Caller(None)
"""A caller that no door has told apart from others."""


class Act(NamedTuple):
    """One step with carried memory, before it has been checked."""

    agent_id: int
    obs: bytes
    """float32 [O], little-endian."""
    avail_actions: bytes
    """bool [U], one byte each."""
    last_action: int | None = None
    """None at the first step, where `hidden` is empty, and where the seal holds it."""
    hidden: bytes = b""
    """float32 [H], little-endian, or its seal; empty at the first step."""
    model: str = ""
    """Empty: the only model there is."""
    version: int = 0
    """0: the newest."""


class Episode:
    """One unit's memory between its steps, held by a stream or a session.

    It keeps the model version that it began with, whatever is loaded later.
    """

    __slots__ = ("agent_id", "busy", "memory", "model")

    def __init__(self, model: AgentModel, agent_id: int, memory: Memory) -> None:
        self.model = model
        self.agent_id = agent_id
        self.memory = memory
        self.busy = False
        model.n_episodes += 1

    def __del__(self) -> None:
        # An episode ends in many ways (its stream closes, its session expires, a reset replaces
        # it), which all come to this: nobody holds it any more.
        self.model.n_episodes -= 1


class Step(NamedTuple):
    """One step of a held episode among others, before it has been checked."""

    episode: Episode
    obs: bytes
    """float32 [O], little-endian."""
    avail_actions: bytes
    """bool [U], one byte each."""
    last_action: int | None = None
    """What the unit really did; None: what it was answered."""


class AgentService:
    """Steps agents. Every method is called on the event loop it was made on."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        settings: Settings,
        sealer: Sealer | None = None,
    ) -> None:
        """With a sealer, every memory that leaves or comes in is under seal."""
        self.repository = repository
        self.metrics = metrics
        metrics.n_refused = lambda: sum(not status.model for status in repository.statuses())
        self._settings = settings
        self._sealer = sealer
        self._batchers: dict[AgentModel, Batcher] = {}
        self._draining = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        for model in repository.models():
            self._batcher(model)

    async def act(
        self,
        request: Act,
        door: Door,
        timeout_s: float | None = None,
        caller: Caller = ANYONE,
    ) -> tuple[AgentModel, StepResult]:
        """Step one agent whose memory the caller carries.

        Args:
            timeout_s: what is left of the caller's own time; the service's limit holds besides.

        Raises:
            ServingError: of every kind but MalformedRequest, RequestTooLarge and the sessions'.
        """
        model = self.repository.resolve(request.model, request.version, bool(request.hidden))
        model.last_carried = time.monotonic()
        row, step = self._carried_row(model, request)
        (result,) = await self._run([(model, [row])], door, timeout_s, caller)
        return model, self._leaving(model, request.agent_id, result, step)

    async def act_many(
        self,
        requests: Sequence[Act],
        door: Door,
        timeout_s: float | None = None,
        caller: Caller = ANYONE,
    ) -> tuple[AgentModel, list[StepResult]]:
        """Step agents whose memories the caller carries: all of one model, all or none.

        Args:
            requests: one or more; the first one's `model` and `version` hold for all.

        Raises:
            RequestTooLarge: more rows than a message may have.
            ServingError: as `act`; one row's fault names the row.
        """
        self.check_rows(len(requests))
        begun = all(request.hidden for request in requests)
        model = self.repository.resolve(requests[0].model, requests[0].version, begun)
        model.last_carried = time.monotonic()
        rows, steps = [], []
        for place, request in enumerate(requests):
            try:
                row, step = self._carried_row(model, request)
            except ServingError as error:
                raise in_row(place, error) from None
            rows.append(row)
            steps.append(step)
        results = await self._run([(model, rows)], door, timeout_s, caller, many=True)
        return model, [
            self._leaving(model, request.agent_id, result, step)
            for request, result, step in zip(requests, results, steps, strict=True)
        ]

    def check_rows(self, n: int) -> None:
        """Raises: InvalidRequest if there are none, RequestTooLarge if there are too many."""
        if not n:
            raise InvalidRequest("rows", "there are no rows")
        limit = min(self._settings.max_rows, self._settings.max_queue)
        if n > limit:
            raise RequestTooLarge(f"there are {n} rows; one message takes at most {limit}")

    def begin(
        self,
        agent_id: int,
        model: str = "",
        version: int = 0,
        hidden: bytes = b"",
        last_action: int | None = None,
    ) -> Episode:
        """Begin an episode, or resume one from a memory.

        Arguments as in `Act`. Raises: ShuttingDown, InvalidRequest, NotFound, ModelNotReady.
        """
        self.check_accepting()
        found = self.repository.resolve(model, version, bool(hidden))
        memory = self._memory(found, agent_id, hidden, last_action)
        _check_last_action(found, memory.last_action)
        return Episode(found, agent_id, memory)

    async def step(
        self,
        episode: Episode,
        obs: bytes,
        avail_actions: bytes,
        door: Door,
        last_action: int | None = None,
        timeout_s: float | None = None,
        caller: Caller = ANYONE,
    ) -> StepResult:
        """Step a held episode. Unless this returns, its memory has not changed.

        Args:
            last_action: what the unit really did, if not what it was answered.

        Raises:
            SessionBusy: the episode's previous step still runs.
            InvalidRequest, Overloaded, DeadlineExceeded, ShuttingDown
        """
        row = self._held_row(Step(episode, obs, avail_actions, last_action))
        episode.busy = True
        try:
            (result,) = await self._run([(episode.model, [row])], door, timeout_s, caller)
        finally:
            episode.busy = False
        return self._remember(episode, result)

    @property
    def seals_memory(self) -> bool:
        """Whether carried memories are sealed tokens rather than float32 [H]."""
        return self._sealer is not None

    def add_model(self, model: AgentModel) -> None:
        """Make room for a model that the repository has installed."""
        self._batcher(model)

    def drop_finished(self) -> list[AgentModel]:
        """Let the retiring models go whose last episode has ended; returns them.

        An episode whose memory the caller carries counts as ended when no caller of its model has
        asked for as long as a session may stay idle.
        """
        too_old = time.monotonic() - self._settings.session_ttl_s
        finished = [
            model
            for model in self.repository.retiring()
            if not model.n_episodes and model.last_carried < too_old
        ]
        for model in finished:
            self.repository.forget(model)
            self.metrics.models.remove(self._batchers.pop(model).metrics)
        return finished

    async def step_many(
        self,
        steps: Sequence[Step],
        door: Door,
        timeout_s: float | None = None,
        caller: Caller = ANYONE,
    ) -> list[StepResult]:
        """Step held episodes, all or none. Unless this returns, no memory has changed.

        Args:
            steps: one or more, of as many episodes, which may be with different model versions.

        Raises:
            RequestTooLarge: more rows than a message may have.
            ServingError: as `step`; one row's fault names the row.
        """
        self.check_rows(len(steps))
        rows: dict[AgentModel, dict[int, Row]] = {}
        """By model, then place."""
        for place, step in enumerate(steps):
            try:
                rows.setdefault(step.episode.model, {})[place] = self._held_row(step)
            except ServingError as error:
                raise in_row(place, error) from None
        runs = [(model, list(its_rows.values())) for model, its_rows in rows.items()]
        for step in steps:
            step.episode.busy = True
        try:
            results = await self._run(runs, door, timeout_s, caller, many=True)
        finally:
            for step in steps:
                step.episode.busy = False
        if len(runs) > 1:
            places = [place for its_rows in rows.values() for place in its_rows]
            results = [result for _, result in sorted(zip(places, results, strict=True))]
        return [
            self._remember(step.episode, result)
            for step, result in zip(steps, results, strict=True)
        ]

    @property
    def ready(self) -> bool:
        """Whether new episodes are welcome."""
        return not self._draining and bool(self.repository.models())

    def check_accepting(self) -> None:
        """Raises: ShuttingDown"""
        if self._draining:
            raise ShuttingDown("the server is shutting down; try another replica")

    def check_backlog(self) -> None:
        """What a door asks before it reads a request, as reading costs more than a step: under
        many times the load that can be served there would be no time left to serve.

        Raises:
            Overloaded: as many rows wait, at all models, as may wait at one.
        """
        waiting = sum(batcher.n_rows for batcher in self._batchers.values())
        if waiting >= self._settings.max_queue:
            most = self._settings.max_queue
            raise Overloaded(f"{waiting} of at most {most} rows are waiting already")

    def drain(self) -> None:
        """Take nothing new from now on; what is running runs on."""
        self._draining = True

    async def drained(self) -> None:
        """Return when no step is running."""
        await self._idle.wait()

    def count_error(self, door: Door, error: BaseException) -> None:
        """Count a step that ended in an error. The doors call this, which see the last of it."""
        self.metrics.requests[door, error_code(error)] += 1

    async def _run(
        self,
        runs: Sequence[tuple[AgentModel, Sequence[Row]]],
        door: Door,
        timeout_s: float | None,
        caller: Caller,
        many: bool = False,
    ) -> list[StepResult]:
        """The results of all rows, in order; with `many`, a fault names the row."""
        self.check_accepting()
        limit = self._settings.step_timeout_s
        start = time.monotonic()
        deadline = start + (limit if timeout_s is None else min(timeout_s, limit))
        answers: list[asyncio.Future[Results]] = []
        self._in_flight += 1
        self._idle.clear()
        try:
            for model, rows in runs:
                answers.append(self._batcher(model).submit(rows, caller, deadline))
            if len(answers) == 1:  # nearly always
                results = await answers[0]
            else:
                results = [row for part in await asyncio.gather(*answers) for row in part]
        finally:
            for answer in answers:
                answer.cancel()  # those that are not there yet, if there was an error
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
        good = _good(results, many)
        self.metrics.seconds[door].observe(time.monotonic() - start)
        self.metrics.requests[door, "ok"] += len(good)
        return good

    def _batcher(self, model: AgentModel) -> Batcher:
        batcher = self._batchers.get(model)
        if batcher is None:
            batcher = Batcher(model, self._settings.max_batch, self._settings.max_queue)
            self._batchers[model] = batcher
            self.metrics.models.append(batcher.metrics)
        return batcher

    def _carried_row(self, model: AgentModel, request: Act) -> tuple[Row, int]:
        """The row, and how many steps will lie behind its result."""
        memory = self._memory(model, request.agent_id, request.hidden, request.last_action)
        row = self._row(model, request.agent_id, request.obs, request.avail_actions, memory)
        return row, memory.step + 1

    def _held_row(self, step: Step) -> Row:
        episode, memory = step.episode, step.episode.memory
        if episode.busy:
            raise SessionBusy("the session's previous step is still running")
        if step.last_action is not None:
            memory = memory._replace(last_action=step.last_action)
        return self._row(episode.model, episode.agent_id, step.obs, step.avail_actions, memory)

    def _remember(self, episode: Episode, result: StepResult) -> StepResult:
        """Keep what the episode's step has led to; returns the result as it may leave."""
        step = episode.memory.step + 1
        episode.memory = Memory(result.next_hidden, result.action, step)
        return self._leaving(episode.model, episode.agent_id, result, step)

    def _memory(
        self, model: AgentModel, agent_id: int, hidden: bytes, last_action: int | None
    ) -> Memory:
        """The memory that a caller has sent. Raises: AgentNotFound, InvalidRequest"""
        if not 0 <= agent_id < model.n_agents:
            raise AgentNotFound(f"{model.label} has agents 0 to {model.n_agents - 1}")
        if not hidden:
            return Memory(model.first_hidden, NO_ACTION if last_action is None else last_action, 0)
        if self._sealer is None:
            return _plain_memory(model, hidden, last_action)
        memory = self._sealer.open(model, agent_id, hidden)
        # What the unit really did, if not what it was answered; as in a held episode.
        return memory if last_action is None else memory._replace(last_action=last_action)

    def _leaving(
        self, model: AgentModel, agent_id: int, result: StepResult, step: int
    ) -> StepResult:
        """The result as it may leave the service: with its memory under seal, where there is one.

        Sealed here, even if nobody has asked for the memory, so that no door can forget to.
        """
        if self._sealer is None:
            return result
        memory = Memory(result.next_hidden, result.action, step)
        return result._replace(next_hidden=self._sealer.seal(model, agent_id, memory))

    def _row(
        self,
        model: AgentModel,
        agent_id: int,
        obs: bytes,
        avail_actions: bytes,
        memory: Memory,
    ) -> Row:
        """Check everything about a row but whether its numbers are finite, which the model does
        for a whole batch at once."""
        if len(obs) != model.obs_bytes:
            raise InvalidRequest(
                "obs",
                f"obs has {len(obs) / 4:g} values; {model.label} takes {model.obs_bytes // 4}",
            )
        if len(avail_actions) != model.n_actions:
            raise InvalidRequest(
                "avail_actions",
                f"avail_actions has {len(avail_actions)} values; "
                f"{model.label} takes {model.n_actions}",
            )
        if avail_actions.strip(b"\0\1"):
            raise InvalidRequest("avail_actions", "avail_actions has values other than 0 and 1")
        if 1 not in avail_actions:
            raise InvalidRequest("avail_actions", "avail_actions leaves no action to take")
        _check_last_action(model, memory.last_action)
        return Row(obs, avail_actions, memory.last_action, agent_id, memory.hidden)


def _good(results: Results, many: bool) -> list[StepResult]:
    """The results, if none is bad. Raises: InvalidRequest"""
    good: list[StepResult] = []
    for place, result in enumerate(results):
        if isinstance(result, BadRow):
            error = InvalidRequest(result.field, result.message)
            raise in_row(place, error) if many else error
        good.append(result)
    return good


def _check_last_action(model: AgentModel, last_action: int) -> None:
    if not NO_ACTION <= last_action < model.n_actions:
        raise InvalidRequest(
            "last_action",
            f"last_action must be {NO_ACTION} (none yet) to {model.n_actions - 1} "
            f"for {model.label}",
        )


def _plain_memory(model: AgentModel, hidden: bytes, last_action: int | None) -> Memory:
    if len(hidden) != model.hidden_bytes:
        raise InvalidRequest(
            "hidden",
            f"hidden has {len(hidden) / 4:g} values; {model.label} takes {model.hidden_bytes // 4}",
        )
    if last_action is None:
        raise InvalidRequest(
            "last_action", f"last_action is needed with hidden ({NO_ACTION} if there was none)"
        )
    return Memory(hidden, last_action, step=0)
