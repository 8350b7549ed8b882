"""The exported graph against the network it is made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

from training.networks.agent import DRQN
from training.onnx_graph import OPSET, build_graph, parameter_count

N_AGENTS, N_ACTIONS, OBS_DIM, N_HIDDEN = 8, 14, 128, 64
Weights = dict[str, npt.NDArray[np.float32]]


def agent_and_weights(seed: int = 0) -> tuple[DRQN, Weights]:
    torch.manual_seed(seed)
    agent = DRQN(OBS_DIM, N_ACTIONS, N_AGENTS, N_HIDDEN).requires_grad_(False)
    return agent, {name: value.numpy().copy() for name, value in agent.state_dict().items()}


def run(weights: Weights, **inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    model = build_graph(weights, N_AGENTS, N_ACTIONS, {})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    outputs: list[npt.NDArray[Any]] = session.run(["action", "q_values", "next_hidden"], inputs)
    return outputs


def rows(n: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    avail_actions = rng.random((n, N_ACTIONS)) < 0.5
    avail_actions[np.arange(n), rng.integers(0, N_ACTIONS, n)] = True
    return {
        "obs": rng.uniform(-1, 1, (n, OBS_DIM)).astype(np.float32),
        "avail_actions": avail_actions,
        "last_action": rng.integers(-1, N_ACTIONS, n),
        "agent_id": rng.integers(0, N_AGENTS, n),
        "hidden": rng.uniform(-1, 1, (n, N_HIDDEN)).astype(np.float32),
    }


@pytest.mark.parametrize("n", [1, 2, 300])
def test_answers_equal_the_networks(n: int) -> None:
    agent, weights = agent_and_weights()
    inputs = rows(n)
    if n > 100:
        assert set(inputs["last_action"].tolist()) == set(range(-1, N_ACTIONS))
        assert set(inputs["agent_id"].tolist()) == set(range(N_AGENTS))
    names = ("obs", "last_action", "agent_id", "hidden")
    expected_q, expected_hidden = agent.step(*(torch.from_numpy(inputs[name]) for name in names))
    action, q_values, next_hidden = run(weights, **inputs)
    np.testing.assert_allclose(q_values, expected_q.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(next_hidden, expected_hidden.numpy(), rtol=0, atol=1e-5)
    masked = np.where(inputs["avail_actions"], expected_q.numpy(), -np.inf)
    assert np.array_equal(action, masked.argmax(1))
    assert action.dtype == np.int64


def test_of_equal_q_values_the_first_available_one_is_taken() -> None:
    _, weights = agent_and_weights()
    weights["fc2.weight"][:] = 0
    weights["fc2.bias"][:] = 0.25
    weights["fc2.bias"][1] = 9.0
    inputs = rows(3)
    inputs["avail_actions"] = np.zeros((3, N_ACTIONS), np.bool_)
    inputs["avail_actions"][0, [3, 5, 13]] = True
    inputs["avail_actions"][1, [13]] = True
    inputs["avail_actions"][2, :] = True
    action, q_values, _ = run(weights, **inputs)
    assert action.tolist() == [3, 13, 1]
    assert q_values[0, 1] == 9.0  # not masked


def test_the_file_holds_the_agents_parameters_and_nothing_else() -> None:
    agent, weights = agent_and_weights()
    model = build_graph(weights, N_AGENTS, N_ACTIONS, {})
    count = sum(parameter.numel() for parameter in agent.parameters())
    assert parameter_count(model) == count == 35534
    # Constants of the graph are scalars.
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    assert [list(node.attribute[0].t.dims) for node in constants] == [[]]
    assert len(model.SerializeToString()) < 4 * count + 3000


def test_the_graph_is_plain_and_dynamic_in_the_rows_alone() -> None:
    model = build_graph(agent_and_weights()[1], N_AGENTS, N_ACTIONS, {"a": "1", "b": "2"})
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert {prop.key: prop.value for prop in model.metadata_props} == {"a": "1", "b": "2"}
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "obs": ["N", 128],
        "avail_actions": ["N", 14],
        "last_action": ["N"],
        "agent_id": ["N"],
        "hidden": ["N", 64],
        "action": ["N"],
        "q_values": ["N", 14],
        "next_hidden": ["N", 64],
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    _, weights = agent_and_weights()
    weights["rnn.bias_hh"][7] = value
    with pytest.raises(ValueError, match=r"rnn\.bias_hh holds values that are not finite"):
        build_graph(weights, N_AGENTS, N_ACTIONS, {})


def test_weights_that_do_not_fit_are_refused() -> None:
    _, weights = agent_and_weights()
    with pytest.raises(ValueError, match=r"fc2\.bias has shape \(13,\); expected \(14,\)"):
        build_graph(weights | {"fc2.bias": weights["fc2.bias"][1:]}, N_AGENTS, N_ACTIONS, {})
    with pytest.raises(ValueError, match=r"missing or unknown: fc3\.weight"):
        build_graph(weights | {"fc3.weight": weights["fc2.bias"]}, N_AGENTS, N_ACTIONS, {})
    with pytest.raises(ValueError, match=r"missing or unknown: fc1\.bias"):
        build_graph({k: v for k, v in weights.items() if k != "fc1.bias"}, 8, 14, {})
    with pytest.raises(ValueError, match="takes 150 inputs"):
        build_graph(weights, n_agents=140, n_actions=14, metadata={})
