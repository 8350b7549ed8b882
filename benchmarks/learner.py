"""One gradient step of QMIX on 3s5z sizes: the learner against the padded GRUCell loop.

    python -m benchmarks.learner [--threads 1 2] [--rounds 20] [--json PATH]

Both take the same batches of 32 episodes in turn, in one process, and each measurement is a median.
"even" lengths are uniform in 30 to 60 steps; "early" are as in the first hour of a run: one
episode of 150 steps, the others of 35 to 65. Before timing, both must give the same loss and
gradients. Machines drift: read the ratio, not the milliseconds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.padded_loop import LoopLearner, PaddedBatch, pad
from training.algorithms.q_learner import QLearner
from training.allocator import keep_freed_memory
from training.config import LearningConfig
from training.replay import ReplayBuffer, replay_size
from training.types import EnvInfo, Episode, EpisodeBatch

RESULTS = Path(__file__).parent / "results" / "learner.json"
N_EPISODES = 32
N_BATCHES = 4
LENGTHS = ("even", "early")
# The sizes of SMAC's 3s5z.
INFO = EnvInfo(
    name="benchmark",
    map_name="3s5z",
    n_agents=8,
    n_enemies=8,
    n_actions=14,
    obs_dim=128,
    state_dim=216,
    episode_limit=150,
    unit_types=("stalker",) * 3 + ("zealot",) * 5,
    continuing_episode=False,
    layout_sha256="0" * 64,
)


@dataclass(frozen=True)
class Options:
    """Time one gradient step against the usual padded loop."""

    threads: tuple[int, ...] = (1, 2)
    """Torch's threads; one table row each."""
    rounds: int = 20
    """Timed steps of each learner per row."""
    json: Path = field(default=RESULTS)
    """Where the figures are written."""


@dataclass(frozen=True)
class Row:
    """One line of the table; milliseconds are medians."""

    lengths: str
    threads: int
    mean_length: float
    learner_ms: float
    loop_ms: float
    sample_ms: float
    """Drawing a batch from the replay; not part of `learner_ms`."""

    @property
    def ratio(self) -> float:
        return self.learner_ms / self.loop_ms


def draw_lengths(kind: str, rng: np.random.Generator) -> list[int]:
    if kind == "even":
        return [60, *rng.integers(30, 61, N_EPISODES - 1).tolist()]
    return [150, *rng.integers(35, 66, N_EPISODES - 1).tolist()]


def random_episode(length: int, rng: np.random.Generator) -> Episode:
    """Random numbers of 3s5z's sizes, half of the actions available."""
    n_agents, n_actions = INFO.n_agents, INFO.n_actions
    actions = rng.integers(0, n_actions, (length, n_agents)).astype(np.uint8)
    avail_actions = rng.random((length + 1, n_agents, n_actions)) < 0.5
    avail_actions[:, :, 0] = True
    np.put_along_axis(avail_actions[:-1], actions[:, :, None].astype(np.int64), True, 2)
    return Episode(
        battle_id=0,
        obs=rng.uniform(-1, 1, (length + 1, n_agents, INFO.obs_dim)).astype(np.float16),
        state=rng.uniform(-1, 1, (length + 1, INFO.state_dim)).astype(np.float16),
        avail_actions=avail_actions,
        actions=actions,
        reward=rng.uniform(0, 1, length).astype(np.float32),
        terminal=True,
        battle_won=False,
        dead_allies=0,
        dead_enemies=0,
    )


def make_batches(kind: str, seed: int) -> list[EpisodeBatch]:
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(N_BATCHES):
        buffer = ReplayBuffer(INFO, replay_size(INFO, N_EPISODES), rng)
        buffer.add(random_episode(length, rng) for length in draw_lengths(kind, rng))
        batches.append(buffer.gather(np.arange(N_EPISODES)))
    return batches


def check_equal(learner: QLearner, loop: LoopLearner, batch: EpisodeBatch) -> None:
    """Raises: AssertionError: the two give another loss or other gradients."""
    loss, _ = learner.loss(batch)
    loop_loss = loop.loss(pad(batch))
    for value in (loss, loop_loss):
        value.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, loop_loss, rtol=1e-4, atol=1e-6)
    ours, theirs = learner.gradients(), loop.gradients()
    for name in theirs:
        scale = float(theirs[name].abs().max())
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4 * scale, msg=name)


def measure(kind: str, threads: int, rounds: int) -> Row:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    learner = QLearner(INFO, "qmix", LearningConfig(), torch.device("cpu"))
    loop = LoopLearner(learner)
    batches = make_batches(kind, seed=1)
    check_equal(learner, loop, batches[0])
    padded: list[PaddedBatch] = [pad(batch) for batch in batches]
    times: dict[str, list[float]] = {"learner": [], "loop": []}
    for i in range(-2, rounds):  # the first two warm up
        batch, padded_batch = batches[i % N_BATCHES], padded[i % N_BATCHES]
        ours = _seconds(lambda batch=batch: learner.train(batch, n_episodes=0))  # type: ignore[misc]
        theirs = _seconds(lambda batch=padded_batch: loop.train(batch))  # type: ignore[misc]
        if i >= 0:
            times["learner"].append(ours)
            times["loop"].append(theirs)
    return Row(
        lengths=kind,
        threads=threads,
        mean_length=float(np.mean([batch.lengths for batch in batches])),
        learner_ms=1e3 * statistics.median(times["learner"]),
        loop_ms=1e3 * statistics.median(times["loop"]),
        sample_ms=1e3 * _sample_seconds(kind, rounds),
    )


def _sample_seconds(kind: str, rounds: int) -> float:
    """Median time to draw a batch of 32 out of 256 episodes."""
    rng = np.random.default_rng(2)
    buffer = ReplayBuffer(INFO, replay_size(INFO, 256), rng)
    for _ in range(8):
        buffer.add(random_episode(length, rng) for length in draw_lengths(kind, rng))
    return statistics.median(_seconds(lambda: buffer.sample(N_EPISODES)) for _ in range(rounds))


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main(options: Options) -> None:
    keep_freed_memory()  # as a run does
    print("lengths  threads  mean length  learner ms  padded loop ms  ratio  sample ms")
    rows = []
    for kind in LENGTHS:
        for threads in options.threads:
            row = measure(kind, threads, options.rounds)
            rows.append(row)
            print(
                f"{row.lengths:7}  {row.threads:7}  {row.mean_length:11.1f}  {row.learner_ms:10.1f}"
                f"  {row.loop_ms:14.1f}  {row.ratio:5.2f}  {row.sample_ms:9.1f}"
            )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        "torch": torch.__version__,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
