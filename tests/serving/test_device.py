"""Where models run: nothing starts on a device that it would not run on."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime as ort
import pytest

from serving.models.device import PROBE, DeviceUnusable, check_device

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def test_the_probe_is_a_sound_model() -> None:
    onnx.checker.check_model(onnx.load_from_string(PROBE), full_check=True)


def test_the_cpu_is_always_there() -> None:
    check_device("cpu")


class FallsBack:
    """What onnxruntime does where CUDA's provider is there and no GPU is."""

    def __init__(self, *_: Any, providers: list[str]) -> None:
        assert providers == [CUDA]

    def get_providers(self) -> list[str]:
        return [CPU]


def test_a_provider_that_falls_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", FallsBack)
    with pytest.raises(DeviceUnusable, match=r"it cannot be used here\. Fix: see that nvidia-smi"):
        check_device("cuda")


def test_a_provider_that_fails_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no device\nand more")

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(DeviceUnusable, match=r"it cannot be used here: no device\. Fix"):
        check_device("cuda")


def test_a_provider_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(DeviceUnusable, match=rf"has no {CUDA} \(it has: {CPU}\)\. Fix: pip"):
        check_device("cuda")
