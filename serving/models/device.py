"""Whether onnxruntime can run models where it is asked to: found out before any is loaded.

Left to itself, onnxruntime falls back to the CPU without an error where CUDA cannot be used.
"""

from __future__ import annotations

import contextlib
from importlib import metadata

import onnxruntime as ort

from serving.models.agent_model import PROVIDERS, Device
from serving.settings import SetupError

PROBE = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)
"""An ONNX model: y = x, float32 [1]."""


class DeviceUnusable(SetupError):  # noqa: N818 - as the service's other errors
    """Nothing can run there."""


def check_engine() -> None:
    """Refuse to run on two onnxruntime packages at once.

    Both install into the same folder, where the one installed last wins, and pip does not object.
    """
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(found) > 1:
        raise SetupError(
            f"{' and '.join(found)} are both installed and overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them again: "
            "pip install 'unmix[serve]', or 'unmix[serve-gpu]' for an NVIDIA GPU",
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_device(device: Device) -> None:
    """Raises: DeviceUnusable"""
    wanted = PROVIDERS[device]
    available = ort.get_available_providers()
    if wanted not in available:
        raise DeviceUnusable(
            f"device {device}: onnxruntime {ort.__version__} here has no {wanted} (it has: "
            f"{', '.join(available)})",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then "
            "pip install 'unmix[serve-gpu]'; or serve on the CPU with --device cpu",
        )
    if device == "cuda":
        # CUDA and cuDNN as pip packages lie where no loader looks; what is missing is said below.
        with contextlib.suppress(Exception):
            ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        running = ort.InferenceSession(PROBE, options, providers=[wanted]).get_providers()
    except Exception as error:  # onnxruntime's errors share no public base
        running, reason = [], f": {str(error).splitlines()[0][:300]}"
    else:
        reason = ""
    if running[:1] != [wanted]:
        raise DeviceUnusable(
            f"device {device}: onnxruntime {ort.__version__} has {wanted}, but it cannot be used "
            f"here{reason}",
            "see that nvidia-smi lists a GPU and that its driver fits the CUDA "
            "that onnxruntime was built for, and install 'unmix[serve-gpu]', which brings CUDA's "
            "and cuDNN's libraries; or serve on the CPU with --device cpu",
        )
