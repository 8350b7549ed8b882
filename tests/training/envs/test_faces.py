"""Three faces of one engine: they play the same battle to the bit, and refuse the same mistakes.

Each face plays the same numbered battles by the same rule to their ends, and leaves a trace of
what it showed in the units of the batched protocol.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.training.envs.battlefield import scenario
from tests.training.envs.conformance import ruled_actions
from training.envs.base import UnavailableActionError
from training.envs.parallel import SkirmishParallelEnv, parallel_env
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.scenario import Scenario, load_scenario
from training.envs.starcraft2 import StarCraft2Env
from training.types import Observation

MAPS = ("3m", "2s3z", "5m_vs_6m")
OTHER_MAPS = ("MMM", "2c_vs_64zg", "corridor", "bane_vs_bane")  # healers, cliffs, crowds, bursts
SEED, BATTLES = 11, 2
OTHER_OPTIONS: dict[str, Any] = {
    "obs_last_action": True,
    "state_last_action": False,
    "state_timestep_number": True,
    "reward_only_positive": False,
    "step_mul": 4,
}


class Frame(NamedTuple):
    """What a battle shows at one time, and the step that led to it."""

    obs: Any
    """[A, O] float32."""
    state: Any
    """[S] float32."""
    avail_actions: Any
    """[A, U]."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    won: bool = False
    dead: tuple[int, ...] = (0, 0)


Play = Callable[[Any, dict[str, Any]], list[list[Frame]]]


def rule(avail_actions: Any, battle: int, step: int) -> list[int]:
    """One action for each agent, from what [A, U] allows."""
    available = torch.as_tensor(np.asarray(avail_actions)).bool()[None]
    actions: list[int] = ruled_actions(available, torch.tensor([battle]), step)[0].tolist()
    return actions


def slot_of(shown: Observation, battle: int) -> list[Any]:
    return [part[battle].numpy() for part in shown]


def play_batched(map_name: Any, options: dict[str, Any]) -> list[list[Frame]]:
    """All battles side by side; each trace ends with its battle."""
    env = SkirmishEnv(map_name, BATTLES, seed=SEED, **options)
    shown, over, step = env.reset(), torch.zeros(BATTLES, dtype=torch.bool), 0
    traces = [[Frame(*slot_of(shown, b))] for b in range(BATTLES)]
    while not over.all():
        actions = ruled_actions(shown.avail_actions, torch.arange(BATTLES), step)
        after = env.step(actions)
        shown, step = after.observation, step + 1
        for b in (~over).nonzero().flatten().tolist():
            ended = after.terminated, after.truncated, after.battle_won
            dead = int(after.dead_allies[b]), int(after.dead_enemies[b])
            step_taken = float(after.reward[b]), *(bool(part[b]) for part in ended), dead
            traces[b].append(Frame(*slot_of(shown, b), *step_taken))
        over = after.terminated | after.truncated
    return traces


def play_starcraft2(map_name: Any, options: dict[str, Any]) -> list[list[Frame]]:
    """SMAC tells a time-out from an ending by a key that `continuing_episode` adds."""
    env = StarCraft2Env(map_name, seed=SEED, continuing_episode=True, **options)
    traces = []
    for battle in range(BATTLES):
        obs, state = env.reset()
        trace, done = [Frame(np.stack(obs), state, env.get_avail_actions())], False
        while not done:
            reward, done, info = env.step(rule(env.get_avail_actions(), battle, len(trace) - 1))
            late = info.pop("episode_limit", False)
            assert list(info) == ["battle_won", "dead_allies", "dead_enemies"]
            shown = np.stack(env.get_obs()), env.get_state(), env.get_avail_actions()
            won, *dead = info.values()
            trace.append(Frame(*shown, reward, done and not late, late, won, tuple(dead)))
        traces.append(trace)
    return traces


def play_parallel(map_name: Any, options: dict[str, Any]) -> list[list[Frame]]:
    env = parallel_env(map_name, seed=SEED, **options)
    traces = []
    for battle in range(BATTLES):
        shown, infos = env.reset()
        trace = [_frame(env, shown, infos)]
        while env.agents:
            agents = env.agents
            actions = rule(trace[-1].avail_actions, battle, len(trace) - 1)
            shown, *ended, infos = env.step(dict(zip(agents, actions, strict=True)))
            trace.append(_frame(env, shown, infos, *(_shared(part, agents) for part in ended)))
        traces.append(trace)
    return traces


def _frame(env: SkirmishParallelEnv, shown: Any, infos: Any, *ended: Any) -> Frame:
    names = env.possible_agents
    assert list(shown) == list(infos) == names
    for name in names:
        assert env.observation_space(name).contains(shown[name])
        assert np.array_equal(infos[name].pop("action_mask"), shown[name]["action_mask"])
    assert env.state_space.contains(env.state())
    info = _shared(infos, names)
    rest = (info["battle_won"], (info["dead_allies"], info["dead_enemies"])) if ended else ()
    obs, masks = ([shown[n][key] for n in names] for key in ("observation", "action_mask"))
    return Frame(np.stack(obs), env.state(), np.stack(masks), *ended, *rest)


def _shared(values: Any, agents: list[str]) -> Any:
    """The one value that all agents have."""
    assert list(values) == agents
    assert all(value == values[agents[0]] for value in values.values())
    return values[agents[0]]


def assert_same_traces(one: list[list[Frame]], other: list[list[Frame]]) -> None:
    assert [len(trace) for trace in one] == [len(trace) for trace in other]
    for a, b in zip(_frames(one), _frames(other), strict=True):
        for part in ("obs", "state"):
            assert getattr(a, part).dtype == getattr(b, part).dtype == np.float32
            assert getattr(a, part).tobytes() == getattr(b, part).tobytes()
        assert np.array_equal(a.avail_actions, b.avail_actions)
        assert a[3:] == b[3:]


def _frames(traces: list[list[Frame]]) -> Iterator[Frame]:
    for trace in traces:
        yield from trace


@pytest.mark.parametrize("options", [{}, OTHER_OPTIONS], ids=["defaults", "other_options"])
@pytest.mark.parametrize("map_name", MAPS)
def test_faces_show_the_same_battles(map_name: str, options: dict[str, Any]) -> None:
    batched = play_batched(map_name, options)
    assert_same_traces(play_starcraft2(map_name, options), batched)
    assert_same_traces(play_parallel(map_name, options), batched)


@pytest.mark.parametrize("options", [{}, OTHER_OPTIONS], ids=["defaults", "other_options"])
@pytest.mark.parametrize("map_name", OTHER_MAPS)
def test_faces_show_the_same_beginnings(map_name: str, options: dict[str, Any]) -> None:
    """Of battles on larger maps, cut short once the sides have met."""
    field = replace(load_scenario(map_name), episode_limit=20)
    batched = play_batched(field, options)
    assert (batched[0][-1].state != batched[0][0].state).any()
    assert_same_traces(play_starcraft2(field, options), batched)
    assert_same_traces(play_parallel(field, options), batched)


@pytest.mark.parametrize(
    ("field", "ending"),
    [
        # Two seconds are too short for any fight.
        (scenario(["marine"], ["marine"], limit=4), (False, True, False)),
        # Nine stalkers beside a marine shoot at random sooner than they die of it.
        (scenario(["stalker"] * 9, ["marine"], to=(9, 16)), (True, False, True)),
        (scenario(["marine"], ["stalker"] * 3, to=(9, 16)), (True, False, False)),
    ],
    ids=["timed_out", "won", "lost"],
)
def test_faces_tell_endings_alike(field: Scenario, ending: tuple[bool, ...]) -> None:
    batched = play_batched(field, {})
    assert [(t[-1].terminated, t[-1].truncated, t[-1].won) for t in batched] == [ending] * BATTLES
    assert_same_traces(play_starcraft2(field, {}), batched)
    assert_same_traces(play_parallel(field, {}), batched)


# ----------------------------------------------------------------- unhappy paths


class Face(NamedTuple):
    """A single-battle face with agents' actions as a list."""

    build: Callable[..., Any]
    act: Callable[[Any, list[int]], Any]
    state: Callable[[Any], Any]


def _act_parallel(env: SkirmishParallelEnv, actions: list[int]) -> Any:
    return env.step(dict(zip([*env.possible_agents, "nobody"], actions, strict=False)))


FACES = {
    "starcraft2": Face(StarCraft2Env, StarCraft2Env.step, StarCraft2Env.get_state),
    "parallel": Face(parallel_env, _act_parallel, SkirmishParallelEnv.state),
}
each_face = pytest.mark.parametrize("face", FACES.values(), ids=FACES)


@each_face
def test_an_unavailable_action_is_refused_and_nothing_moves(face: Face) -> None:
    env, untouched = face.build("3m", seed=1), face.build("3m", seed=1)
    env.reset()
    untouched.reset()
    for action in (0, 6, 9, -1):  # no-op of the living, an enemy far away, no actions at all
        message = f"battle 0: agent 1 was given action {action}, which is not available to it"
        with pytest.raises(UnavailableActionError, match=message):
            face.act(env, [1, action, 1])
    face.act(env, [2, 3, 4])
    face.act(untouched, [2, 3, 4])
    assert np.array_equal(face.state(env), face.state(untouched))


def test_an_unavailable_action_is_an_assertion_error_for_code_that_knows_smac() -> None:
    env = StarCraft2Env("3m", seed=1)
    env.reset()
    with pytest.raises(AssertionError, match="agent 2 was given action 0") as caught:
        env.step([1, 1, 0])
    assert isinstance(caught.value, UnavailableActionError)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.battle, error.agent, error.action) == (0, 2, 0)
        assert str(error) == str(caught.value)


@each_face
def test_steps_outside_a_battle_are_refused(face: Face) -> None:
    env = face.build(scenario(["marine"], ["marine"], limit=1), seed=1)
    with pytest.raises(RuntimeError, match=r"no battle has begun; call reset\(\) first"):
        face.act(env, [1])
    env.reset()
    face.act(env, [1])
    with pytest.raises(RuntimeError, match=r"the battle is over; call reset\(\) to begin the next"):
        face.act(env, [1])
    env.reset()
    face.act(env, [1])


def test_views_before_a_battle_are_refused() -> None:
    env, zoo = StarCraft2Env("3m"), parallel_env("3m")
    for view in (env.get_obs, env.get_state, env.get_avail_actions, zoo.state):
        with pytest.raises(RuntimeError, match="no battle has begun"):
            view()


def test_another_number_of_actions_is_refused() -> None:
    env, zoo = StarCraft2Env("3m"), parallel_env("3m")
    env.reset()
    zoo.reset()
    with pytest.raises(ValueError, match="3 agents need as many actions, not 4"):
        env.step([1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"missing \['marine_2'\], unknown \['zealot_0'\]"):
        zoo.step({"marine_0": 1, "marine_1": 1, "zealot_0": 1})


@each_face
def test_unknown_maps_and_arguments_are_refused_with_the_nearest(face: Face) -> None:
    with pytest.raises(ValueError, match="unknown map '3s5zz'; did you mean 3s5z"):
        face.build("3s5zz")
    with pytest.raises(ValueError, match=r"'reward_sparce'; did you mean '?reward_sparse"):
        face.build("3m", reward_sparce=True)
    with pytest.raises(ValueError, match="step_mul must be at least 1, not 0"):
        face.build("3m", step_mul=0)
