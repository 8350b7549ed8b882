"""A unit's policy in its own process: the service's checks, and the service's actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.client import Checkpoint, LocalAgent, ServingClientError
from serving.errors import ModelInvalid
from serving.models.repository import load_model

FOLDER = Path(__file__).parents[2] / "models" / "3m" / "1"
OBS, MASK = np.zeros(30, np.float32), np.array([0, 1, 1, 1, 1, 1, 0, 0, 0], np.bool_)


def test_it_repeats_the_golden_episode_of_the_model() -> None:
    """Which the exporter took from torch's network."""
    golden = load_model(FOLDER).manifest.golden
    for row in golden.rows:
        agent = LocalAgent(FOLDER, row.agent_id)
        if row.last_action >= 0:
            hidden = np.array(row.hidden, "<f4").tobytes()
            agent.resume(Checkpoint(1, hidden, row.last_action))
        assert agent.act(row.obs, row.avail_actions) == row.action


def test_begin_episode_forgets() -> None:
    agent = LocalAgent(FOLDER, 0)
    agent.act(OBS, MASK)
    first = agent.checkpoint
    agent.act(OBS + 1, MASK)
    assert agent.checkpoint != first
    agent.begin_episode()
    assert agent.checkpoint is None
    agent.act(OBS, MASK)
    assert agent.checkpoint == first


@pytest.mark.parametrize(
    ("obs", "mask", "fault"),
    [
        (OBS[:-1], MASK, r"obs: 30 values are expected, not \[29\]"),
        (OBS, MASK[:-1], r"avail_actions: 9 values are expected, not \[8\]"),
        (OBS, MASK & False, "avail_actions: none is available"),
        (OBS * np.nan, MASK, "obs"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_memory_alone(
    obs: np.ndarray, mask: np.ndarray, fault: str
) -> None:
    agent = LocalAgent(FOLDER, 0)
    agent.act(OBS, MASK)
    before = agent.checkpoint
    with pytest.raises(ServingClientError, match=fault) as error:
        agent.act(obs, mask)
    assert error.value.status == "INVALID_ARGUMENT"
    assert agent.checkpoint == before


def test_an_agent_that_the_model_does_not_have() -> None:
    with pytest.raises(ValueError, match="3m version 1 has agents 0 to 2, not 3"):
        LocalAgent(FOLDER, 3)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid):
        LocalAgent(tmp_path, 0)
