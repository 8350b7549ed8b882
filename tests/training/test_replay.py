"""The ring of episodes: what it holds, gives back, forgets and costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.episodes import make_episode, small_info
from training import replay
from training.replay import (
    ReplayBuffer,
    ReplaySize,
    ReplayTooLargeError,
    packed_rows,
    replay_size,
)
from training.types import Episode, EpisodeBatch

INFO = small_info(episode_limit=6)
# 3 agents * 6 features and 7 of the state at 2 bytes; 15 mask bits; 3 actions; a reward.
BYTES_PER_ROW = 2 * (18 + 7) + 2 + 3 + 4


def make_buffer(episodes: int = 4, rows: int | None = None, seed: int = 0) -> ReplayBuffer:
    size = replay_size(INFO, episodes)
    if rows is not None:
        size = ReplaySize(episodes, rows, size.bytes_per_row)
    return ReplayBuffer(INFO, size, np.random.default_rng(seed))


def episodes_of(*lengths: int, seed: int = 0) -> list[Episode]:
    rng = np.random.default_rng(seed)
    return [
        make_episode(INFO, length, rng, battle_id=100 + i, terminal=i % 2 == 0)
        for i, length in enumerate(lengths)
    ]


def unpack(batch: EpisodeBatch) -> list[dict[str, torch.Tensor]]:
    """The batch's episodes, each by itself, in the batch's order."""
    starts = np.cumsum([0, *batch.widths])
    unpacked = []
    for place, length in enumerate(batch.lengths):
        rows = torch.tensor([starts[t] + place for t in range(length + 1)])
        steps = torch.cat([(batch.step_rows == row).nonzero()[0] for row in rows[:-1]])
        unpacked.append(
            {
                "obs": batch.obs[rows],
                "state": batch.state[rows],
                "avail_actions": batch.avail_actions[rows],
                "actions": batch.actions[steps],
                "reward": batch.reward[steps],
                "terminal": batch.terminal[steps],
            }
        )
    return unpacked


def assert_is(unpacked: dict[str, torch.Tensor], episode: Episode) -> None:
    for name in ("obs", "state", "avail_actions", "actions", "reward"):
        expected = np.asarray(getattr(episode, name))
        assert np.array_equal(unpacked[name].numpy(), expected), name
    terminal = [False] * (episode.length - 1) + [episode.terminal]
    assert unpacked["terminal"].tolist() == terminal


def test_a_batch_gives_back_the_episodes_longest_first() -> None:
    episodes = episodes_of(2, 6, 1, 4)
    buffer = make_buffer()
    buffer.add(episodes)
    batch = buffer.gather(np.array([0, 1, 2, 3]))
    assert batch.lengths == (6, 4, 2, 1)
    # Observations at times 0, 1, ...: of all four, of all four, of three, of two, two, one, one.
    assert batch.widths == (4, 4, 3, 2, 2, 1, 1)
    assert batch.n_episodes == 4
    assert batch.n_steps == 13
    assert batch.obs.dtype == batch.state.dtype == torch.float32
    for unpacked, episode in zip(unpack(batch), [episodes[i] for i in (1, 3, 0, 2)], strict=True):
        assert_is(unpacked, episode)


def test_the_observation_after_step_k_is_row_b_plus_k() -> None:
    rows = packed_rows(np.array([4, 2, 1]))
    after = np.arange(7) + 3
    assert np.array_equal(rows.episode[after], rows.episode[rows.step_rows])
    assert np.array_equal(rows.time[after], rows.time[rows.step_rows] + 1)


def test_the_oldest_episode_leaves_when_there_are_too_many() -> None:
    buffer = make_buffer(episodes=3)
    buffer.add(episodes_of(2, 3, 4, 5, 6))
    assert [record.battle_id for record in buffer.records()] == [102, 103, 104]
    assert len(buffer) == 3
    assert buffer.n_steps == 4 + 5 + 6


def test_the_oldest_episodes_leave_when_the_ring_is_full() -> None:
    buffer = make_buffer(episodes=10, rows=12)
    buffer.add(episodes_of(2, 2, 2, 2))  # 3 rows each fill it
    assert len(buffer) == 4
    buffer.add(episodes_of(4, seed=1))  # 5 rows: two must go
    assert [record.length for record in buffer.records()] == [2, 2, 4]
    assert buffer.n_steps == 8


def test_episodes_that_go_on_at_the_rings_beginning_come_out_whole() -> None:
    buffer = make_buffer(episodes=3, rows=11)
    kept: list[Episode] = []
    for seed in range(20):
        (episode,) = episodes_of(1 + seed % 6, seed=seed)
        buffer.add([episode])
        kept.append(episode)
        held = kept[-len(buffer) :]
        order = sorted(range(len(held)), key=lambda i: -held[i].length)
        batch = buffer.gather(np.arange(len(held)))
        for unpacked, place in zip(unpack(batch), order, strict=True):
            assert_is(unpacked, held[place])


def test_what_is_stored_beside_an_episode_does_not_matter() -> None:
    """A batch of one episode is the same wherever it lies and whatever the rest of the ring is."""
    (episode,) = episodes_of(4)
    batches = []
    for before in (0, 3, 7):
        buffer = make_buffer(episodes=3, rows=20)
        buffer._obs.fill_(torch.nan)
        buffer._state.fill_(torch.nan)
        buffer._avail_actions.fill_(255)
        buffer.add(episodes_of(*([2] * before), seed=before))
        buffer.add([episode])
        batches.append(buffer.gather(np.array([len(buffer) - 1])))
    for batch in batches:
        (unpacked,) = unpack(batch)
        assert_is(unpacked, episode)


def test_samples_depend_on_the_episodes_held_and_the_generator_alone() -> None:
    old = make_buffer(episodes=4, rows=24)
    old.add(episodes_of(1, 2, 3, 4, 5, 6, 5, 4))
    for _ in range(3):
        old.sample(2)
    fresh = make_buffer(episodes=4, rows=24, seed=9)
    fresh.add(episodes_of(1, 2, 3, 4, 5, 6, 5, 4)[-len(old) :])
    assert [r.battle_id for r in fresh.records()] == [r.battle_id for r in old.records()]
    fresh.load_state_dict(old.state_dict())
    for _ in range(5):
        ours, theirs = fresh.sample(3), old.sample(3)
        assert ours.lengths == theirs.lengths
        for field in dataclasses.fields(EpisodeBatch):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_samples_are_distinct_and_reach_every_episode_equally() -> None:
    buffer = make_buffer(episodes=6)
    buffer.add(episodes_of(1, 2, 3, 4, 5, 6))
    counts = np.zeros(7)
    for _ in range(600):
        lengths = buffer.sample(2).lengths
        assert len(set(lengths)) == 2
        counts[list(lengths)] += 1
    # Each is drawn 200 times on average, with a standard deviation of sqrt(600 * 1/3 * 2/3) = 11.5.
    assert np.all(np.abs(counts[1:] - 200) < 5 * 11.5)


def test_sampling_more_than_is_held_is_refused() -> None:
    buffer = make_buffer()
    buffer.add(episodes_of(2))
    assert buffer.can_sample(1)
    assert not buffer.can_sample(2)
    with pytest.raises(ValueError, match="2 episodes wanted of 1 held"):
        buffer.sample(2)


@pytest.mark.parametrize("length", [0, 7])
def test_an_episode_of_impossible_length_is_refused(length: int) -> None:
    rng = np.random.default_rng(0)
    episode = make_episode(small_info(), length, rng, battle_id=5)
    with pytest.raises(ValueError, match=f"battle 5 has {length} steps; expected 1 to 6"):
        make_buffer().add([episode])


def test_records_are_enough_to_play_the_battles_again() -> None:
    episodes = episodes_of(2, 5)
    buffer = make_buffer()
    buffer.add(episodes)
    for record, episode in zip(buffer.records(), episodes, strict=True):
        assert (record.battle_id, record.length) == (episode.battle_id, episode.length)
        assert np.array_equal(record.actions, episode.actions)
        assert record.episode_return == episode.episode_return
        assert not np.shares_memory(record.actions, episode.actions)


def test_size_is_the_bytes_that_are_allocated() -> None:
    size = replay_size(INFO, 10)
    assert size.bytes_per_row == BYTES_PER_ROW
    assert size.total_bytes == 10 * 7 * BYTES_PER_ROW
    buffer = ReplayBuffer(INFO, size, np.random.default_rng(0))
    rings = (buffer._obs, buffer._state, buffer._avail_actions, buffer._actions, buffer._reward)
    assert sum(ring.numel() * ring.element_size() for ring in rings) == size.total_bytes


def test_3s5z_takes_at_most_a_gigabyte_for_5000_episodes() -> None:
    info = dataclasses.replace(
        INFO, n_agents=8, n_actions=14, obs_dim=128, state_dim=216, episode_limit=150
    )
    size = replay_size(info, 5000)
    assert size.bytes_per_row == 2 * (8 * 128 + 216) + 14 + 8 + 4 == 2506
    assert size.total_bytes <= 1_000_000_000
    assert size.step_capacity / 5000 > 75  # more than an average battle takes
    assert str(size) == (
        "replay: 1.00 GB for 5,000 episodes or 399,042 steps, whichever comes first, "
        "at 2,506 bytes a step"
    )


def test_a_budget_for_less_than_one_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="do not hold one episode of 7 rows"):
        replay_size(INFO, 10, max_bytes=6 * BYTES_PER_ROW)
    with pytest.raises(ValueError, match="0 episodes"):
        replay_size(INFO, 0)


def test_more_memory_than_there_is_is_refused_with_a_hint() -> None:
    size = ReplaySize(5000, 10**12, 2506)
    with pytest.raises(ReplayTooLargeError, match=r"2506\.00|2,506.*Make buffer_size smaller"):
        ReplayBuffer(INFO, size, np.random.default_rng(0))


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(replay, "CONTROL_GROUP", tmp_path)
    with pytest.raises(ReplayTooLargeError, match=r"0\.00 GB are available"):
        ReplayBuffer(INFO, ReplaySize(100, 20_000, 59), np.random.default_rng(0))
    (tmp_path / "memory.max").write_text("max\n")
    ReplayBuffer(INFO, ReplaySize(100, 20_000, 59), np.random.default_rng(0))


def test_a_batch_moves_with_all_its_tensors() -> None:
    buffer = make_buffer()
    buffer.add(episodes_of(3, 2))
    moved = buffer.sample(2).to(torch.device("meta"))
    tensors = [getattr(moved, field.name) for field in dataclasses.fields(EpisodeBatch)]
    devices = {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)}
    assert devices == {"meta"}
    assert moved.lengths == (3, 2)
