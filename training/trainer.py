"""The training loop: play, learn, receive, report, round by round.

In a round the actor plays `round_steps` steps of each battle with the weights of the last round's
end, while the learner takes the gradient steps due for the episodes of earlier rounds. Then they
exchange. On-policy they take turns: the learner trains on the last round's battles, then the actor
plays a batch of whole battles with the weights of that moment. Nothing in a round depends on the
clock, so a run repeats to the bit on a CPU; the clock decides only when a checkpoint is written,
and when to stop.

Between two rounds everything that the next one needs is at hand. That snapshot is what checkpoints
are made of, also when a signal or an error breaks the next round off.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from training import checkpoint
from training.actor import Actor, ActorError, Order, Result, StoppedError, TestOrder, TestResult
from training.algorithms import ALGORITHMS
from training.algorithms.coma import COMALearner
from training.algorithms.learner import Learner, NonFiniteLossError
from training.algorithms.q_learner import QLearner
from training.config import ConfigError, TrainConfig
from training.curve import draw_curve
from training.envs import GAMES, GameError, make_env, map_label
from training.envs.base import BatchedEnv
from training.exploration import LinearSchedule
from training.metrics import (
    MetricsLog,
    Row,
    battle_scalars,
    mean_scalars,
    read_metrics,
    scalars_of_test,
)
from training.pace import Counts, GradientSchedule, OnceEachSchedule, Speed, crossed
from training.progress import Progress, spell_seconds
from training.replay import ReplayBuffer, ReplaySize, replay_size
from training.rollout import TEST_BATTLES, rebuild_episodes
from training.run_folder import RunFolder
from training.types import BattleRecord, EnvInfo

CURVE_SECONDS = 120.0  # between pictures of the learning curve
SETTLING_SECONDS = 5.0  # of learning, before the time that the run will take is estimated
STOPPED = "a signal"


@dataclass
class SinceReport:
    """What the next report will average."""

    battles: list[BattleRecord] = field(default_factory=list)
    learning: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One run, from its first round or its last checkpoint to a stop rule or a signal.

    Args:
        actor: started; the caller closes it.
        stop: turns true when the run is to be broken off.
        started: `time.monotonic()` when the program was started.
        saved: a checkpoint's state to go on from.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        info: EnvInfo,
        device: str,
        actor: Actor,
        progress: Progress,
        stop: Callable[[], bool],
        started: float,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.folder, self.info, self.device = config, folder, info, device
        self.actor, self.progress, self.stop = actor, progress, stop
        play, seed = config.play, config.task.seed
        self.on_policy = ALGORITHMS[config.task.algo].on_policy
        # Environment steps, at least. On-policy a round is a batch of battles, whatever it takes.
        self.round_size = 1 if self.on_policy else play.round_steps * play.batch_size_run
        self.schedule = learning_schedule(config)
        self.epsilon = epsilon_schedule(config)
        torch.manual_seed(seed)
        self.learner = build_learner(config, info, torch.device(device))
        size = memory_size(config, info)
        progress.say(introduction(config, info, device, size))
        self.replay = ReplayBuffer(info, size, np.random.default_rng(seed), device)
        self.counts, self.since_report = Counts(), SinceReport()
        self.best: checkpoint.State | None = None
        self._testing = False
        self._game_restarts: int | None = None
        self._forgone = 0  # gradient steps due when a replay was lost
        self._unsaved: checkpoint.State | None = None
        cursor = self._restore(saved) if saved is not None else 0
        self._write_best()
        self.metrics = MetricsLog(folder.metrics, folder.tensorboard, cursor, self.counts.env_steps)
        self.speed = Speed(started, self.counts)
        self._estimated = False
        self._saved_at = self._drawn_at = time.monotonic()

    # ---------------------------------------------------------------- the loop

    def run(self) -> str:
        """Train until a stop rule holds. Returns which, in words.

        Raises:
            NonFiniteLossError, ActorError, GameError: after a checkpoint of the last good round.
        """
        try:
            while not (reason := self._reason_to_end()):
                self._play_a_round()
            self._save()
            self._conclude()
        except StoppedError:
            reason = STOPPED
            self._save()
        except (NonFiniteLossError, ActorError, GameError):
            self._save()
            raise
        finally:
            self.metrics.close()
        self._draw()
        return reason

    def _play_a_round(self) -> None:
        if self.on_policy:  # no battle may be played with weights that have yet to learn
            self._learn()
        n_test_steps = None if self.on_policy else self.config.play.round_steps
        order = self._order(self.round_size, self._test_is_due(), n_test_steps)
        self.actor.begin(order)
        if not self.on_policy:
            self._learn()
        result = self.actor.finish(self.stop)
        self._receive(result)
        self._unsaved = self._snapshot(result)
        self._save_and_draw_now_and_then()
        self._tell()

    def _order(self, n_env_steps: int, test: bool, n_test_steps: int | None = None) -> Order:
        """Play so many steps with the present weights, and perhaps begin a test of them. A test
        takes as many rounds as it needs where the actor has time to spare for its steps."""
        weights = {k: v.detach().clone() for k, v in self.learner.agent.state_dict().items()}
        return Order(weights, n_env_steps, self._test_order() if test else None, n_test_steps)

    def _learn(self) -> None:
        """Take the gradient steps due for the episodes received so far."""
        due = self.schedule.due(self.counts.episodes) - self._forgone
        while self.counts.gradient_steps < due:
            if self.stop():
                raise StoppedError
            self.counts.gradient_steps += 1
            n_episodes = self.schedule.episodes_at(self.counts.gradient_steps + self._forgone)
            batch = self.replay.sample(self.config.learning.batch_size)
            scalars = self.learner.train(batch, n_episodes)
            values = torch.stack(list(scalars.values())).tolist()
            self.since_report.learning.append(dict(zip(scalars, values, strict=True)))

    def _receive(self, result: Result) -> None:
        before = self.counts.env_steps
        self.replay.add(result.episodes)
        self.since_report.battles += [episode.record for episode in result.episodes]
        self.counts.env_steps += result.n_env_steps
        self.counts.episodes += len(result.episodes)
        self.counts.seconds = self.speed.seconds()
        self._game_restarts = result.game_restarts
        if result.n_env_steps:
            self.speed.mark(self.counts.env_steps)
        if result.test is not None:
            self._receive_test(result.test)
        if crossed(self.config.report.log_interval, before, self.counts.env_steps):
            self._report()

    def _reason_to_end(self) -> str:
        """The stop rule that holds, in words; empty if none does."""
        rules = self.config.stop
        if self._goal_is_reached():
            fresh = self.config.report.confirm_nepisode
            return f"{self._best_win_rate():.1%} of {fresh} fresh battles won"
        if self.counts.env_steps >= rules.t_max:
            return f"{self.counts.env_steps:,} environment steps"
        if rules.minutes is not None and self.speed.seconds_here() >= 60 * rules.minutes:
            return f"{rules.minutes:g} minutes"
        return ""

    def _goal_is_reached(self) -> bool:
        goal = self.config.stop.until_win_rate
        return goal is not None and self.best is not None and self._best_win_rate() >= goal

    def _conclude(self) -> None:
        """Report what is left and test the final weights.

        After the last checkpoint: a longer run that goes on from there would not have done it.
        """
        if self.since_report.battles:
            self._report()
        if not self._goal_is_reached():
            self.actor.begin(self._order(0, test=True))
            self._receive(self.actor.finish(self.stop))

    # ------------------------------------------------------- tests and reports

    def _test_is_due(self) -> bool:
        interval, counts = self.config.report.test_interval, self.counts
        return not self._testing and crossed(interval, counts.tested_at, counts.env_steps)

    def _test_order(self) -> TestOrder:
        """A test is confirmed if as many are won as by the best so far, or as the goal wants."""
        counts, report, goal = self.counts, self.config.report, self.config.stop.until_win_rate
        counts.tested_at = counts.env_steps
        self._testing = True
        return TestOrder(
            env_steps=counts.env_steps,
            episodes=counts.episodes,
            gradient_steps=counts.gradient_steps,
            first_battle=TEST_BATTLES + counts.test_battles,
            n_battles=report.test_nepisode,
            confirm_from=min(self._best_win_rate(), 1.0 if goal is None else goal),
            confirm_battles=report.confirm_nepisode,
        )

    def _receive_test(self, test: TestResult) -> None:
        """Write the test down, and keep the tested weights if they are the best so far."""
        self._testing = False
        self.counts.test_battles += len(test.tested) + len(test.confirmed)
        row: Row = {"t_env": test.order.env_steps, **scalars_of_test(test.tested, "test_")}
        if test.confirmed:
            row |= scalars_of_test(test.confirmed, "confirm_")
        self._write(row)
        if row.get("confirm_battle_won_mean", 0.0) > self._best_win_rate():
            self.best = self._agent_state(test.weights, test.order, test.confirmed)
            self._write_best()

    def _best_win_rate(self) -> float:
        return float(self.best["counters"]["win_rate"]) if self.best is not None else 0.0

    def _report(self) -> None:
        counts, fresh = self.counts, self.since_report
        self.since_report = SinceReport()
        self._write(
            {
                "t_env": counts.env_steps,
                "episode": counts.episodes,
                "gradient_steps": counts.gradient_steps,
                "epsilon": self.epsilon(counts.env_steps),
                "buffer_episodes": len(self.replay),
                **battle_scalars(fresh.battles),
                **mean_scalars(fresh.learning),
                **self._of_the_game(),
            }
        )

    def _of_the_game(self) -> Row:
        """Where a game is played: which, and how often one has broken off."""
        if self._game_restarts is None:
            return {}
        return {"game_version": self.info.game_version, "game_restarts": self._game_restarts}

    def _write(self, row: Row) -> None:
        row["seconds"] = round(self.counts.seconds, 1)
        row["steps_per_second"] = round(self.speed.steps_per_second(), 1)
        self.metrics.write(row)
        self.progress.report(row)

    def _tell(self) -> None:
        speed, left = self.speed.steps_per_second(), self._seconds_left()
        self.progress.tick(self.counts.env_steps, speed, left)
        settled = self.counts.gradient_steps > 0 and self.speed.seconds_here() > SETTLING_SECONDS
        if settled and not self._estimated and left is not None:
            self._estimated = True
            self.progress.say(f"about {spell_seconds(left)} to go, at {speed:,.0f} steps/s")

    def _seconds_left(self) -> float | None:
        """Until a stop rule holds at the present speed; a win rate is not foreseen."""
        speed, rules = self.speed.steps_per_second(), self.config.stop
        if not speed:
            return None
        by_steps = (rules.t_max - self.counts.env_steps) / speed
        by_clock = float("inf") if rules.minutes is None else 60 * rules.minutes
        return max(0.0, min(by_steps, by_clock - self.speed.seconds_here()))

    def _draw(self) -> None:
        task = self.config.task
        title = f"{ALGORITHMS[task.algo].title} on {map_label(task.map_name)}"
        draw_curve(read_metrics(self.folder.metrics), self.folder.curve, title)
        self._drawn_at = time.monotonic()

    # ------------------------------------------------------------- checkpoints

    def _snapshot(self, result: Result) -> checkpoint.State:
        """Everything that the next round needs; nothing in it will change."""
        learner = copy.deepcopy(self.learner.state_dict())
        return {
            **self._agent_state(learner["agent"], self.counts, []),
            "learner": learner,
            "actor": result.state,
            "replay": self.replay.state_dict(),
            "records": self.replay.records(),
            "counts": dataclasses.asdict(self.counts),
            "battles_to_report": list(self.since_report.battles),
            "learning_to_report": list(self.since_report.learning),
            "best": self.best,
            "metrics_cursor": self.metrics.cursor,
            "software": software(self.device),
        }

    def _restore(self, saved: Mapping[str, Any]) -> int:
        """Go on from a checkpoint. Returns how much of metrics.jsonl it counts on, in bytes."""
        self._warn_of_other_software(saved["software"])
        self.learner.load_state_dict(saved["learner"])
        self.counts = Counts(**saved["counts"])
        records = checkpoint.records_from_state(saved["records"])
        if self.info.name in GAMES:
            self._go_on_without(records)
        else:
            self._refill_replay(records)
        self.replay.load_state_dict(saved["replay"])
        self.since_report = SinceReport(
            checkpoint.records_from_state(saved["battles_to_report"]), saved["learning_to_report"]
        )
        self.best = saved["best"]
        self._testing = saved["actor"]["test"] is not None
        return int(saved["metrics_cursor"])

    def _write_best(self) -> None:
        """Bring the best agent's file in line with the checkpoint, which it may be ahead of."""
        if self.best is not None:
            checkpoint.save(self.best, self.folder.best)
        else:
            self.folder.best.unlink(missing_ok=True)

    def _go_on_without(self, records: list[BattleRecord]) -> None:
        """A game's battles cannot be played again: learning waits until the replay holds a batch,
        and takes no more steps then than if it had not."""
        until = self.counts.episodes + self.config.learning.batch_size
        self._forgone = self.schedule.due(until - 1) - self.counts.gradient_steps
        self.progress.say(
            f"the replay begins empty: its {len(records):,} battles of a game cannot be played "
            f"again. Learning goes on after {self.config.learning.batch_size} new ones"
        )

    def _refill_replay(self, records: list[BattleRecord]) -> None:
        """Play the replay's battles again: checkpoints hold their numbers and actions alone."""
        task, count = self.config.task, len(records)

        def make(n_envs: int) -> BatchedEnv:
            return make_env(
                task.env,
                task.map_name,
                n_envs,
                task.seed,
                self.device,
                self.config.play.compile_env,
                **task.env_args,
            )

        rebuilt = rebuild_episodes(make, records, self.config.play.batch_size_run)
        for done, episode in enumerate(rebuilt, start=1):
            self.replay.add([episode])
            self.progress.wait(f"playing {count:,} logged battles again: {done / count:.0%}")
            if self.stop():
                raise StoppedError

    def _warn_of_other_software(self, then: Mapping[str, str]) -> None:
        now = software(self.device)
        changes = [f"{name} {then.get(name)} -> {now[name]}" for name in now]
        changes = [c for c, name in zip(changes, now, strict=True) if then.get(name) != now[name]]
        if changes:
            what = ", ".join(changes)
            self.progress.say(f"changed since the checkpoint: {what}; results may differ by bits")

    def _save_and_draw_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._saved_at >= self.config.report.checkpoint_seconds:
            self._save()
        if now - self._drawn_at >= CURVE_SECONDS:
            self._draw()

    def _save(self) -> None:
        """Write the last round's snapshot, unless it is written already."""
        if self._unsaved is None:
            return
        state, self._unsaved = self._unsaved, None
        for battles in ("records", "battles_to_report"):
            state[battles] = checkpoint.records_to_state(state[battles])
        self.metrics.sync()
        checkpoint.save_last(self.folder, state, state["counts"]["env_steps"])
        self._saved_at = time.monotonic()

    def _agent_state(
        self,
        weights: Mapping[str, torch.Tensor],
        of: Counts | TestOrder,
        tested: list[BattleRecord],
    ) -> checkpoint.State:
        wins = sum(battle.battle_won for battle in tested)
        counters = {
            "env_steps": of.env_steps,
            "episodes": of.episodes,
            "gradient_steps": of.gradient_steps,
            "win_rate": wins / len(tested) if tested else None,
            "win_rate_episodes": len(tested),
        }
        return checkpoint.agent_state(weights, self.info, self.config, counters)


def build_learner(config: TrainConfig, info: EnvInfo, device: torch.device) -> Learner:
    """The learner of the run's algorithm."""
    if ALGORITHMS[config.task.algo].on_policy:
        return COMALearner(info, config.learning, epsilon_schedule(config), device)
    return QLearner(info, config.task.algo, config.learning, device)


def epsilon_schedule(config: TrainConfig) -> LinearSchedule:
    """Environment steps -> ε."""
    play = config.play
    return LinearSchedule(play.epsilon_start, play.epsilon_finish, play.epsilon_anneal_time)


def learning_schedule(config: TrainConfig) -> GradientSchedule | OnceEachSchedule:
    """When gradient steps are due."""
    learning = config.learning
    if ALGORITHMS[config.task.algo].on_policy:
        return OnceEachSchedule(learning.batch_size)
    return GradientSchedule(learning.gradient_steps_per_episode, learning.batch_size)


def memory_size(config: TrainConfig, info: EnvInfo) -> ReplaySize:
    """Of the replay; on-policy it holds one batch, the last one played.

    Raises:
        ConfigError: `buffer_bytes` do not hold one episode.
    """
    learning = config.learning
    if ALGORITHMS[config.task.algo].on_policy:
        return replay_size(info, learning.batch_size, max_bytes=sys.maxsize)
    try:
        return replay_size(info, learning.buffer_size, learning.buffer_bytes)
    except ValueError as error:
        raise ConfigError(f"buffer_bytes: {error}") from error


def software(device: str) -> dict[str, str]:
    """What a run's last bits may depend on."""
    return {"torch": str(torch.__version__), "numpy": np.__version__, "device": device}


def introduction(config: TrainConfig, info: EnvInfo, device: str, replay: ReplaySize) -> str:
    """What a run says first."""
    task, play, learning = config.task, config.play, config.learning
    if ALGORITHMS[task.algo].on_policy:
        how = [f"on-policy: battles in batches of {learning.batch_size}, each learned from once"]
    else:
        steps = learning.gradient_steps_per_episode
        how = [
            f"replay ratio {steps * learning.batch_size:g}: {steps:g} gradient steps per episode, "
            f"each on {learning.batch_size} episodes",
            str(replay),
        ]
    goal = config.stop.until_win_rate
    ends = [f"{config.stop.t_max:,} environment steps"]
    ends += [f"{config.stop.minutes:g} minutes"] if config.stop.minutes is not None else []
    ends += [f"{goal:.0%} greedy wins"] if goal is not None else []
    return "\n".join(
        (
            f"{task.algo} on {info.map_name} ({info.n_agents} against {info.n_enemies}), "
            f"seed {task.seed}; {play.batch_size_run} battles in parallel on {device}",
            *how,
            f"until {' or '.join(ends)}",
        )
    )
