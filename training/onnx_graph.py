"""The agent's policy as one ONNX graph: the DRQN, the mask and the argmax. numpy and onnx only.

Batched over N rows, dynamic in nothing else, default operator domain. The file's initialisers
hold the DRQN's parameters, each once, and nothing else:

- The one-hots of the agent's input are never made. Each would pick one column of fc1's weight, so
  the columns are stored as tables of rows and gathered.
- Row `u` of the last-action table is that action's column plus fc1's bias, and the row after the
  last is the bias alone: index -1 ("no action yet") counts from the end, as ONNX defines it. The
  bias is thus in the table and nowhere else: (U + 1) * H numbers for U * H + H parameters.
- Weights that the runtime wants side by side are stored apart and joined by nodes over constants,
  which a runtime folds when it loads the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array: TypeAlias = npt.NDArray[np.float32]

OPSET = 18
IR_VERSION = 8
"""The format of opset 18's own release, which runtimes from 2023 on can read."""

WEIGHT_NAMES = (
    "fc1.weight",
    "fc1.bias",
    "rnn.weight_ih",
    "rnn.weight_hh",
    "rnn.bias_ih",
    "rnn.bias_hh",
    "fc2.weight",
    "fc2.bias",
)


def build_graph(
    weights: Mapping[str, Array],
    n_agents: int,
    n_actions: int,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """The policy of one trained agent network.

    Inputs: obs f32 [N, O], avail_actions bool [N, U], last_action i64 [N] (-1 at the first step),
    agent_id i64 [N], hidden f32 [N, H] (zeros at the first step). Outputs: action i64 [N] (the
    first of the best available ones), q_values f32 [N, U] (not masked), next_hidden f32 [N, H].

    Args:
        weights: the names of `WEIGHT_NAMES`, in torch's layout (GRU gates in the order r, z, n);
            fc1's columns are obs, then the last action's one-hot, then the agent's.
        metadata: written to the model's `metadata_props`.

    Raises:
        ValueError: a weight is missing, unknown, of the wrong shape or not finite.
    """
    obs_dim, hidden_dim = _checked_dims(weights, n_agents, n_actions)
    nodes, initialisers = _nodes(), _initialisers(weights, obs_dim, n_actions, hidden_dim)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "unmix_agent",
        inputs=[
            info("obs", TensorProto.FLOAT, ["N", obs_dim]),
            info("avail_actions", TensorProto.BOOL, ["N", n_actions]),
            info("last_action", TensorProto.INT64, ["N"]),
            info("agent_id", TensorProto.INT64, ["N"]),
            info("hidden", TensorProto.FLOAT, ["N", hidden_dim]),
        ],
        outputs=[
            info("action", TensorProto.INT64, ["N"]),
            info("q_values", TensorProto.FLOAT, ["N", n_actions]),
            info("next_hidden", TensorProto.FLOAT, ["N", hidden_dim]),
        ],
        initializer=[
            numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)
            for name, value in initialisers.items()
        ],
    )
    model = helper.make_model(
        graph,
        producer_name="unmix",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def parameter_count(model: onnx.ModelProto) -> int:
    """How many numbers the file's initialisers hold."""
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def _checked_dims(weights: Mapping[str, Array], n_agents: int, n_actions: int) -> tuple[int, int]:
    """(obs_dim, hidden_dim), which only the weights' shapes tell."""
    if wrong := set(weights).symmetric_difference(WEIGHT_NAMES):
        raise ValueError(f"agent weights missing or unknown: {', '.join(sorted(wrong))}")
    hidden_dim, input_dim = weights["fc1.weight"].shape
    obs_dim = input_dim - n_actions - n_agents
    if obs_dim < 1:
        raise ValueError(
            f"fc1.weight takes {input_dim} inputs, no more than the one-hots of "
            f"{n_actions} actions and {n_agents} agents need"
        )
    expected = {
        "fc1.weight": (hidden_dim, input_dim),
        "fc1.bias": (hidden_dim,),
        "rnn.weight_ih": (3 * hidden_dim, hidden_dim),
        "rnn.weight_hh": (3 * hidden_dim, hidden_dim),
        "rnn.bias_ih": (3 * hidden_dim,),
        "rnn.bias_hh": (3 * hidden_dim,),
        "fc2.weight": (n_actions, hidden_dim),
        "fc2.bias": (n_actions,),
    }
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} has shape {weights[name].shape}; expected {shape}")
        if not np.isfinite(weights[name]).all():
            raise ValueError(f"{name} holds values that are not finite")
    return obs_dim, hidden_dim


def _initialisers(
    weights: Mapping[str, Array], obs_dim: int, n_actions: int, hidden_dim: int
) -> dict[str, Array]:
    """The parameters as the graph stores them; together exactly as many numbers as the agent's."""
    columns, bias = weights["fc1.weight"], weights["fc1.bias"]
    action_rows = columns[:, obs_dim : obs_dim + n_actions].T + bias
    gates = 2 * hidden_dim  # reset and update share their sums; the candidate keeps its two apart
    return {
        "fc1.obs": columns[:, :obs_dim],
        "fc1.last_action": np.concatenate([action_rows, bias[None]]),
        "fc1.agent_id": columns[:, obs_dim + n_actions :].T,
        "rnn.gates_ih": weights["rnn.weight_ih"][:gates],
        "rnn.gates_hh": weights["rnn.weight_hh"][:gates],
        "rnn.gates_bias_ih": weights["rnn.bias_ih"][:gates],
        "rnn.gates_bias_hh": weights["rnn.bias_hh"][:gates],
        "rnn.new_ih": weights["rnn.weight_ih"][gates:],
        "rnn.new_hh": weights["rnn.weight_hh"][gates:],
        "rnn.new_bias_ih": weights["rnn.bias_ih"][gates:],
        "rnn.new_bias_hh": weights["rnn.bias_hh"][gates:],
        "fc2.weight": weights["fc2.weight"],
        "fc2.bias": weights["fc2.bias"],
    }


def _nodes() -> list[onnx.NodeProto]:
    """23 nodes, of which a runtime folds three away: measured faster than the GRU operator from one
    row (0.8 times its time) to 512 (0.65 times), since that one pays for sequences."""
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs, outputs, **attributes))

    add("Gather", ["fc1.last_action", "last_action"], "action_row")
    add("Gather", ["fc1.agent_id", "agent_id"], "agent_row")
    add("Add", ["action_row", "agent_row"], "one_hot_part")
    add("Gemm", ["obs", "fc1.obs", "one_hot_part"], "fc1", transB=1)
    add("Relu", ["fc1"], "x")

    # Over constants alone: folded when the file is loaded.
    add("Concat", ["rnn.gates_ih", "rnn.gates_hh"], "gates_weight", axis=1)
    add("Add", ["rnn.gates_bias_ih", "rnn.gates_bias_hh"], "gates_bias")

    add("Concat", ["x", "hidden"], "x_and_hidden", axis=1)
    add("Gemm", ["x_and_hidden", "gates_weight", "gates_bias"], "gates_sum", transB=1)
    add("Sigmoid", ["gates_sum"], "gates")
    add("Split", ["gates"], "reset", "update", axis=1, num_outputs=2)
    add("Gemm", ["hidden", "rnn.new_hh", "rnn.new_bias_hh"], "new_from_hidden", transB=1)
    add("Mul", ["reset", "new_from_hidden"], "new_reset")
    add("Add", ["new_reset", "rnn.new_bias_ih"], "new_reset_bias")
    add("Gemm", ["x", "rnn.new_ih", "new_reset_bias"], "new_sum", transB=1)
    add("Tanh", ["new_sum"], "new")
    # update * hidden + (1 - update) * new, in one operation less.
    add("Sub", ["hidden", "new"], "change")
    add("Mul", ["update", "change"], "kept")
    add("Add", ["new", "kept"], "next_hidden")

    add("Gemm", ["next_hidden", "fc2.weight", "fc2.bias"], "q_values", transB=1)
    # A Constant node, not an initialiser: those are the parameters and nothing else.
    add("Constant", [], "never", value=numpy_helper.from_array(np.array(-np.inf, np.float32)))
    add("Where", ["avail_actions", "q_values", "never"], "masked")
    add("ArgMax", ["masked"], "action", axis=1, keepdims=0)
    return nodes
