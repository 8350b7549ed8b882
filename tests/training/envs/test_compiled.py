"""Compiled, the simulator plays the same battles to the bit; or says once that it could not be."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.envs.conformance import assert_same, play
from training.envs.skirmish.compiled import compiled
from training.envs.skirmish.env import SkirmishEnv

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")),
    reason="compiling for a CPU takes a C++ compiler, and none is on the PATH",
)
CPU = torch.device("cpu")


@needs_compiler
@pytest.mark.timeout(900)
# torch's compiler warns of its own use of torch; that the simulator fell back would still fail.
@pytest.mark.filterwarnings("ignore", "error:the simulator runs uncompiled:UserWarning")
def test_compiled_battles_are_the_same_to_the_bit() -> None:
    eager, fast = (SkirmishEnv("3m", 4, seed=7, compile=on) for on in (False, True))
    for numbers in (torch.tensor([3, 17, 4, 2**40]), torch.arange(4)):
        for one, other in zip(play(eager, numbers, 20), play(fast, numbers, 20), strict=True):
            assert_same(one, other)
        assert_same(eager.state_dict(), fast.state_dict())
        assert (eager.world.health < 45).any()  # they have fought
        # Battles that are not begun anew go on as they were.
        some = torch.tensor([True, False, False, True])
        assert_same(eager.reset(some), fast.reset(some))
        assert_same(eager.state_dict(), fast.state_dict())
        assert (eager.world.health < 45).any()


@needs_compiler
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore", "error:the simulator runs uncompiled:UserWarning")
def test_environments_side_by_side_keep_what_was_compiled_for_each_to_themselves() -> None:
    """The same shapes throughout: only the options, which no tensor shows, tell them apart."""
    options: list[dict[str, Any]] = [{}, {"reward_sparse": True}]
    eager = [SkirmishEnv("3m", 2, seed=7, **o) for o in options]
    fast = [SkirmishEnv("3m", 2, seed=7, compile=True, **o) for o in options]
    for one, other in zip(eager, fast, strict=True):
        numbers = torch.tensor([5, 6])
        for a, b in zip(play(one, numbers, 12), play(other, numbers, 12), strict=True):
            assert_same(a, b)


def less(value: Tensor, other: Tensor) -> Tensor:
    return value - other


@needs_compiler
@pytest.mark.filterwarnings("ignore", "error:the simulator runs uncompiled:UserWarning")
def test_inputs_that_were_one_tensor_at_first_may_be_two_later() -> None:
    fast, one = compiled(less, CPU), torch.ones(3)
    assert fast(one, one).tolist() == [0, 0, 0]
    assert fast(one, one + 2).tolist() == [-2, -2, -2]


def prints(value: Tensor) -> Tensor:
    """What cannot be compiled whole."""
    print(f"{value.sum().item():.0f}", end=" ")
    return value + 1


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run: Any = compiled(prints, CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.warns(UserWarning, match="the simulator runs uncompiled, and slower: ."):
            assert run(torch.ones(3)).tolist() == [2, 2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(torch.ones(4)).tolist() == [2, 2, 2, 2]  # and no warning
    assert capsys.readouterr().out == "3 4 "


def test_an_error_of_the_functions_own_is_raised_all_the_same() -> None:
    def wrong(value: Tensor) -> Tensor:
        raise ValueError("of its own")

    run: Any = compiled(wrong, CPU)
    with (
        pytest.warns(UserWarning, match="runs uncompiled"),
        pytest.raises(ValueError, match="of its own"),
    ):
        run(torch.ones(1))
