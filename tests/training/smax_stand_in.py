"""In the place of `benchmarks/peers/smax_battles.py`: two agents against two enemies, two
actions; battle b (by number) is decided in step 2 + b, won if b is even, and may last 4 steps."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

LIMIT = 4


def main(descriptor: int, n: int) -> None:
    pipe = Connection(descriptor)
    sizes = {"obs": (2, 3), "state": (5,), "avail_actions": (2, 2), "alive": (4,), "done": ()}
    pipe.send({"sizes": sizes, "episode_limit": LIMIT, "n_enemies": 2})
    number, step = np.zeros(n, np.int32), np.zeros(n, np.int32)
    while True:
        try:
            order, *given = pipe.recv()
        except EOFError:
            return
        answer: dict[str, np.ndarray[Any, Any]] = {}
        if order == "reset":
            mask, numbers = (np.frombuffer(g, t) for g, t in zip(given, "?i", strict=True))
            number, step = np.where(mask, numbers, number), np.where(mask, 0, step)
        else:
            before = np.minimum(number + 2, LIMIT) <= step
            step = np.where(before, step, step + 1)
            answer["reward"] = np.where(before, 0, 1).astype(np.float32)
        decided, late = (number + 2 <= LIMIT) & (step >= number + 2), step >= LIMIT
        alive = np.ones((n, 4), np.uint8)
        alive[decided & (number % 2 == 0), 2:] = 0
        alive[decided & (number % 2 == 1), :2] = 0
        answer["alive"], answer["done"] = alive, (decided | late).astype(np.uint8)
        answer["obs"] = np.broadcast_to(step[:, None, None], (n, 2, 3)).astype(np.float32)
        answer["state"] = np.broadcast_to(number[:, None], (n, 5)).astype(np.float32)
        answer["avail_actions"] = np.ones((n, 2, 2), np.uint8)
        pipe.send({name: values.tobytes() for name, values in answer.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[3]))
