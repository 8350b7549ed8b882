"""What is asked of the service beside its peers, and whether a run has met it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

OURS = "batched"
"""The service, in the table."""
REST, UNARY, STREAM = "REST POST /agents/0/act", "gRPC Act", "gRPC ActStream"
OPEN_RATE = 400
"""Requests a second that every server can answer on a core of its own."""
OPEN = f"REST at {OPEN_RATE}/s, due or late"
"""The REST door under callers who do not wait for each other; latencies from when a request was
due."""
NAIVE = "naive FastAPI"
MANY = 64


@dataclass(frozen=True)
class Figure:
    """Medians over the rounds."""

    door: str
    server: str
    connections: int
    messages_per_s: float
    actions_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_action: float
    rows_per_run: float
    """0 where the server does not say."""


@dataclass(frozen=True)
class Start:
    """How one server started, and what it holds."""

    server: str
    start_s: float
    memory_mb: float
    processes: int


Kind = Literal["at least", "at most"]


@dataclass(frozen=True)
class Verdict:
    """One bar, and what was found."""

    what: str
    kind: Kind
    bar: float
    found: float | None
    """None: what it takes was not measured."""

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.bar if self.kind == "at least" else self.found <= self.bar


def compare(figures: Sequence[Figure], starts: Sequence[Start]) -> list[Verdict]:
    """Every bar. Ratios are of this run."""

    def rate(door: str, server: str) -> float | None:
        return _of(figures, door, server, MANY, lambda it: it.actions_per_s)

    def latency(door: str, server: str) -> float | None:
        return _of(figures, door, server, 1, lambda it: it.p50_ms)

    def beside(door: str, peer_door: str, peer: str) -> float | None:
        return _ratio(rate(door, OURS), rate(peer_door, peer))

    ours = next((it for it in starts if it.server == OURS), None)
    team = "gRPC TeamStream, {} rows over Triton's streams"
    return [
        Verdict("REST at 64 over Triton", "at least", 2.3, beside(REST, REST, "Triton")),
        Verdict("REST at 64 over naive FastAPI", "at least", 8, beside(REST, REST, NAIVE)),
        Verdict("REST at 64 over naive FastAPI, def", "at least", 8,
                beside(REST, REST, f"{NAIVE}, def")),
        Verdict("gRPC Act at 64 over Triton", "at least", 2, beside(UNARY, UNARY, "Triton")),
        Verdict("gRPC ActStream at 64 over Triton", "at least", 1.5,
                beside(STREAM, STREAM, "Triton")),
        Verdict(team.format(8), "at least", 5,
                beside("gRPC TeamStream, 8 rows", STREAM, "Triton")),
        Verdict(team.format(64), "at least", 25,
                beside("gRPC TeamStream, 64 rows", STREAM, "Triton")),
        Verdict("REST, one caller, p50 over Triton's", "at most", 0.6,
                _ratio(latency(REST, OURS), latency(REST, "Triton"))),
        Verdict("gRPC ActStream, one caller, p50 over Triton's", "at most", 0.6,
                _ratio(latency(STREAM, OURS), latency(STREAM, "Triton"))),
        Verdict("cold start, s", "at most", 1, None if ours is None else ours.start_s),
        Verdict("memory, MB", "at most", 100, None if ours is None else ours.memory_mb),
    ]  # fmt: skip


def _of(
    figures: Sequence[Figure],
    door: str,
    server: str,
    connections: int,
    number: Callable[[Figure], float],
) -> float | None:
    wanted = door, server, connections
    return next(
        (number(it) for it in figures if (it.door, it.server, it.connections) == wanted), None
    )


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    print("\n| asked | bar | found | |")
    print("|---|---|---|---|")
    for it in verdicts:
        found = "not measured" if it.found is None else f"{it.found:.2f}"
        word = {True: "met", False: "missed", None: ""}[it.met]
        print(f"| {it.what} | {it.kind} {it.bar:g} | {found} | {word} |")
