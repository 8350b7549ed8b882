"""Clients that say who they are and whom they believe, to real servers behind TLS."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from serving.client import Memory, ServingClientError, Unit, get_model
from serving.client.credentials import NOBODY, VARIABLES, Credentials
from serving.client.retry import Retry
from serving.client.team import TeamUnits
from serving.models.agent_model import AgentModel, Row, StepResult
from tests.serving.certificates import DAY, NOW, Authority
from tests.serving.running import RunningServer
from tests.serving.test_access import write_keys

OBS = np.linspace(-1, 1, 7, dtype=np.float32)
MASK = np.array([False, True, True, False, True])
N_STEPS = 6
SCHEMES = ["grpcs", "https"]
WAYS: list[tuple[str, Memory]] = list(itertools.product(SCHEMES, ["held", "carried"]))
UNKNOWN = {"grpcs": "UNAUTHENTICATED", "https": "401"}
FORBIDDEN = {"grpcs": "PERMISSION_DENIED", "https": "403"}
UNREACHABLE = {"grpcs": "UNAVAILABLE", "https": "UNREACHABLE"}


class Locked(NamedTuple):
    """A server behind TLS, and what it is opened with."""

    server: RunningServer
    acting: Credentials
    observing: Credentials
    settings: dict[str, Path]

    def url(self, scheme: str) -> str:
        return url_of(self.server, scheme)


def url_of(server: RunningServer, scheme: str) -> str:
    return f"grpcs://{server.grpc}/tiny" if scheme == "grpcs" else f"{server.rest}/tiny"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def locked(
    models: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Locked]:
    """Asks for a key."""
    keys = tmp_path_factory.mktemp("locked") / "keys"
    act, observe = write_keys(keys, "act", "observe")
    certificate = authority.issue("server")
    settings = {"keys": keys, "tls_certificate": certificate.certificate,
                "tls_key": certificate.key}  # fmt: skip
    acting, observing = (Credentials(key, authority.file) for key in (act, observe))
    with RunningServer(models, settings) as server:
        yield Locked(server, acting, observing, settings)


@pytest.fixture(scope="module")
def mutual(models: Path, authority: Authority) -> Iterator[RunningServer]:
    """Asks for a certificate."""
    own = authority.issue("mutual")
    settings = {
        "tls_certificate": own.certificate, "tls_key": own.key, "client_ca": authority.file
    }  # fmt: skip
    with RunningServer(models, settings) as server:
        yield server


@pytest.fixture(scope="module")
def expected(model: AgentModel) -> list[int]:
    """What agent 1 does in the first steps of an episode."""
    hidden, last, actions = model.first_hidden, -1, []
    for step in range(N_STEPS):
        (result,) = model.step([Row((OBS * step).tobytes(), MASK.tobytes(), last, 1, hidden)])
        assert isinstance(result, StepResult)
        hidden, last = result.next_hidden, result.action
        actions.append(last)
    return actions


def steps(unit: Unit, which: range = range(N_STEPS)) -> list[int]:
    return [unit.act(OBS * step, MASK) for step in which]


def one_step(
    url: str, credentials: Credentials, memory: Memory = "held", retry: Retry | None = None
) -> int:
    with Unit(url, 1, memory, 2.0, retry, credentials) as unit:
        unit.begin_episode()
        return unit.act(OBS, MASK)


def refused(call: Callable[[], object]) -> ServingClientError:
    with pytest.raises(ServingClientError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_a_unit_with_a_key_plays(
    locked: Locked, expected: list[int], scheme: str, memory: Memory
) -> None:
    with Unit(locked.url(scheme), 1, memory, credentials=locked.acting) as unit:
        unit.begin_episode()
        assert steps(unit) == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_team_with_a_key_plays(locked: Locked, expected: list[int], scheme: str) -> None:
    with TeamUnits(locked.url(scheme), [1, 1], credentials=locked.acting) as team:
        team.begin_episode()
        rows = [team.act([OBS * step] * 2, [MASK] * 2).tolist() for step in range(N_STEPS)]
    assert rows == [[action, action] for action in expected]


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
@pytest.mark.parametrize("key", ["", "unmix_none_of_theirs"])
def test_without_a_key_that_holds_it_is_told_what_to_set(
    locked: Locked, scheme: str, memory: Memory, key: str
) -> None:
    stranger = Credentials(key, locked.acting.ca)
    for retry in (None, Retry()):  # a resuming unit does not try that again
        error = refused(partial(one_step, locked.url(scheme), stranger, memory, retry))
        assert error.status == UNKNOWN[scheme]
        assert "UNMIX_CALLER_KEY" in error.message
        assert "none_of_theirs" not in str(error)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_team_without_a_key_is_told_too(locked: Locked, scheme: str) -> None:
    with TeamUnits(locked.url(scheme), [1], credentials=Credentials(ca=locked.acting.ca)) as team:
        error = refused(lambda: team.act([OBS], [MASK]))
    assert error.status == UNKNOWN[scheme]
    assert "UNMIX_CALLER_KEY" in error.message


@pytest.mark.parametrize("scheme", SCHEMES)
def test_looking_takes_a_role_of_its_own(locked: Locked, scheme: str) -> None:
    assert get_model(locked.url(scheme), credentials=locked.observing).map == "3s5z"
    error = refused(lambda: get_model(locked.url(scheme), credentials=locked.acting))
    assert error.status == FORBIDDEN[scheme]
    # (By one call: of a stream that is ended before its first message is written, grpcio tells no
    # more than that it broke.)
    error = refused(lambda: one_step(locked.url(scheme), locked.observing, "carried"))
    assert error.status == FORBIDDEN[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_of_another_authority_gets_nothing(
    locked: Locked, tmp_path: Path, scheme: str
) -> None:
    misled = Credentials(locked.acting.key, Authority(tmp_path, "other").file)
    error = refused(lambda: one_step(locked.url(scheme), misled))
    assert error.status == UNREACHABLE[scheme]
    assert "CERTIFICATE_VERIFY_FAILED" in error.message
    # Whoever tries again is told in the end why it was no use.
    again = refused(lambda: one_step(locked.url(scheme), misled, retry=Retry(tries=100)))
    assert again.status == "DEADLINE_EXCEEDED"
    assert "CERTIFICATE_VERIFY_FAILED" in again.message


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_says_who_calls(
    mutual: RunningServer, authority: Authority, tmp_path: Path, scheme: str
) -> None:
    def credentials(certificate: Path | None, key: Path | None) -> Credentials:
        return Credentials("", authority.file, certificate, key)

    assert one_step(url_of(mutual, scheme), credentials(*authority.issue("unit-7"))) in (1, 2, 4)
    error = refused(lambda: one_step(url_of(mutual, scheme), credentials(None, None)))
    assert error.status == {"grpcs": "UNAVAILABLE", "https": "401"}[scheme]
    for wrong in (Authority(tmp_path).issue("stranger"), authority.issue("late", NOW - DAY)):
        error = refused(partial(one_step, url_of(mutual, scheme), credentials(*wrong)))
        assert error.status == UNREACHABLE[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_unit_with_a_key_outlives_its_server(
    locked: Locked, models: Path, expected: list[int], scheme: str
) -> None:
    """From a server that is killed to another that asks for the same key."""
    first = RunningServer(models, locked.settings)
    try:
        with Unit(
            url_of(first.__enter__(), scheme), 1, "held", 20,
            Retry(elsewhere=(locked.url(scheme),)), locked.acting,
        ) as unit:  # fmt: skip
            unit.begin_episode()
            before = steps(unit, range(3))
            first.kill()
            assert before + steps(unit, range(3, N_STEPS)) == expected
    finally:
        first.stop()


def test_a_unit_program_is_told_by_its_environment(locked: Locked, tmp_path: Path) -> None:
    """Without a step being asked for: what it cannot begin with it says at once."""

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        clean = {name: it for name, it in os.environ.items() if name not in VARIABLES}
        with theirs, ours:
            command = [sys.executable, "-m", "serving.client.unit", "--agent-id", "1"]
            where = ["--socket", str(theirs.fileno()), "--remember", str(tmp_path / "memory")]
            process = subprocess.Popen(
                [*command, *where, "--server", locked.url("https")],
                env=clean | variables,
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
            theirs.close()
            ours.settimeout(30)
            ours.recv(100)
            ours.close()
            _, said = process.communicate(timeout=30)
        return subprocess.CompletedProcess(command, process.returncode, "", said)

    assert run(UNMIX_CALLER_CA=str(locked.acting.ca)).returncode == 0
    missing = run(UNMIX_CALLER_CA=str(tmp_path / "none"))
    assert missing.returncode == 2
    assert f"ca: {tmp_path / 'none'}: No such file or directory" in missing.stderr
    odd = run(UNMIX_CALLER_KEY="two words")
    assert odd.returncode == 2
    assert "UNMIX_CALLER_*: the key has a character" in odd.stderr
    assert "two words" not in odd.stderr


def test_the_environment_says_all_of_it(authority: Authority) -> None:
    assert Credentials.from_environment({"UNMIX_KEYS": "x", "UNMIX_CALLER_CA": ""}) == NOBODY
    given = ["k", "/ca", "/certificate", "/key"]
    found = Credentials.from_environment(dict(zip(VARIABLES, given, strict=True)))
    assert found == Credentials("k", Path("/ca"), Path("/certificate"), Path("/key"))
    # As a file with a line's end in it is read.
    assert Credentials.from_environment({"UNMIX_CALLER_KEY": "k\n"}).key == "k"


def test_a_key_is_never_shown() -> None:
    secret = Credentials("unmix_name_secret")
    assert "secret" not in repr(secret) + str(secret) + f"{secret}"
    for wrong in ("se cret", "secret\r\nhost: x", "secrét", "secret\0"):
        with pytest.raises(ValueError, match="the key has a character") as caught:
            Credentials(wrong)
        assert "cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_key_leaves_this_machine_over_tls_alone(scheme: str) -> None:
    key = Credentials("k")
    url = f"{scheme}://198.51.100.1:1/tiny"
    elsewhere = Retry(elsewhere=(url,))
    for call in (
        lambda: Unit(url, 0, credentials=key),
        lambda: TeamUnits(url, [0], credentials=key),
        lambda: get_model(url, credentials=key),
        lambda: Unit(f"{scheme}://127.0.0.1:1/tiny", 0, retry=elsewhere, credentials=key),
    ):
        with pytest.raises(ValueError, match=r"readable to 198\.51\.100\.1: use grpcs:// or"):
            call()
    for host in ("127.8.9.10", "::1", "localhost"):
        assert key.metadata(host, secure=False) == (("authorization", "Bearer k"),)
    assert NOBODY.metadata("198.51.100.1", secure=False) == ()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_file_is_named(tmp_path: Path, authority: Authority, scheme: str) -> None:
    good, other = authority.issue("good"), authority.issue("another")
    junk, none = tmp_path / "junk", tmp_path / "none"
    junk.write_text("junk")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ca": none}, f"ca: {none}: No such file"),
        ({"ca": junk}, f"ca: {junk} holds no PEM certificate"),
        ({"certificate": good.certificate}, "certificate_key is missing"),
        ({"certificate_key": good.key}, "certificate is missing"),
        ({"certificate": none, "certificate_key": good.key}, "No such file"),
        ({"certificate": good.certificate, "certificate_key": other.key}, "are not a PEM"),
    )
    for given, words in cases:
        for retry in (None, Retry()):
            with pytest.raises(ValueError, match=words):
                Unit(f"{scheme}://127.0.0.1:1", 0, retry=retry, credentials=Credentials(**given))
