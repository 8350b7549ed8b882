"""One loaded policy: an onnxruntime session that turns N rows into N actions.

Dimensions: N rows of one call · O obs_dim · U n_actions · H hidden_dim.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from serving.errors import ModelInvalid
from serving.models.manifest import METADATA_KEY, MODEL_FILE, Golden, Manifest

Device = Literal["cpu", "cuda"]
FloatArray = npt.NDArray[np.float32]
Feed = dict[str, npt.NDArray[np.generic]]

logger = logging.getLogger(__name__)

_OUTPUTS = ("action", "q_values", "next_hidden")
PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
SELF_TEST_S = 20.0
"""How long a model's trial runs may take. They take milliseconds, unless it is made to be slow."""
_PADDED_ROWS = 32
"""Rows of every run on a machine whose results depend on the number of rows."""
_LIMITS: dict[Literal["obs", "hidden"], float] = {"obs": 1e6, "hidden": 1.001}
"""How large a number may be. A memory is a weighted mean of tanh values (the rest is room for
rounding), and with observations and weights within a million no sum in the network overflows."""


class Row(NamedTuple):
    """What one agent needs for one step, as bytes that need no further checking but of values."""

    obs: bytes
    """float32 [O], little-endian."""
    avail_actions: bytes
    """bool [U], one byte each, at least one of them 1."""
    last_action: int
    """-1 at the first step."""
    agent_id: int
    hidden: bytes
    """float32 [H], little-endian; zeros at the first step."""


class StepResult(NamedTuple):
    """What one step of one agent brought."""

    action: int
    q_values: bytes
    """float32 [U], little-endian, not masked."""
    next_hidden: bytes
    """float32 [H], little-endian."""


class BadRow(NamedTuple):
    """Why a row was not stepped."""

    field: Literal["obs", "hidden"]
    message: str


class AgentModel:
    """A policy that has been checked against its manifest.

    Results do not depend on which rows share a call. Whether the machine's arithmetic keeps that
    promise for batches of any size is tried out at load; where it does not, every run is padded to
    one fixed number of rows, or, failing that too, holds one row.
    """

    def __init__(self, model: bytes, manifest: Manifest, device: Device = "cpu") -> None:
        """Load the model from these very bytes, check its signature and run its self-test.

        Raises:
            ModelInvalid: the engine refuses the model, its inputs, outputs or metadata are not
                those of the manifest, or it does not reproduce the golden rows.
        """
        self.manifest = manifest
        self.name, self.version = manifest.name, manifest.version
        self.label = manifest.label
        self.sha256 = manifest.files[MODEL_FILE].sha256
        self.n_episodes = 0
        """Held episodes that began on this model and have not ended."""
        self.last_carried = -math.inf
        """When a caller with a memory of its own last asked, by `time.monotonic`."""
        dims = manifest.dims
        self.n_agents, self.n_actions = dims.n_agents, dims.n_actions
        self.obs_bytes, self.hidden_bytes = 4 * dims.obs_dim, 4 * dims.hidden_dim
        self.first_hidden = bytes(self.hidden_bytes)
        self._obs_dim, self._hidden_dim = dims.obs_dim, dims.hidden_dim
        self._session = _open_session(model, device)
        self._check_signature()
        self._check_metadata()
        with _time_limit(SELF_TEST_S) as self._limit:
            try:
                self.rows_per_run = self._find_rows_per_run()
                self._self_test(manifest.golden)
            except ModelInvalid:
                raise
            except Exception as error:  # onnxruntime's errors share no public base
                if self._limit.terminate:
                    raise ModelInvalid(f"the self-test took over {SELF_TEST_S:g} s") from None
                raise ModelInvalid(f"the model does not run: {_first_line(error)}") from error
        self._limit = None

    @property
    def provider(self) -> str:
        """The onnxruntime provider that really runs the model."""
        return str(self._session.get_providers()[0])

    def step(self, rows: Sequence[Row]) -> list[StepResult | BadRow]:
        """Step N agents at once; a row whose values cannot be used does not touch the others."""
        size = self.rows_per_run
        if size is None or len(rows) == size == 1:
            return self._run_rows(rows, padding=0)
        results: list[StepResult | BadRow] = []
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            results += self._run_rows(chunk, padding=size - len(chunk))
        return results

    def _run_rows(self, rows: Sequence[Row], padding: int) -> list[StepResult | BadRow]:
        feed = self._feed(rows)
        bad = self._bad_inputs(feed)
        if bad:
            good = [row for index, row in enumerate(rows) if index not in bad]
            results = iter(self._run_rows(good, padding + len(bad)) if good else [])
            return [bad[index] if index in bad else next(results) for index in range(len(rows))]
        if padding:
            feed = {
                name: np.concatenate([value, np.repeat(value[:1], padding, axis=0)])
                for name, value in feed.items()
            }
        action, q_values, next_hidden = self._session.run(_OUTPUTS, feed, self._limit)
        return self._results(len(rows), action, q_values, next_hidden)

    def _feed(self, rows: Sequence[Row]) -> Feed:
        n = len(rows)
        obs, avail_actions, last_action, agent_id, hidden = zip(*rows, strict=True)
        return {
            "obs": np.frombuffer(b"".join(obs), "<f4").reshape(n, self._obs_dim),
            "avail_actions": np.frombuffer(b"".join(avail_actions), np.bool_).reshape(
                n, self.n_actions
            ),
            "last_action": np.array(last_action, np.int64),
            "agent_id": np.array(agent_id, np.int64),
            "hidden": np.frombuffer(b"".join(hidden), "<f4").reshape(n, self._hidden_dim),
        }

    def _bad_inputs(self, feed: Feed) -> dict[int, BadRow]:
        """By row, what must not reach the network: it never forgets a NaN."""
        bad: dict[int, BadRow] = {}
        for field, limit in _LIMITS.items():
            usable = np.abs(feed[field]) <= limit  # False for a NaN
            if not usable.all():
                for index, column in np.argwhere(~usable).tolist():
                    message = f"{field}[{column}] is not a number in [-{limit:g}, {limit:g}]"
                    bad.setdefault(index, BadRow(field, message))
        return bad

    def _results(
        self,
        n: int,
        action: npt.NDArray[np.int64],
        q_values: FloatArray,
        next_hidden: FloatArray,
    ) -> list[StepResult | BadRow]:
        q_bytes, hidden_bytes = q_values.tobytes(), next_hidden.tobytes()
        q_size, hidden_size = 4 * self.n_actions, self.hidden_bytes
        return [
            StepResult(
                chosen,
                q_bytes[index * q_size : (index + 1) * q_size],
                hidden_bytes[index * hidden_size : (index + 1) * hidden_size],
            )
            for index, chosen in enumerate(action[:n].tolist())
        ]

    def _check_signature(self) -> None:
        obs, actions = f"[N, {self._obs_dim}]", f"[N, {self.n_actions}]"
        hidden = f"[N, {self._hidden_dim}]"
        inputs = {
            "obs": "tensor(float) " + obs,
            "avail_actions": "tensor(bool) " + actions,
            "last_action": "tensor(int64) [N]",
            "agent_id": "tensor(int64) [N]",
            "hidden": "tensor(float) " + hidden,
        }
        outputs = {
            "action": "tensor(int64) [N]",
            "q_values": "tensor(float) " + actions,
            "next_hidden": "tensor(float) " + hidden,
        }
        for nodes, expected in (
            (self._session.get_inputs(), inputs),
            (self._session.get_outputs(), outputs),
        ):
            found = {node.name: f"{node.type} {_shape(node.shape)}" for node in nodes}
            if found != expected:
                raise ModelInvalid(f"the model has {found}; its manifest asks for {expected}")

    def _check_metadata(self) -> None:
        written = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if written is None:
            raise ModelInvalid(f"the model carries no {METADATA_KEY} in its metadata")
        try:
            same = json.loads(written) == self.manifest.summary()
        except ValueError:
            same = False
        if not same:
            raise ModelInvalid(f"{METADATA_KEY} in the model's metadata is not its manifest")

    def _find_rows_per_run(self) -> int | None:
        """How many rows each run must have so that a row's result is its own: None, any number.

        Matrix products may take another path, and round otherwise, for another number of rows.
        """
        feed = self._trial_feed(2 * _PADDED_ROWS + 1)
        if self._is_invariant(feed, [*range(1, 18), 31, 32, 33, 64, 65]):
            return None
        size = _PADDED_ROWS if self._is_invariant(feed, [_PADDED_ROWS]) else 1
        logger.warning(
            "results depend on the number of rows: every run of %s has %d row(s)", self.label, size
        )
        return size

    def _trial_feed(self, n: int) -> Feed:
        random = np.random.default_rng(0)
        return {
            "obs": random.uniform(-1, 1, (n, self._obs_dim)).astype(np.float32),
            "avail_actions": np.ones((n, self.n_actions), np.bool_),
            "last_action": random.integers(-1, self.n_actions, n),
            "agent_id": random.integers(0, self.n_agents, n),
            "hidden": random.uniform(-1, 1, (n, self._hidden_dim)).astype(np.float32),
        }

    def _is_invariant(self, feed: Feed, sizes: Sequence[int]) -> bool:
        """Whether each row gives the same bits at any place of a run of any of these sizes."""
        n = len(feed["obs"])
        seen: dict[int, bytes] = {}
        for size in sizes:
            for start in range(0, n - size + 1, max(1, size // 2)):
                part = {name: value[start : start + size] for name, value in feed.items()}
                _, q_values, next_hidden = self._session.run(_OUTPUTS, part, self._limit)
                for offset in range(size):
                    bits = q_values[offset].tobytes() + next_hidden[offset].tobytes()
                    if seen.setdefault(start + offset, bits) != bits:
                        return False
        return True

    def _self_test(self, golden: Golden) -> None:
        rows = [
            Row(
                np.array(row.obs, "<f4").tobytes(),
                bytes(row.avail_actions),
                row.last_action,
                row.agent_id,
                np.array(row.hidden, "<f4").tobytes(),
            )
            for row in golden.rows
        ]
        for index, (result, row) in enumerate(zip(self.step(rows), golden.rows, strict=True)):
            if isinstance(result, BadRow):
                raise ModelInvalid(f"golden row {index}: {result.message}")
            error = max(
                _relative_error(result.q_values, row.q_values),
                _relative_error(result.next_hidden, row.next_hidden),
            )
            if result.action != row.action or not error <= golden.tolerance:
                raise ModelInvalid(
                    f"golden row {index}: action {result.action} for {row.action}, "
                    f"values off by {error:.1e} (tolerance {golden.tolerance:.0e})"
                )


def _open_session(model: bytes, device: Device) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # One thread that never spins: the model is small, and the core is the transport's too.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else bytes that look like onnxruntime's own format would pass by the checks made on ONNX.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4
    wanted = PROVIDERS[device]
    if wanted not in ort.get_available_providers():
        raise ModelInvalid(f"this onnxruntime has no {wanted}; it is in the extra `serve-gpu`")
    try:
        session = ort.InferenceSession(model, options, providers=[wanted])
    except Exception as error:  # onnxruntime's errors share no public base
        raise ModelInvalid(f"onnxruntime refuses the model: {_first_line(error)}") from error
    if session.get_providers()[0] != wanted:
        raise ModelInvalid(f"onnxruntime did not get {wanted} to run here")
    return session


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[ort.RunOptions]:
    """Options whose runs end with an error, the running one too, once the time is over."""
    options = ort.RunOptions()
    timer = threading.Timer(seconds, lambda: setattr(options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def _relative_error(found: bytes, expected: Sequence[float]) -> float:
    """The largest difference, relative to the value where that is over 1 in size."""
    values = np.array(expected)
    return float((np.abs(np.frombuffer(found, "<f4") - values) / np.fmax(1, abs(values))).max())


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]


def _shape(sizes: list[int | str | None]) -> str:
    """The first axis is open: whatever the file calls it, it is N here."""
    first = ["N" if not isinstance(size, int) else size for size in sizes[:1]]
    return f"[{', '.join(map(str, first + sizes[1:]))}]"
