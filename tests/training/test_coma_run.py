"""A whole run of COMA: each battle learned from once, exact resume, an artifact like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from serving.models.manifest import parse_manifest
from tests.training.runs import metrics, run, training, weights_sha256
from training import evaluate, export
from training.actor import LocalActor, Order, Result
from training.checkpoint import load_last
from training.config import TrainConfig, load_preset, with_values
from training.run_folder import RunFolder
from training.types import EpisodeBatch

SMALL: dict[str, Any] = {
    "env": "two_step",
    "rnn_hidden_dim": 8,
    "optimizer": "adam",
    "lr": 0.01,
    "critic_lr": 0.01,
    "target_update_interval": 20,
    "epsilon_anneal_time": 500,
    "test_interval": 128,
    "test_nepisode": 4,
    "confirm_nepisode": 4,
    "log_interval": 64,
    "t_max": 400,
}


def small_coma(**values: Any) -> TrainConfig:
    """A run on the two-step game of a second or two."""
    return with_values(load_preset("coma"), SMALL | values, source="test")


def test_same_seed_same_run_also_with_a_playing_process(tmp_path: Path) -> None:
    run(small_coma(), tmp_path / "one")
    run(small_coma(), tmp_path / "process", process=True)
    run(small_coma(seed=2), tmp_path / "other")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "process")
    assert metrics(tmp_path / "one") != metrics(tmp_path / "other")
    assert weights_sha256(tmp_path / "one") == weights_sha256(tmp_path / "process")


@pytest.mark.parametrize("parallel", [1, 8])
def test_every_battle_is_played_with_one_set_of_weights_and_learned_from_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    config = small_coma(batch_size_run=parallel, t_max=160)
    played: list[tuple[int, torch.Tensor]] = []  # battle, and the weights that played it
    learned: list[tuple[int, torch.Tensor]] = []  # and those that learned from it
    finish = LocalActor.finish

    def watched_finish(actor: LocalActor, stop: Any) -> Result:
        order: Order = actor._order
        result = finish(actor, stop)
        weight = order.weights["fc2.weight"].clone()
        played.extend((episode.battle_id, weight) for episode in result.episodes)
        return result

    monkeypatch.setattr(LocalActor, "finish", watched_finish)
    with training(config, tmp_path) as trainer:
        train = trainer.learner.train

        def watched_train(batch: EpisodeBatch, n_episodes: int) -> dict[str, torch.Tensor]:
            weight = trainer.learner.agent.fc2.weight.detach().clone()
            assert batch.n_episodes == 8
            learned.extend((record.battle_id, weight) for record in trainer.replay.records())
            return train(batch, n_episodes)

        monkeypatch.setattr(trainer.learner, "train", watched_train)
        trainer.run()
    # 160 steps are 80 games in ten batches; the last is not learned from, as none follows.
    assert [battle for battle, _ in played] == list(range(80))
    assert [battle for battle, _ in learned] == list(range(72))
    for (_, one), (_, other) in zip(played, learned, strict=False):
        assert torch.equal(one, other)
    assert not torch.equal(played[0][1], played[8][1])


def test_it_holds_one_batch_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with training(small_coma(), tmp_path) as trainer:
        assert trainer.replay.size.episode_capacity == 8
        trainer.metrics.close()
    said = capsys.readouterr().err
    assert "on-policy: battles in batches of 8, each learned from once" in said
    assert "replay" not in said


def test_a_longer_run_goes_on_as_if_it_had_never_ended(tmp_path: Path) -> None:
    run(small_coma(), tmp_path / "whole")
    for t_max in (100, 101, 400):
        run(small_coma(t_max=t_max), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert weights_sha256(tmp_path / "parts") == weights_sha256(tmp_path / "whole")


def test_stopped_within_a_round_it_goes_on_from_the_one_before(tmp_path: Path) -> None:
    run(small_coma(), tmp_path / "whole")
    left = iter(range(21))
    stop = lambda: next(left, None) is None  # noqa: E731
    assert run(small_coma(), tmp_path / "parts", stop=stop) == "a signal"
    state = load_last(RunFolder(tmp_path / "parts"))
    assert state is not None
    assert 0 < state["counts"]["env_steps"] < 400
    run(small_coma(), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert weights_sha256(tmp_path / "parts") == weights_sha256(tmp_path / "whole")


def test_battles_of_the_simulator_go_on_too(tmp_path: Path) -> None:
    values = {"env": "skirmish", "map_name": "3m", "compile_env": False, "batch_size_run": 3}
    values |= {"batch_size": 4, "t_max": 180, "test_interval": 100, "test_nepisode": 1}
    config = small_coma(**values)
    run(config, tmp_path / "whole")
    run(with_values(config, {"t_max": 90}, "test"), tmp_path / "parts")
    run(config, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert weights_sha256(tmp_path / "parts") == weights_sha256(tmp_path / "whole")


def test_its_agent_is_evaluated_and_exported_as_any_other(tmp_path: Path) -> None:
    run(small_coma(map_name="two_step"), tmp_path / "runs" / "mine")
    models, runs_dir = tmp_path / "models", tmp_path / "runs"
    folder = export.main(export.Command("mine", "game", models, episodes=10, runs_dir=runs_dir))
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    assert manifest.algorithm == "coma"
    assert manifest.training.command.startswith("python -m training.train --preset coma ")
    card = " ".join((folder / "MODEL_CARD.md").read_text().split())
    assert "trained with COMA in" in card
    assert "nothing of the critic is in the file" in card
    assert "not values: the logits of the policy that was trained" in card
    plays = [
        evaluate.run(evaluate.Command(str(policy), "two_step", 8, env="two_step"))
        for policy in (runs_dir / "mine", folder)
    ]
    assert plays[0].actions_sha256 == plays[1].actions_sha256


def test_rows_have_pymarl_names(tmp_path: Path) -> None:
    run(small_coma(), tmp_path)
    (*_, last) = [row for row in metrics(tmp_path) if "episode" in row]
    names = {"coma_loss", "agent_grad_norm", "advantage_mean", "pi_max", "critic_loss"}
    names |= {"critic_grad_norm", "td_error_abs", "q_taken_mean", "target_mean"}
    assert names <= set(last)
    assert last["gradient_steps"] == last["episode"] / 8 - 1
    assert last["buffer_episodes"] == 8


def test_its_return_rises_to_that_of_the_safe_choice_at_least(tmp_path: Path) -> None:
    """The two-step game played at random pays (7 + 2.5) / 2 = 4.75."""
    run(small_coma(t_max=1600, rnn_hidden_dim=32), tmp_path)
    rows = metrics(tmp_path)
    first = next(row for row in rows if "return_mean" in row)
    assert first["return_mean"] < 6.5
    assert rows[-1]["test_return_mean"] >= 7.0
