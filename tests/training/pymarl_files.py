"""What PyMARL's configuration files hold: their keys and values, which are facts, written anew.

Source: src/config/default.yaml, envs/sc2.yaml and algs/{qmix,vdn,iql,coma}.yaml of oxwhirl/pymarl,
August 2021.
"""

from __future__ import annotations

from typing import Any

INTERVALS = ("test_interval", "log_interval", "runner_log_interval", "learner_log_interval")

DEFAULT: dict[str, Any] = {
    "runner": "episode",
    "mac": "basic_mac",
    "env": "sc2",
    "env_args": {},
    "batch_size_run": 1,
    "test_nepisode": 20,
    "test_greedy": True,
    "t_max": 10_000,
    **dict.fromkeys(INTERVALS, 2000),
    "use_cuda": True,
    "buffer_cpu_only": True,
    "use_tensorboard": False,
    "save_model": False,
    "save_model_interval": 2_000_000,
    "checkpoint_path": "",
    "evaluate": False,
    "load_step": 0,
    "save_replay": False,
    "local_results_path": "results",
    "gamma": 0.99,
    "batch_size": 32,
    "buffer_size": 32,
    "lr": 0.0005,
    "critic_lr": 0.0005,
    "optim_alpha": 0.99,
    "optim_eps": 0.00001,
    "grad_norm_clip": 10,
    "agent": "rnn",
    "rnn_hidden_dim": 64,
    "obs_agent_id": True,
    "obs_last_action": True,
    "repeat_id": 1,
    "label": "default_label",
}
OFF: tuple[str, ...] = (
    "continuing_episode",
    "debug",
    "heuristic_ai",
    "heuristic_rest",
    "obs_instead_of_state",
)
OFF += ("obs_last_action", "obs_pathing_grid", "obs_terrain_height", "obs_timestep_number")
OFF += ("reward_sparse", "state_timestep_number")
ON = ("obs_all_health", "obs_own_health", "reward_only_positive", "reward_scale")
SC2: dict[str, Any] = {
    "env": "sc2",
    "env_args": {
        **dict.fromkeys(OFF, False),
        **dict.fromkeys((*ON, "state_last_action"), True),
        "difficulty": "7",
        "game_version": None,
        "map_name": "3m",
        "move_amount": 2,
        "reward_death_value": 10,
        "reward_defeat": 0,
        "reward_negative_scale": 0.5,
        "reward_scale_rate": 20,
        "reward_win": 200,
        "replay_dir": "",
        "replay_prefix": "",
        "step_mul": 8,
        "seed": None,
    },
    "test_greedy": True,
    "test_nepisode": 32,
    "t_max": 2_050_000,
    **dict.fromkeys(INTERVALS, 10_000),
}
Q_LEARNER: dict[str, Any] = {
    "action_selector": "epsilon_greedy",
    "epsilon_start": 1.0,
    "epsilon_finish": 0.05,
    "epsilon_anneal_time": 50_000,
    "runner": "episode",
    "buffer_size": 5000,
    "target_update_interval": 200,
    "agent_output_type": "q",
    "learner": "q_learner",
    "double_q": True,
}
QMIX = Q_LEARNER | {"mixer": "qmix", "mixing_embed_dim": 32, "name": "qmix"}
QMIX |= {"hypernet_layers": 2, "hypernet_embed": 64}
VDN = Q_LEARNER | {"mixer": "vdn", "name": "vdn"}
IQL = Q_LEARNER | {"mixer": None, "name": "iql"}
COMA: dict[str, Any] = {
    "action_selector": "multinomial",
    "epsilon_start": 0.5,
    "epsilon_finish": 0.01,
    "epsilon_anneal_time": 100_000,
    "mask_before_softmax": False,
    "runner": "parallel",
    "buffer_size": 8,
    "batch_size_run": 8,
    "batch_size": 8,
    "env_args": {"state_last_action": False},
    "target_update_interval": 200,
    "lr": 0.0005,
    "critic_lr": 0.0005,
    "td_lambda": 0.8,
    "agent_output_type": "pi_logits",
    "learner": "coma_learner",
    "critic_q_fn": "coma",
    "critic_baseline_fn": "coma",
    "critic_train_mode": "seq",
    "critic_train_reps": 1,
    "q_nstep": 0,
    "name": "coma",
}
