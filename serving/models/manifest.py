"""What a model's `manifest.json` must hold, and the means to read it strictly."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.errors import ModelInvalid

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
DIGEST_FILE = "manifest.json.sha256"
"""The manifest's own hash, as `sha256sum` writes it, so that every byte of an artifact counts.
Artifacts without it are taken too: the first ones had none."""
METADATA_KEY = "unmix.manifest"
"""Where the ONNX file carries the manifest, less `files` and `golden`."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Text = Annotated[str, Field(min_length=1, max_length=512)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Dimension = Annotated[int, Field(ge=1, le=65536)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    """No unknown keys, no conversions, no NaN, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Environment(_Strict):
    name: Text
    layout_sha256: Sha256
    """Over the ordered names of every observation feature and action."""


class Dims(_Strict):
    n_agents: Dimension
    n_actions: Dimension
    obs_dim: Dimension
    hidden_dim: Dimension


class Agent(_Strict):
    id: Count
    unit_type: Text


class Training(_Strict):
    """Where the weights come from."""

    run: Text
    preset: Text
    seed: int
    env_steps: Count
    episodes: Count
    gradient_steps: Count
    win_rate: Fraction
    win_rate_ci95: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    win_rate_episodes: Count
    win_rate_seed: int
    config_sha256: Sha256
    command: Annotated[str, Field(max_length=4096)]
    software: dict[str, str]


class File(_Strict):
    sha256: Sha256
    size: Count
    """Bytes."""


class GoldenRow(_Strict):
    """One step as the exporter saw it."""

    obs: list[float]
    avail_actions: list[bool]
    last_action: int
    agent_id: Count
    hidden: list[float]
    action: Count
    q_values: list[float]
    next_hidden: list[float]


class Golden(_Strict):
    tolerance: Annotated[float, Field(gt=0, le=1e-3)]
    """Largest difference of any q value or memory from the exporter's, relative to those over 1."""
    rows: Annotated[list[GoldenRow], Field(min_length=1, max_length=64)]


class Manifest(_Strict):
    """One version of one model."""

    format_version: Literal[1]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
    map: Text
    environment: Environment
    algorithm: Text
    q_values: Literal["q_values", "logits"]
    """What the output of that name holds."""
    dims: Dims
    episode_limit: Annotated[int, Field(ge=1)]
    agents: list[Agent]
    training: Training
    parameters: Count
    files: dict[str, File]
    golden: Golden

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        dims = self.dims
        if [agent.id for agent in self.agents] != list(range(dims.n_agents)):
            raise ValueError(f"agents must be numbered 0 to {dims.n_agents - 1}, in order")
        if MODEL_FILE not in self.files:
            raise ValueError(f"files does not list {MODEL_FILE}")
        for name in self.files:
            if name in {"", ".", "..", MANIFEST_FILE} or "/" in name or "\\" in name:
                raise ValueError("files must list plain file names, without the manifest's own")
        for index, row in enumerate(self.golden.rows):
            lengths = (len(row.obs), len(row.avail_actions), len(row.q_values))
            memory = (len(row.hidden), len(row.next_hidden))
            if lengths != (dims.obs_dim, dims.n_actions, dims.n_actions) or memory != (
                dims.hidden_dim,
                dims.hidden_dim,
            ):
                raise ValueError(f"golden row {index} does not have the sizes of dims")
            if not (
                -1 <= row.last_action < dims.n_actions
                and row.agent_id < dims.n_agents
                and row.action < dims.n_actions
            ):
                raise ValueError(f"golden row {index} names an action or agent that does not exist")
        return self

    @property
    def label(self) -> str:
        """The model as messages name it."""
        return f"{self.name} version {self.version}"

    def summary(self) -> dict[str, Any]:
        """The manifest less `files` and `golden`: what the ONNX file carries too."""
        return self.model_dump(mode="json", exclude={"files", "golden"})


def manifest_digest(data: bytes) -> bytes:
    """What `DIGEST_FILE` holds beside a manifest of these bytes."""
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_FILE}\n".encode()


def parse_manifest(data: bytes) -> Manifest:
    """Raises: ModelInvalid, naming each key at fault."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'manifest'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)[:5]
        )
        raise ModelInvalid(f"{MANIFEST_FILE}: {faults}") from None
