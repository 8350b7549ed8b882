"""`make proto`: write `serving/pb` from `proto/` with the one compiler whose code loads everywhere.

Code generated with grpcio-tools 1.76.0 runs on protobuf 6.31 to 7; newer compilers' refuses 6.
"""

from __future__ import annotations

from pathlib import Path

from tests.venvs import ROOT, cached_venv, run

COMPILER = "grpcio-tools==1.76.0"
PROTOS = {
    "unmix/v1/agent_service.proto": True,
    "unmix/onnx/outline.proto": False,
    "inference/inference_service.proto": True,
}
"""Each contract, and whether it has a service."""


def generate(out: Path) -> list[Path]:
    """Write the code of every contract under `out/serving/pb`; returns the files."""
    python = str(cached_venv("protoc", COMPILER))
    written = []
    for proto, has_service in PROTOS.items():
        outputs = ["--python_out", "--pyi_out", *(["--grpc_python_out"] if has_service else [])]
        # The second name of the include path makes the code import itself as serving.pb.
        command = [python, "-m", "grpc_tools.protoc", "-I", "serving/pb=proto", f"proto/{proto}"]
        run([*command, *(f"{output}={out}" for output in outputs)])
        stem = out / "serving" / "pb" / proto.removesuffix(".proto")
        suffixes = ["_pb2.py", "_pb2.pyi", *(["_pb2_grpc.py"] if has_service else [])]
        written += [stem.with_name(stem.name + suffix) for suffix in suffixes]
    return written


if __name__ == "__main__":
    for path in generate(ROOT):
        print(path.relative_to(ROOT))
