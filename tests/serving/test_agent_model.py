"""The loaded policy: right answers, whoever shares the run, and nothing from bad numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.errors import ModelInvalid
from serving.models.agent_model import AgentModel, BadRow, Row, StepResult
from serving.models.repository import load_model
from tests.artifacts import Dims, Policy, Step, golden, manifest, write_artifact, write_model


def row(step: Step) -> Row:
    return Row(
        step.obs.tobytes(),
        bytes(step.avail_actions.tolist()),
        step.last_action,
        step.agent_id,
        step.hidden.tobytes(),
    )


def rows(dims: Dims, n: int, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    return [row(Step(dims, random)) for _ in range(n)]


def floats(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(data, "<f4")


def test_a_step_is_the_numpy_policys(model: AgentModel, policy: Policy) -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        step = Step(policy.dims, random)
        action, q_values, next_hidden = policy.step(**vars(step))
        (result,) = model.step([row(step)])
        assert isinstance(result, StepResult)
        np.testing.assert_allclose(floats(result.q_values), q_values, atol=1e-5)
        np.testing.assert_allclose(floats(result.next_hidden), next_hidden, atol=1e-5)
        assert step.avail_actions[result.action]
        assert result.action == action


@pytest.mark.parametrize("dims", [Dims(), Dims(27, 36, 285, 64), Dims(2, 3, 5, 13)])
def test_a_result_does_not_depend_on_who_shares_the_run(tmp_path: Path, dims: Dims) -> None:
    model = load_model(write_artifact(tmp_path, Policy(dims)))
    everyone = rows(dims, 130)
    alone = [model.step([one])[0] for one in everyone]
    assert len({result.action for result in alone if isinstance(result, StepResult)}) > 1
    random = np.random.default_rng(2)
    for n in [2, 3, 7, 8, 9, 16, 31, 64, 65, 130]:
        places = random.permutation(len(everyone))[:n]
        results = model.step([everyone[place] for place in places])
        assert results == [alone[place] for place in places]


def test_a_bad_row_does_not_touch_the_others(model: AgentModel, policy: Policy) -> None:
    good = rows(policy.dims, 5)
    alone = [model.step([one])[0] for one in good]
    nan, inf = float("nan"), float("inf")
    bad_obs = good[1]._replace(obs=np.array([0, 0, nan, 0, inf, 0, 0], "<f4").tobytes())
    bad_hidden = good[3]._replace(hidden=np.array([0, 1.5, 0, 0, nan, 0], "<f4").tobytes())
    results = model.step([good[0], bad_obs, good[2], bad_hidden, good[4]])
    assert results == [
        alone[0],
        BadRow("obs", "obs[2] is not a number in [-1e+06, 1e+06]"),
        alone[2],
        BadRow("hidden", "hidden[1] is not a number in [-1.001, 1.001]"),
        alone[4],
    ]


@pytest.mark.parametrize(("value", "taken"), [(1e6, True), (1.1e6, False), (1e-40, True)])
def test_numbers_so_large_that_sums_could_overflow_are_refused(
    model: AgentModel, policy: Policy, value: float, taken: bool
) -> None:
    (good,) = rows(policy.dims, 1)
    (result,) = model.step([good._replace(obs=np.full(7, value, "<f4").tobytes())])
    assert isinstance(result, StepResult) is taken
    if isinstance(result, StepResult):
        assert np.isfinite(floats(result.q_values)).all()


def test_a_memory_that_was_answered_is_always_taken_back(tmp_path: Path) -> None:
    """Saturated gates drive the memory to its bounds; it must not be refused for rounding."""
    policy = Policy(seed=3)
    for name in policy.weights:
        policy.weights[name] *= 30 if name.startswith("rnn") else 1
    model = load_model(write_artifact(tmp_path, policy))
    hidden, last_action = model.first_hidden, -1
    for one in rows(policy.dims, 300):
        (result,) = model.step([one._replace(hidden=hidden, last_action=last_action)])
        assert isinstance(result, StepResult)
        hidden, last_action = result.next_hidden, result.action
    assert np.abs(floats(hidden)).max() > 0.99


class _CountingSession:
    """A session whose results depend on how many rows a run has, and, if told so, on the place."""

    def __init__(self, model: AgentModel, by_place: bool) -> None:
        self._session = model._session
        self._by_place = by_place
        self.sizes: list[int] = []

    def run(
        self, outputs: list[str], feed: dict[str, np.ndarray], options: object = None
    ) -> list[np.ndarray]:
        n = len(feed["obs"])
        self.sizes.append(n)
        action, q_values, next_hidden = self._session.run(outputs, feed)
        places = np.arange(n)[:, None] if self._by_place else 0
        return [action, q_values + np.float32(1e-3) * (n + places), next_hidden]


@pytest.mark.parametrize(("by_place", "size"), [(False, 32), (True, 1)])
def test_where_arithmetic_depends_on_the_batch_runs_get_one_size(
    models: Path, policy: Policy, by_place: bool, size: int
) -> None:
    model = load_model(models / "tiny" / "1")
    session = _CountingSession(model, by_place)
    model._session = session
    model.rows_per_run = model._find_rows_per_run()
    assert model.rows_per_run == size
    session.sizes.clear()
    everyone = rows(policy.dims, 40)
    together = model.step(everyone)
    assert set(session.sizes) == {size}
    assert together == [model.step([one])[0] for one in everyone]
    assert set(session.sizes) == {size}


def test_a_model_that_misses_its_golden_rows_is_refused(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, Policy())
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["golden"]["rows"][2]["q_values"][0] += 1e-3
    path.write_text(json.dumps(content))
    with pytest.raises(ModelInvalid, match=r"golden row 2.*tolerance 1e-05"):
        load_model(folder)


def test_a_model_of_other_sizes_than_its_manifests_is_refused(tmp_path: Path) -> None:
    policy, other = Policy(), Policy(Dims(3, 5, 7, 8))
    folder = write_artifact(tmp_path, other)
    graph = onnx.load_from_string((folder / "model.onnx").read_bytes())
    described = manifest(policy, "tiny", 1) | {"parameters": other.n_parameters}
    write_model(folder, graph, described | {"golden": golden(policy)})
    with pytest.raises(ModelInvalid, match=r"hidden.*\[N, 8\].*\[N, 6\]"):
        load_model(folder)


def test_metadata_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, Policy())
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["training"]["win_rate"] = 0.99
    path.write_text(json.dumps(content))
    with pytest.raises(ModelInvalid, match="metadata is not its manifest"):
        load_model(folder)


def test_a_model_that_fails_when_run_is_refused(tmp_path: Path, policy: Policy) -> None:
    folder = write_artifact(tmp_path, policy)
    graph = onnx.load_from_string((folder / "model.onnx").read_bytes())
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [7])
    graph.graph.initializer.append(shape)
    gather = next(node for node in graph.graph.node if "agent_id" in node.input)
    gather.input[1] = "reshaped"
    graph.graph.node.insert(0, helper.make_node("Reshape", ["agent_id", "shape"], ["reshaped"]))
    described = manifest(policy, "tiny", 1) | {"golden": golden(policy)}
    write_model(folder, graph, described)
    with pytest.raises(ModelInvalid, match="does not run"):
        load_model(folder)
