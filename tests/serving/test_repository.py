"""The repository: what is found, what is refused and why, and which version answers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.errors import InvalidRequest, ModelInvalid, ModelNotFound, ModelNotReady
from serving.models.repository import MAX_MODEL_BYTES, Repository, load_model
from tests.artifacts import Policy, golden, manifest, write_artifact, write_model

Change = Callable[[onnx.ModelProto], object]


def repository(root: Path) -> Repository:
    found = Repository(root)
    found.load_all()
    return found


def listing(found: Repository) -> list[tuple[str, int, bool, bool]]:
    return [
        (status.name, status.version, status.model is not None, status.latest)
        for status in found.statuses()
    ]


def test_only_folders_named_like_models_and_versions_count(tmp_path: Path) -> None:
    write_artifact(tmp_path, name="b", version=2)
    write_artifact(tmp_path, name="b", version=10)
    write_artifact(tmp_path, name="a", version=1)
    for stray in ["b/010", "b/0", "b/latest", "b/-1", ".hidden/1", "a/1.5"]:
        shutil.copytree(tmp_path / "a" / "1", tmp_path / stray)
    (tmp_path / "b" / "3").mkdir()
    (tmp_path / "b" / "config.pbtxt").write_text("")
    (tmp_path / "README.md").write_text("")
    assert listing(repository(tmp_path)) == [
        ("a", 1, True, True),
        ("b", 2, True, False),
        ("b", 10, True, True),
    ]


def test_a_repository_that_is_not_there_is_empty(tmp_path: Path) -> None:
    found = repository(tmp_path / "nothing")
    assert found.statuses() == []
    with pytest.raises(ModelNotReady, match="no model is loaded"):
        found.resolve()


def test_resolving_names_and_versions(tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, name="a", version=version)
    found = repository(tmp_path)
    assert found.resolve().version == 2
    assert found.resolve("a").version == 2
    assert found.resolve("a", 1).version == 1
    with pytest.raises(ModelNotFound, match="model a has no version 3; there is 1, 2"):
        found.resolve("a", 3)
    with pytest.raises(ModelNotFound, match="no model of that name; there is a"):
        found.resolve("b")
    write_artifact(tmp_path, name="b", version=7)
    found.load("b", 7)
    assert found.resolve("b").label == "b version 7"
    with pytest.raises(InvalidRequest, match="model must name one of a, b") as caught:
        found.resolve()
    assert caught.value.field == "model"


def test_the_newest_sound_version_answers_while_a_broken_one_is_listed(tmp_path: Path) -> None:
    write_artifact(tmp_path, version=1)
    (write_artifact(tmp_path, version=2) / "model.onnx").write_bytes(b"junk")
    found = repository(tmp_path)
    assert listing(found) == [("tiny", 1, True, True), ("tiny", 2, False, False)]
    assert found.resolve("tiny").version == 1
    with pytest.raises(ModelNotReady):
        found.resolve("tiny", 2)
    assert found.status("tiny", 2).reason == (
        "model.onnx is not the file that the manifest describes"
    )


def test_a_refused_load_leaves_the_version_that_serves(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    found = repository(tmp_path)
    serving = found.resolve()
    original = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(original[:-1])
    with pytest.raises(ModelInvalid):
        found.load("tiny", 1)
    assert found.resolve() is serving
    (folder / "model.onnx").write_bytes(original)
    assert found.load("tiny", 1) is found.resolve() is serving
    assert listing(found) == [("tiny", 1, True, True)]


def test_every_bit_of_a_file_counts(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    random = np.random.default_rng(0)
    for name in ("model.onnx", "MODEL_CARD.md"):
        original = (folder / name).read_bytes()
        for _ in range(50):
            data = bytearray(original)
            data[random.integers(len(data))] ^= 1 << random.integers(8)
            (folder / name).write_bytes(data)
            with pytest.raises(ModelInvalid, match=f"{name} is not the file"):
                load_model(folder)
        (folder / name).write_bytes(original)
    load_model(folder)


def test_files_are_plain_files_of_bounded_size(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    path = folder / "model.onnx"
    elsewhere = tmp_path / "elsewhere.onnx"
    path.rename(elsewhere)
    with pytest.raises(ModelInvalid, match=r"model\.onnx cannot be read: No such file"):
        load_model(folder)
    path.symlink_to(elsewhere)
    with pytest.raises(ModelInvalid, match=r"model\.onnx cannot be read"):
        load_model(folder)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelInvalid, match=r"model\.onnx is not a plain file"):
        load_model(folder)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(MAX_MODEL_BYTES + 1)
    with pytest.raises(ModelInvalid, match=f"model.onnx is larger than {MAX_MODEL_BYTES} bytes"):
        load_model(folder)


def test_an_artifact_of_another_folder_is_refused(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, version=1)
    shutil.copytree(folder, tmp_path / "tiny" / "2")
    with pytest.raises(ModelInvalid, match="that of tiny version 1, not of this folder"):
        load_model(tmp_path / "tiny" / "2")


def add_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["go_on"])],
        "forever",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])],
    )
    model.graph.node.append(helper.make_node("Loop", ["", "yes"], [], body=body))


def hide_loop_in_known_operator(model: onnx.ModelProto) -> None:
    add_loop(model)
    model.graph.node[-1].op_type = "Identity"


def keep_weights_outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def keep_constant_outside(model: onnx.ModelProto) -> None:
    constant = next(node for node in model.graph.node if node.op_type == "Constant")
    constant.attribute[0].t.external_data.add(key="location", value="weights.bin")


def put_value(value: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        weights = numpy_helper.to_array(tensor).copy()
        weights.flat[0] = value
        tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))

    return change


def add_nodes(model: onnx.ModelProto) -> None:
    for number in range(500):
        model.graph.node.append(helper.make_node("Identity", ["obs"], [f"copy_{number}"]))


def add_function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 18)]
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("f", "f", ["x"], ["y"], [node], opset))


def add_sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [2])
    model.graph.sparse_initializer.append(sparse)


def add_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "mixer"))


def make_double(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3), "double"))


def use_own_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add_loop, "operator that is not on the list"),
        (hide_loop_in_known_operator, "graph or sparse tensor inside a node"),
        (keep_weights_outside, "keeps data outside its file"),
        (keep_constant_outside, "keeps data outside its file"),
        (put_value(float("nan")), "weights that are no numbers"),
        (put_value(float("inf")), "weights that are no numbers"),
        (put_value(2e6), "weights that are no numbers"),
        (add_nodes, r"has 5\d\d nodes; the limit is 500"),
        (add_function, "functions, training data or sparse"),
        (add_sparse, "functions, training data or sparse"),
        (add_weights, "its manifest says"),
        (make_double, "not float32, int64 or bool"),
        (use_own_domain, "ONNX's own operators"),
        (lambda model: model.ClearField("opset_import"), "ONNX's own operators"),
        (lambda model: model.ClearField("graph"), "has 0 nodes"),
    ],
)
def test_a_file_that_is_more_than_a_policy_is_refused(
    tmp_path: Path, policy: Policy, change: Change, reason: str
) -> None:
    folder = write_artifact(tmp_path, policy)
    model = onnx.load_from_string((folder / "model.onnx").read_bytes())
    change(model)
    described = manifest(policy, "tiny", 1) | {"golden": golden(policy)}
    write_model(folder, model, described)
    with pytest.raises(ModelInvalid, match=reason):
        load_model(folder)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"....ORTM" + bytes(64)])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, policy: Policy, data: bytes) -> None:
    class Raw:
        def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
            return data

    folder = write_artifact(tmp_path, policy)
    described = manifest(policy, "tiny", 1) | {"golden": golden(policy)}
    write_model(folder, Raw(), described)
    with pytest.raises(ModelInvalid):
        load_model(folder)


def test_a_broken_manifest_is_refused(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    content = json.loads((folder / "manifest.json").read_text())
    del content["golden"]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ModelInvalid, match="golden"):
        load_model(folder)
