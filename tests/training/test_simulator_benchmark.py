"""The simulator's benchmark: a peer in an environment of its own, or one line that says why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks import simulator as benchmark
from benchmarks.peers import Peer, PeerRound, PeerUnavailableError

# It is asked as SMAX is, and is so slow that any machine beats it.
ANSWERS = """
import json, sys
assert sys.flags.isolated and sys.argv[1:] == ["3s5z", "1"], sys.argv
for line in sys.stdin:
    request = json.loads(line)
    rate = request["parallel"] / 1000
    print(json.dumps({"steps_per_second": rate, "startup_seconds": 7.5}), flush=True)
"""
DIES = """
import sys
sys.stdin.readline()
print("looking around", file=sys.stderr)
raise RuntimeError("no room for 64 battles")
"""


def script(text: str, folder: Path) -> list[str | Path]:
    path = folder / "peer.py"
    path.write_text(text)
    return [sys.executable, path]


def played_beside(text: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> Path:
    """The file of a short run of the benchmark beside this peer instead of SMAX."""
    (tmp_path / "smax.txt").write_text("# nothing\n")
    (tmp_path / "smax.py").write_text(text)
    patch.setattr(peers, "HERE", tmp_path)
    patch.setattr(peers, "FOLDER", tmp_path / "cache")
    path = tmp_path / "results" / "simulator.json"
    benchmark.main(
        benchmark.Command(
            compile=False,
            maps=("3s5z",),
            parallel=(1, 64),
            threads=1,
            seconds=0.0,
            rounds=2,
            peer_parallel=(16, 64),
            peer_seconds=0.0,
            json_path=path,
        )
    )
    return path


def test_a_peer_answers_round_by_round(tmp_path: Path) -> None:
    counts = """
import json, sys
for n, line in enumerate(sys.stdin, 1):
    request = json.loads(line)
    rate = request["parallel"] * request["seconds"] * n
    print(json.dumps({"steps_per_second": rate, "startup_seconds": 0.25}), flush=True)
"""
    with Peer(script(counts, tmp_path)) as peer:
        assert peer.round(64, 0.5) == PeerRound(32.0, 0.25)
        assert peer.round(16, 2.0) == PeerRound(64.0, 0.25)


def test_a_peer_that_dies_is_known_by_its_last_words(tmp_path: Path) -> None:
    with Peer(script(DIES, tmp_path)) as peer:
        for _ in range(2):
            with pytest.raises(PeerUnavailableError) as caught:
                peer.round(64, 0.0)
            assert str(caught.value) == (
                "ended with status 1: RuntimeError: no room for 64 battles"
            )


@pytest.mark.parametrize(
    "line", ["hello", "[]", '{"steps_per_second": 1}', '{"steps_per_second": null}']
)
def test_what_is_not_an_answer_is_shown(line: str, tmp_path: Path) -> None:
    with (
        Peer(script(f"input(); print({line!r})", tmp_path)) as peer,
        pytest.raises(PeerUnavailableError) as caught,
    ):
        peer.round(64, 0.0)
    assert str(caught.value) == f"not an answer: {line}"


def test_a_peer_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with (
        Peer(script("import time; time.sleep(600)", tmp_path), timeout=0.2) as peer,
        pytest.raises(PeerUnavailableError, match=r"^no answer within 0\.2 s$"),
    ):
        peer.round(64, 0.0)


def test_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(PeerUnavailableError, match=r"^cannot be started: "):
        Peer([tmp_path / "bin" / "python", "peer.py"])


def test_both_are_in_one_table_and_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = played_beside(ANSWERS, tmp_path, monkeypatch)
    results = json.loads(path.read_text())
    assert results["smax_unavailable"] is None
    rates = {(f["simulator"], f["parallel"]): f["steps_per_second"] for f in results["figures"]}
    assert rates.keys() == {("skirmish", 1), ("skirmish", 64), ("smax", 16), ("smax", 64)}
    assert (rates["smax", 16], rates["smax", 64]) == (0.016, 0.064)
    starts = {f["simulator"]: f["startup_seconds"] for f in results["figures"]}
    assert starts["smax"] == 7.5
    assert 0 < starts["skirmish"] < 60
    shown = capsys.readouterr().out
    assert "making" in shown
    ratio = next(line for line in shown.splitlines() if "ratio" in line)
    assert f"{rates['skirmish', 64] / 0.064:.2f}" in ratio

    # The environment is there now, and is taken as it is.
    [marker] = (tmp_path / "cache").glob("smax-*/complete")
    made = marker.stat().st_mtime_ns
    peers.peer_python("smax", pytest.fail)
    assert marker.stat().st_mtime_ns == made


def test_without_the_peer_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_venv = tmp_path / "python"
    no_venv.write_text("#!/bin/sh\necho trying >&2\necho no room on the disk >&2\nexit 1\n")
    no_venv.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(no_venv))
    path = played_beside(ANSWERS, tmp_path, monkeypatch)
    results = json.loads(path.read_text())
    assert results["smax_unavailable"] == "cannot be installed: no room on the disk"
    assert [f["simulator"] for f in results["figures"]] == ["skirmish", "skirmish"]
    assert "smax: not available: cannot be installed: no room" in capsys.readouterr().out
    assert not list((tmp_path / "cache").glob("smax-*/complete"))


def test_a_peer_that_dies_leaves_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "peer_python", lambda name, say: Path(sys.executable))
    path = played_beside(DIES, tmp_path, monkeypatch)
    results = json.loads(path.read_text())
    assert results["smax_unavailable"].endswith("RuntimeError: no room for 64 battles")
    assert [f["parallel"] for f in results["figures"]] == [1, 64]
    assert capsys.readouterr().out.count("smax: not available: ended with status 1") == 1
