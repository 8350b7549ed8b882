"""Units told apart across games, orders chosen at random, and images of cells."""

from __future__ import annotations

import base64
from typing import Any

from training.envs.smac.recorder import MOST_STEPS, RandomOrders, Unit
from training.recording.differences import cells
from training.recording.twins import kinds, twins


def unit(tag: int, x: float, owner: int = 1, kind: int = 2000, y: float = 16.0) -> Unit:
    return {"tag": tag, "owner": owner, "unit_type": kind, "x": x, "y": y}


def tags(pairs: list[tuple[Unit, Unit]]) -> list[tuple[int, int]]:
    return [(a["tag"], b["tag"]) for a, b in pairs]


def test_twins_are_the_nearest_of_a_side_and_type() -> None:
    game = [unit(10, 5.0), unit(11, 4.0), unit(12, 5.1, owner=2), unit(13, 4.1, kind=2001)]
    ours = [unit(1, 4.2), unit(2, 5.2), unit(3, 9.0, kind=2001), unit(4, 5.0, owner=2)]
    assert tags(twins(game, ours)) == [(11, 1), (10, 2), (13, 3), (12, 4)]


def test_the_nearest_pair_goes_first() -> None:
    """Unit 2 is nearer to 10 than unit 1 is, though 1 is listed before it."""
    assert tags(twins([unit(10, 5.0), unit(11, 1.0)], [unit(1, 4.0), unit(2, 5.5)])) == [
        (11, 1),
        (10, 2),
    ]


def test_whoever_is_left_has_no_twin() -> None:
    assert tags(twins([unit(10, 5.0), unit(11, 9.0)], [unit(1, 8.0)])) == [(11, 1)]
    assert twins([], [unit(1, 8.0)]) == []


def test_types_are_known_by_their_rank_on_their_side() -> None:
    units = [unit(1, 0, kind=1971), unit(2, 0, kind=1970), unit(3, 0, owner=2, kind=74)]
    assert kinds(units) == {(1, 1970): 0, (1, 1971): 1, (2, 74): 0}


def test_orders_are_the_same_for_the_same_seed_and_fit_the_field() -> None:
    field = [unit(1, 0.75), unit(2, 31.0), unit(8, 9.0, owner=2), unit(9, 12.0, owner=2)]
    given: list[list[Any]] = []
    for _ in range(2):
        chooser = RandomOrders(3, set(), [32, 32])
        given.append([chooser(field) for _ in range(50)])
    assert given[0] == given[1]
    orders = [order for step in given[0] for order in step]
    assert [order["unit"] for order in orders] == [1, 2] * 50
    assert {order.get("target") for order in orders} == {None, 8, 9}
    goals = [order["x"] for order in orders if order["ability"] == 16]
    assert goals
    assert all(0.5 <= x <= 31.5 for x in goals)


def test_orders_to_attack_the_fallen_are_forgotten() -> None:
    chooser = RandomOrders(3, set(), [32, 32])
    both = [unit(1, 9.0), unit(8, 9.0, owner=2), unit(9, 12.0, owner=2)]
    for _ in range(20):
        chooser(both)
        (order,) = chooser(both[:2]) or [{}]
        assert order.get("target") in (None, 8)


def test_a_healer_alone_stops() -> None:
    chooser = RandomOrders(0, {2002}, [32, 32])
    field = [unit(1, 9.0, kind=2002), unit(8, 9.0, owner=2)]
    abilities = {order["ability"] for _ in range(50) for order in chooser(field) or []}
    assert abilities == {4, 16}


def test_the_battle_is_over_when_a_side_is_gone_or_it_takes_too_long() -> None:
    assert RandomOrders(0, set(), [32, 32])([unit(1, 9.0)]) is None
    chooser = RandomOrders(0, set(), [32, 32])
    field = [unit(1, 9.0), unit(8, 9.0, owner=2)]
    for _ in range(MOST_STEPS):
        assert chooser(field) is not None
    assert chooser(field) is None


def test_cells_of_a_bit_are_read_from_the_most_significant() -> None:
    data = base64.b64encode(bytes([0b10000001, 0b00000010])).decode()
    image = {"bits_per_pixel": 1, "size": [8, 2], "data": data}
    assert cells(image).tolist() == [[1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1, 0]]


def test_cells_of_a_byte_are_read_as_they_are() -> None:
    data = base64.b64encode(bytes([7, 8, 9, 10])).decode()
    assert cells({"bits_per_pixel": 8, "size": [2, 2], "data": data}).tolist() == [[7, 8], [9, 10]]
