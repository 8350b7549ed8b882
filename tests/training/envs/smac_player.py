"""Plays SMAC's own environment and keeps all it shows. Run by the Python that has SMAC:

    SC2PATH=... python smac_player.py MAP SEED BATTLES FILE.npz [heuristic]

It imports nothing of ours. Actions are drawn from what is available, by a hash of where they are
taken, so that another player can take the same.
"""

import sys

import numpy as np

N_NON_ATTACK = 6


def draw(battle: int, step: int, agent: int, n: int) -> int:
    """A number below n."""
    return int(np.random.default_rng((battle, step, agent)).integers(n))


def choose(battle: int, step: int, agent: int, available: list[int]) -> int:
    """One of the available actions; in every other battle an attack wherever there is one."""
    legal = np.flatnonzero(available)
    attacks = legal[legal >= N_NON_ATTACK]
    if battle % 2 and len(attacks):
        legal = attacks
    return int(legal[draw(battle, step, agent, len(legal))])


def play(env, n_battles: int) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]
    """All that `n_battles` battles of random legal play show, one row for each moment.

    At a battle's first moment reward and the rest of what a step says are 0.
    """
    rows: dict[str, list] = {}  # type: ignore[type-arg]

    def keep(reward=0.0, terminated=False, info=None) -> None:  # type: ignore[no-untyped-def]
        info = info or {}
        moment = {
            "obs": np.array(env.get_obs(), np.float32),
            "state": np.array(env.get_state(), np.float32),
            "avail_actions": np.array(env.get_avail_actions(), np.int64),
            "reward": np.float32(reward),
            "terminated": terminated,
            "battle_won": info.get("battle_won", False),
            "dead_allies": info.get("dead_allies", 0),
            "dead_enemies": info.get("dead_enemies", 0),
            "episode_limit": info.get("episode_limit", False),
        }
        for name, value in moment.items():
            rows.setdefault(name, []).append(value)

    for battle in range(n_battles):
        env.reset()
        keep()
        terminated, step = False, 0
        while not terminated:
            rows_now = enumerate(env.get_avail_actions())
            actions = [choose(battle, step, agent, row) for agent, row in rows_now]
            reward, terminated, info = env.step(actions)
            keep(reward, terminated, info)
            step += 1
    told = {name: np.array(values) for name, values in rows.items()}
    told["stats"] = np.array([env.get_stats()[k] for k in ("battles_won", "timeouts", "restarts")])
    return told


def main(map_name: str, seed: str, n_battles: str, path: str, *more: str) -> None:
    from smac.env import StarCraft2Env

    heuristic = "heuristic" in more
    env = StarCraft2Env(map_name=map_name, seed=int(seed), heuristic_ai=heuristic)
    info = env.get_env_info()
    told = play(env, int(n_battles))
    assert told["obs"].shape[1:] == (info["n_agents"], info["obs_shape"])
    env.close()
    np.savez(path, **told)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
