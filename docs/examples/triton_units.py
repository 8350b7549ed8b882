"""Units that decide through NVIDIA's tritonclient, as it is: over HTTP or gRPC, with sequences or
with memories of their own.

    pip install 'tritonclient[http,grpc]' numpy
    python triton_units.py HOST:PORT MODEL http|grpc sequence|carried

Reads a JSON object a line and answers one: {"begin": [unit, ...], "units": [unit, ...],
"agents": [agent, ...], "obs": [[...], ...], "avail_actions": [[...], ...]} with {"actions": [...]}.
`begin` names the units whose episode starts with this step; a unit's agent never changes.

The same code talks to Triton itself, which serves the folder of models as it stands; Triton knows
the way with sequences alone (docs/standards.md).
"""

from __future__ import annotations

import importlib
import json
import secrets
import sys
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

NO_ACTION = -1


class Unit(ABC):
    """One unit: what it observes goes out, its action comes back.

    Args:
        door: tritonclient.http or tritonclient.grpc, which have the same names.
        client: its InferenceServerClient.
    """

    def __init__(self, door: Any, client: Any, model: str, agent_id: int) -> None:
        self._door, self._client, self._model = door, client, model
        self._agent_id = np.array([[agent_id]], np.int64)
        self.begin()

    def begin(self) -> None:
        self._last_action = NO_ACTION
        self._is_first = True

    def act(self, obs: Any, avail_actions: Any) -> int:
        """One step: float32 [O] and bool [U] -> the action."""
        inputs = [
            self._input("obs", "FP32", np.array([obs], np.float32)),
            self._input("avail_actions", "BOOL", np.array([avail_actions], np.bool_)),
            self._input("last_action", "INT64", np.array([[self._last_action]], np.int64)),
            self._input("agent_id", "INT64", self._agent_id),
        ]
        result = self._infer(inputs)
        self._last_action = int(result.as_numpy("action")[0, 0])
        self._is_first = False
        return self._last_action

    def _input(self, name: str, datatype: str, values: Any) -> Any:
        tensor = self._door.InferInput(name, values.shape, datatype)
        tensor.set_data_from_numpy(values)
        return tensor

    @abstractmethod
    def _infer(self, inputs: list[Any]) -> Any:
        """The service's answer to a step's tensors."""


class SequenceUnit(Unit):
    """The service holds the memory: an episode is a sequence."""

    def begin(self) -> None:
        super().begin()
        self._sequence_id = 1 + secrets.randbelow(2**62)

    def _infer(self, inputs: list[Any]) -> Any:
        return self._client.infer(
            self._model,
            inputs,
            sequence_id=self._sequence_id,
            sequence_start=self._is_first,
        )


class CarryingUnit(Unit):
    """The unit carries its memory: each answer's `next_hidden` is the next request's `hidden`."""

    def begin(self) -> None:
        super().begin()
        self._hidden: Any = None

    def _infer(self, inputs: list[Any]) -> Any:
        if self._hidden is not None:  # left out at the first step, for zeros
            datatype = "BYTES" if self._hidden.dtype == np.object_ else "FP32"
            inputs.append(self._input("hidden", datatype, self._hidden))
        result = self._client.infer(self._model, inputs)
        self._hidden = result.as_numpy("next_hidden")
        return result


def main() -> None:
    address, model, way, memory = sys.argv[1:]
    door = importlib.import_module(f"tritonclient.{way}")
    client = door.InferenceServerClient(address)
    kind = {"sequence": SequenceUnit, "carried": CarryingUnit}[memory]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    units: dict[int, Unit] = {}
    for line in sys.stdin:
        step = json.loads(line)
        for name in step["begin"]:
            if name in units:
                units[name].begin()
        rows = zip(step["units"], step["agents"], step["obs"], step["avail_actions"], strict=True)
        actions = []
        for name, agent, obs, avail_actions in rows:
            if name not in units:
                units[name] = kind(door, client, model, agent)
            actions.append(units[name].act(obs, avail_actions))
        print(json.dumps({"actions": actions}), flush=True)


if __name__ == "__main__":
    main()
