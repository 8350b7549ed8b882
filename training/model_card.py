"""The texts beside an exported graph: for a reader, and for Triton."""

from __future__ import annotations

from typing import Any

from training.algorithms import ALGORITHMS

LOGITS = (
    "not values: the logits of the policy that was trained, not masked; `action` is the likeliest"
)


def model_card(manifest: dict[str, Any], parity: str, has_curve: bool) -> str:
    """MODEL_CARD.md.

    Args:
        manifest: without `files`.
        parity: what the comparison of torch and onnxruntime has shown, in one sentence.
    """
    training, dims = manifest["training"], manifest["dims"]
    low, high = training["win_rate_ci95"]
    units = [agent["unit_type"] for agent in manifest["agents"]]
    team = ", ".join(f"{units.count(unit)} {unit}" for unit in dict.fromkeys(units))
    software = "\n".join(
        f"| {name} | {version} |" for name, version in training["software"].items()
    )
    algorithm = ALGORITHMS[manifest["algorithm"]]
    left_out = "critic" if algorithm.on_policy else "mixer"
    outputs = LOGITS if algorithm.on_policy else "not masked"
    curve = "\n![Learning curve](curve.png)\n" if has_curve else ""
    return f"""# {manifest["name"]} {manifest["version"]}

The network of one agent, shared by a team of {dims["n_agents"]} ({team}) on `{manifest["map"]}`,
trained with {algorithm.title} in the environment
`{manifest["environment"]["name"]}`. Each agent runs it by itself, on what it alone sees; nothing of
the {left_out} is in the file.

| | |
|---|---|
| greedy win rate | **{training["win_rate"]:.1%}** ({low:.1%} to {high:.1%}, 95 % interval) |
| measured on | {training["win_rate_episodes"]:,} battles of seed {training["win_rate_seed"]} |
| trained on | {training["env_steps"]:,} environment steps, {training["episodes"]:,} battles |
| gradient steps | {training["gradient_steps"]:,} |
| seed, preset | {training["seed"]}, {training["preset"]} |
| parameters | {manifest["parameters"]:,} |
| episode limit | {manifest["episode_limit"]} steps |
{curve}
## Made by

```
{training["command"]}
```

| software | version |
|---|---|
{software}

## Inputs and outputs of model.onnx

N rows, each one agent at one step, in any mixture.

| input | type and shape | |
|---|---|---|
| obs | float32 [N, {dims["obs_dim"]}] | the agent's own observation |
| avail_actions | bool [N, {dims["n_actions"]}] | at least one True |
| last_action | int64 [N] | -1 at the first step |
| agent_id | int64 [N] | 0 to {dims["n_agents"] - 1} |
| hidden | float32 [N, {dims["hidden_dim"]}] | zeros at the first step, then `next_hidden` |

| output | type and shape | |
|---|---|---|
| action | int64 [N] | the best available action, the first one of equals |
| q_values | float32 [N, {dims["n_actions"]}] | {outputs} |
| next_hidden | float32 [N, {dims["hidden_dim"]}] | to be carried to the agent's next step |

{parity}

## Limits

It has learned one map against one scripted opponent, in a simulator. It fits environments whose
observation layout has the hash `{manifest["environment"]["layout_sha256"]}`.
"""


def triton_config(manifest: dict[str, Any]) -> str:
    """config.pbtxt: a sequence per agent and episode, its memory kept by Triton.

    `last_action` and `agent_id` are vectors of N in the graph, which Triton describes as rows of
    one number that are reshaped to none.
    """
    dims = manifest["dims"]
    return f"""name: "{manifest["name"]}"
platform: "onnxruntime_onnx"
max_batch_size: 1024
input [
  {{ name: "obs" data_type: TYPE_FP32 dims: [ {dims["obs_dim"]} ] }},
  {{ name: "avail_actions" data_type: TYPE_BOOL dims: [ {dims["n_actions"]} ] }},
  {{ name: "last_action" data_type: TYPE_INT64 dims: [ 1 ] reshape: {{ shape: [ ] }} }},
  {{ name: "agent_id" data_type: TYPE_INT64 dims: [ 1 ] reshape: {{ shape: [ ] }} }}
]
output [
  {{ name: "action" data_type: TYPE_INT64 dims: [ 1 ] reshape: {{ shape: [ ] }} }},
  {{ name: "q_values" data_type: TYPE_FP32 dims: [ {dims["n_actions"]} ] }}
]
# One sequence is one agent's episode: begin it with the sequence_start flag and last_action -1.
sequence_batching {{
  max_sequence_idle_microseconds: 60000000
  oldest {{ max_candidate_sequences: 1024 }}
  state [
    {{
      input_name: "hidden"
      output_name: "next_hidden"
      data_type: TYPE_FP32
      dims: [ {dims["hidden_dim"]} ]
      initial_state: {{
        name: "zeros"
        data_type: TYPE_FP32
        dims: [ {dims["hidden_dim"]} ]
        zero_data: true
      }}
    }}
  ]
}}
"""
