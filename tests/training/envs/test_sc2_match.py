"""The game behind StarCraft II's API, without its wire: when battles begin, and what compiling
changes, which is nothing."""

from __future__ import annotations

import shutil

import pytest

from tests.training.envs.battlefield import scenario
from training.envs.sc2_api import quick_loop
from training.envs.sc2_api.match import Field, Match, Order
from training.envs.skirmish.scenario import load_scenario
from training.envs.skirmish.world import ATTACK, MOVE, STOP


def play(match: Match, n_battles: int) -> list[Field]:
    """What is on the field after each step of some battles; allies do all they can."""
    seen, n = [], match.n_allies
    for _ in range(n_battles):
        for step in range(20):
            alive = [row for row in match.field.alive if row < n]
            foes = [row for row in match.field.alive if row >= n]
            if not alive or not foes:
                break
            at = match.field
            choices = [Order(ATTACK, foes[0]), Order(STOP), Order(ATTACK, foes[-1])]
            orders = {row: choices[(row + step // 4) % 3] for row in alive}
            if step < 3:
                orders[alive[0]] = Order(MOVE, x=at.x[alive[0]] + 2, y=at.y[alive[0]])
            match.order(orders)
            match.step(8)
            seen.append(match.field)
        match.kill(match.field.alive)
        match.step(2)
        seen.append(match.field)
    return seen


@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")),
    reason="compiling for a CPU takes a C++ compiler, and none is on the PATH",
)
@pytest.mark.timeout(900)
# torch's compiler warns of its own use of torch; that the simulator fell back would still fail.
@pytest.mark.filterwarnings("ignore", "error:the simulator runs uncompiled:UserWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_compiled_beside_the_battle_it_is_the_same_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three = load_scenario("3m")
    plain = Match(three, seed=4)
    expected = play(plain, 3)
    assert plain.loop._compiler is None  # so few loops are not worth it
    monkeypatch.setattr(quick_loop, "WORTH_COMPILING", 8)
    quick = Match(three, seed=4)
    quick.step(8)
    compiler = quick.loop._compiler
    assert compiler is not None
    compiler.join()
    assert quick.loop._tick != quick.loop._plain_tick
    fresh = Match(three, seed=4)
    fresh.loop = quick.loop
    assert play(fresh, 3) == expected
    assert any(min(field.health) < 45 for field in expected)  # they have fought


def test_when_both_sides_fall_together_the_next_battle_waits_for_the_next_step() -> None:
    """SMAC then kills nobody, and steps twice all the same."""
    match = Match(scenario(["baneling"], ["baneling"], at=((15, 16), (17, 16))), seed=1)
    match.order({0: Order(ATTACK, 1)})
    match.step(100)
    assert (match.number, match.field.alive, match.row(match.tag(0))) == (0, [], None)
    match.kill([])
    match.step(2)
    assert (match.number, match.field.alive) == (1, [0, 1])
    assert match.tag(0) == 3  # after 1 and 2
    assert match.row(1) is None
    assert match.game_loop == 1 + 100 + 2


def test_what_is_left_of_a_step_is_played_in_the_next_battle() -> None:
    one, other = (Match(load_scenario("2m_vs_1z"), seed=2) for _ in range(2))
    for match in (one, other):
        match.kill(match.field.alive)
    one.step(10)
    other.step(2)
    other.step(8)
    assert one.field == other.field
    first = Match(load_scenario("2m_vs_1z"), seed=2)
    first.step(8)
    assert one.field != first.field  # that is another battle
