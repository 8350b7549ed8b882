"""The model repository: `models/NAME/VERSION/`, read once, checked, loaded, looked up.

A model is trusted only as far as it has been checked: every file that its manifest lists is read
once and hashed, the ONNX outline is inspected (size, operators, no control flow, nothing outside
the file), and the engine loads the very bytes that were hashed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from serving.errors import InvalidRequest, ModelInvalid, ModelNotFound, ModelNotReady
from serving.models.agent_model import AgentModel, Device
from serving.models.manifest import (
    DIGEST_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    NAME_PATTERN,
    File,
    Manifest,
    manifest_digest,
    parse_manifest,
)
from serving.pb.unmix.onnx import outline_pb2 as onnx_pb

logger = logging.getLogger(__name__)

MAX_MODEL_BYTES = 16 * 1024 * 1024
MAX_FILE_BYTES = 4 * 1024 * 1024
"""For the manifest, the model card and pictures."""
MAX_NODES = 500
MAX_WEIGHT = 1e6
OPSETS = range(13, 27)
# fmt: off
OPERATORS = frozenset({
    "Add", "ArgMax", "Cast", "Concat", "Constant", "Div", "Gather", "Gemm", "GRU", "Identity",
    "MatMul", "Mul", "Neg", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Squeeze", "Sub",
    "Tanh", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""What linear layers, a GRU, a mask and an argmax need. Nothing here loops, branches, or makes a
tensor much larger than what it is given."""

Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Each file's name, inode, size and time of change."""

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_FLOAT, _INT64, _BOOL = 1, 7, 9  # ONNX's TensorProto.DataType


@dataclass(frozen=True)
class ModelStatus:
    """One version in the repository: loaded (`model`) or refused (`reason`)."""

    name: str
    version: int
    model: AgentModel | None
    reason: str
    latest: bool
    retiring: bool = False
    """Unloaded, but episodes that began on it still run."""


class Repository:
    """The models under one folder.

    Requests are answered from the loaded models alone; the disk is read by `read`, which any thread
    may call, and by what is made of it.
    """

    def __init__(self, root: Path, device: Device = "cpu") -> None:
        self._root = root
        self._device = device
        self._models: dict[str, dict[int, AgentModel]] = {}
        self._retiring: dict[tuple[str, int], AgentModel] = {}
        self._refused: dict[tuple[str, int], str] = {}

    def load_all(self) -> None:
        """Load every version there is. One that is refused is remembered with its reason."""
        for name, version in self.find():
            try:
                self.load(name, version)
            except ModelInvalid as error:
                logger.error("model %s version %s refused: %s", name, version, error)

    def load(self, name: str, version: int) -> AgentModel:
        """Load one version; only when it has passed every check does it take steps.

        Raises:
            ModelInvalid: it was refused. A version loaded before stays as it is.
        """
        try:
            model = self.read(name, version)
        except ModelInvalid as error:
            self.refuse(name, version, error)
            raise
        return self.install(model)

    def read(self, name: str, version: int) -> AgentModel:
        """Read, check and try out one version; nobody is served by it yet.

        Raises:
            ModelInvalid: with the reason.
        """
        return load_model(self._root / name / str(version), self._device)

    def refuse(self, name: str, version: int, error: ModelInvalid) -> None:
        """Remember why a version was refused."""
        self._refused[name, version] = str(error)

    def install(self, model: AgentModel) -> AgentModel:
        """Let new episodes begin on this version from now on; returns what they begin on.

        A version means one and the same policy for as long as anybody plays by it: the same files
        again change nothing, and bring one back that was retiring.

        Raises:
            ModelInvalid: the version takes steps already, and with other contents.
        """
        name, version = model.name, model.version
        key = (name, version)
        running = self._models.get(name, {}).get(version) or self._retiring.get(key)
        if running is not None and running.manifest != model.manifest:
            raise ModelInvalid(
                f"{model.label} takes steps with other contents; publish these as a new version"
            )
        self._refused.pop(key, None)
        self._retiring.pop(key, None)
        model = running or model
        # Replaced as a whole, so that nobody ever sees half a change.
        self._models = {**self._models, name: {**self._models.get(name, {}), version: model}}
        return model

    def unload(self, name: str, version: int) -> AgentModel:
        """Let no new episode begin on this version; those that run on it go on.

        Raises:
            ModelNotFound: it is not loaded.
        """
        versions = dict(self._models.get(name, {}))
        model = versions.pop(version, None)
        if model is None:
            raise ModelNotFound("that model version is not loaded")
        self._retiring[name, version] = model
        others = {other: kept for other, kept in self._models.items() if other != name}
        self._models = {**others, name: versions} if versions else others
        return model

    def retiring(self) -> list[AgentModel]:
        """Every model that was unloaded and is still in use."""
        return list(self._retiring.values())

    def forget(self, model: AgentModel) -> None:
        """The last episode of a retiring model has ended."""
        del self._retiring[model.name, model.version]

    def forget_refused(self, kept: Container[tuple[str, int]]) -> None:
        """Remember no refusal but those of these versions: the others are no longer there."""
        self._refused = {key: reason for key, reason in self._refused.items() if key in kept}

    def resolve(self, name: str = "", version: int = 0, running: bool = False) -> AgentModel:
        """The model to step.

        Args:
            name: empty for the only model there is.
            version: 0 for the newest that is loaded.
            running: whether it is for an episode that has begun, and so may be on a version that
                takes no new ones.

        Raises:
            InvalidRequest, ModelNotFound, ModelNotReady
        """
        name = name or self._only_name()
        if running and (name, version) in self._retiring:
            return self._retiring[name, version]
        versions = self._models.get(name)
        if versions is not None:
            model = versions.get(version or max(versions))
            if model is not None:
                return model
        if any(name == refused and version in (0, number) for refused, number in self._refused):
            raise ModelNotReady("the model is in the repository, but was refused when loading")
        if versions is None:
            raise ModelNotFound(f"no model of that name; there is {_listing(self._models)}")
        raise ModelNotFound(
            f"model {name} has no version {version}; there is {_listing(map(str, versions))}"
        )

    def _only_name(self) -> str:
        if len(self._models) == 1:
            return next(iter(self._models))
        if not self._models:
            raise ModelNotReady("no model is loaded")
        raise InvalidRequest("model", f"model must name one of {_listing(self._models)}")

    def statuses(self) -> list[ModelStatus]:
        """Every version, loaded or refused, by name, then version."""
        loaded = [
            ModelStatus(name, version, model, "", latest=version == max(versions))
            for name, versions in self._models.items()
            for version, model in versions.items()
        ]
        retiring = [
            ModelStatus(name, version, model, "", latest=False, retiring=True)
            for (name, version), model in self._retiring.items()
        ]
        refused = [
            ModelStatus(name, version, None, reason, latest=False)
            for (name, version), reason in self._refused.items()
            if version not in self._models.get(name, {}) and (name, version) not in self._retiring
        ]
        return sorted(loaded + retiring + refused, key=lambda status: (status.name, status.version))

    def status(self, name: str = "", version: int = 0) -> ModelStatus:
        """One version, whatever its state. Arguments and errors as for `resolve`."""
        for status in self.statuses():
            if (status.name, status.version) == (name, version):
                return status
        model = self.resolve(name, version)
        latest = self.resolve(model.name) is model
        return ModelStatus(model.name, model.version, model, "", latest)

    def models(self) -> list[AgentModel]:
        """Every loaded model."""
        return [model for versions in self._models.values() for model in versions.values()]

    def find(self) -> dict[tuple[str, int], Fingerprint]:
        """(name, version) of each folder that is named like one and holds a manifest, with what
        tells whether its files have changed."""
        found: dict[tuple[str, int], Fingerprint] = {}
        if not self._root.is_dir():
            return found
        for folder in sorted(self._root.iterdir()):
            if not (re.fullmatch(NAME_PATTERN, folder.name) and folder.is_dir()):
                continue
            for inner in sorted(folder.iterdir()):
                if _VERSION.fullmatch(inner.name) and (inner / MANIFEST_FILE).exists():
                    found[folder.name, int(inner.name)] = _fingerprint(inner)
        return found


def load_model(folder: Path, device: Device = "cpu") -> AgentModel:
    """Check and load the artifact in `models/NAME/VERSION`.

    Raises:
        ModelInvalid: with the reason.
    """
    described = _read(folder / MANIFEST_FILE, MAX_FILE_BYTES)
    digest = folder / DIGEST_FILE
    if os.path.lexists(digest) and _read(digest, MAX_FILE_BYTES) != manifest_digest(described):
        raise ModelInvalid(f"{MANIFEST_FILE} is not the file that {DIGEST_FILE} describes")
    manifest = parse_manifest(described)
    if (manifest.name, str(manifest.version)) != (folder.parent.name, folder.name):
        raise ModelInvalid(f"the manifest is that of {manifest.label}, not of this folder")
    model = b""
    for name, file in manifest.files.items():
        data = _read_checked(folder / name, file)
        if name == MODEL_FILE:
            model = data
    check_outline(model, manifest)
    return AgentModel(model, manifest, device)


def _fingerprint(folder: Path) -> Fingerprint:
    try:
        stats = [(file.name, file.lstat()) for file in sorted(folder.iterdir())]
    except OSError:  # it is being written, or removed, at this moment
        return ()
    return tuple((name, it.st_ino, it.st_size, it.st_mtime_ns) for name, it in stats)


def check_outline(model: bytes, manifest: Manifest) -> None:
    """Refuse an ONNX file that holds more than a small feed-forward graph of known operators.

    Raises:
        ModelInvalid: with the reason.
    """
    try:
        outline = onnx_pb.ModelOutline.FromString(model)
    except DecodeError:
        raise ModelInvalid("the model is not an ONNX file") from None
    graph = outline.graph
    opsets = {opset.domain or "ai.onnx": opset.version for opset in outline.opset_import}
    if set(opsets) != {"ai.onnx"} or opsets["ai.onnx"] not in OPSETS:
        raise ModelInvalid(
            f"the model must use ONNX's own operators, set {OPSETS[0]} to {OPSETS[-1]}, alone"
        )
    if outline.functions or outline.training_info or graph.sparse_initializer:
        raise ModelInvalid("the model holds functions, training data or sparse tensors")
    if not 0 < len(graph.node) <= MAX_NODES:
        raise ModelInvalid(f"the model has {len(graph.node)} nodes; the limit is {MAX_NODES}")
    for node in graph.node:
        _check_node(node)
    for tensor in graph.initializer:
        _check_stored_here(tensor)
        _check_weights(tensor)
    # The weights are the agent's and nothing besides; constants such as split sizes are no floats.
    n_weights = sum(
        int(np.prod(tensor.dims, dtype=object))
        for tensor in graph.initializer
        if tensor.data_type == _FLOAT
    )
    if n_weights != manifest.parameters:
        raise ModelInvalid(
            f"the model holds {n_weights} weights; its manifest says {manifest.parameters}"
        )


def _check_node(node: onnx_pb.NodeOutline) -> None:
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        raise ModelInvalid("the model uses an operator that is not on the list of allowed ones")
    for attribute in node.attribute:
        if (
            attribute.HasField("g")
            or attribute.graphs
            or attribute.HasField("sparse_tensor")
            or attribute.sparse_tensors
        ):
            raise ModelInvalid("the model holds a graph or sparse tensor inside a node")
        if attribute.HasField("t"):
            _check_stored_here(attribute.t)
        for tensor in attribute.tensors:
            _check_stored_here(tensor)


def _check_stored_here(tensor: onnx_pb.TensorOutline) -> None:
    if tensor.external_data or tensor.data_location != 0:
        raise ModelInvalid("the model keeps data outside its file")


def _check_weights(tensor: onnx_pb.TensorOutline) -> None:
    if tensor.data_type not in (_FLOAT, _INT64, _BOOL):
        raise ModelInvalid("the model holds an initializer that is not float32, int64 or bool")
    if tensor.data_type == _FLOAT:
        if len(tensor.raw_data) % 4:
            raise ModelInvalid("the model holds an initializer of broken length")
        values = np.frombuffer(tensor.raw_data, "<f4") if tensor.raw_data else tensor.float_data
        if not (np.abs(values) <= MAX_WEIGHT).all():
            raise ModelInvalid(
                f"the model holds weights that are no numbers in [-{MAX_WEIGHT:g}, {MAX_WEIGHT:g}]"
            )


def _read_checked(path: Path, file: File) -> bytes:
    limit = MAX_MODEL_BYTES if path.name == MODEL_FILE else MAX_FILE_BYTES
    data = _read(path, limit)
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
        raise ModelInvalid(f"{path.name} is not the file that the manifest describes")
    return data


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a plain file of at most `limit` bytes; never follows a link to elsewhere."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ModelInvalid(f"{path.name} cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ModelInvalid(f"{path.name} is not a plain file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ModelInvalid(f"{path.name} is larger than {limit} bytes")
    return data


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
