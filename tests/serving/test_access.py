"""The check behind both doors, with neither door open: credentials, roles, rates, exposure."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from serving.access.entry import MAX_TOKEN, Access, Principal, check_exposure, open_access
from serving.access.keys import new_key
from serving.access.rates import MAX_BUCKETS, Bucket, Buckets
from serving.access.watched import Watched
from serving.errors import NotAllowed, NotAuthenticated, RateLimited
from serving.settings import Role, Settings, SetupError
from tests.serving.issuer import SETTINGS, Issuer


def write_keys(path: Path, *roles: Role) -> list[str]:
    """A file of one key a role, named after it; the keys themselves."""
    made = [new_key(role, frozenset({role})) for role in roles]
    path.write_text("".join(key.line() + "\n" for _, key in made))
    return [text for text, _ in made]


def refresh(access: Access) -> None:
    for watched in access.watched:
        watched.refresh()


@pytest.mark.parametrize(
    ("held", "may"),
    [("act", {"act"}), ("observe", {"observe"}), ("admin", {"act", "observe", "admin"})],
)
def test_roles_allow_what_they_say(tmp_path: Path, held: Role, may: set[Role]) -> None:
    (key,) = write_keys(tmp_path / "keys", held)
    access = Access(Settings(keys=tmp_path / "keys"))
    wanted: tuple[Role, ...] = ("act", "observe", "admin")
    for role in wanted:
        if role in may:
            assert access.admit(key, "", role).name == f"key:{held}"
        else:
            with pytest.raises(NotAllowed, match=role):
                access.admit(key, "", role)


def test_all_that_can_be_wrong_has_one_answer(tmp_path: Path) -> None:
    (key,) = write_keys(tmp_path / "keys", "act")
    issuer = Issuer()
    jwks = issuer.write(tmp_path / "jwks")
    both = Access(Settings(keys=tmp_path / "keys", jwks=jwks, **SETTINGS))
    answers = set()
    for wrong in (key + "x", "unmix_none_x", issuer.token(aud="x"), "x", "x" * (MAX_TOKEN + 1)):
        with pytest.raises(NotAuthenticated) as caught:
            both.admit(wrong, "", "act")
        answers.add(caught.value.message)
    assert answers == {"the key or token does not hold"}
    with pytest.raises(NotAuthenticated):
        both.admit("", "", "act")
    with pytest.raises(NotAuthenticated):  # keys are not set up, and a key is shown
        Access(Settings(jwks=jwks, **SETTINGS)).admit(key, "", "act")
    with pytest.raises(NotAuthenticated):  # and the other way round
        Access(Settings(keys=tmp_path / "keys")).admit(issuer.token(), "", "act")


def test_a_key_taken_out_of_the_file_is_refused_and_its_streams_end(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    act, observe = write_keys(file, "act", "observe")
    lines = file.read_text().splitlines()
    access = Access(Settings(keys=file))
    gone, stays = access.admit(act, "", "act"), access.admit(observe, "", "observe")
    file.write_text(lines[1] + "\n")
    refresh(access)
    for attempt in (lambda: access.admit(act, "", "act"), gone.spend):
        with pytest.raises(NotAuthenticated):
            attempt()
    stays.spend()
    access.admit(observe, "", "observe")
    file.write_text(lines[0] + " and nonsense\n")  # what makes no sense changes nothing
    refresh(access)
    access.admit(observe, "", "observe")
    file.write_text("# nobody\n")
    refresh(access)
    with pytest.raises(NotAuthenticated):
        access.admit(observe, "", "observe")


def test_a_token_holds_until_it_expires_or_its_key_is_gone(tmp_path: Path) -> None:
    issuer, now = Issuer(), [1_900_000_000.0]
    file = issuer.write(tmp_path / "jwks")
    access = Access(Settings(jwks=file, **SETTINGS), clock=lambda: now[0])
    token = issuer.token(exp=1_900_000_100)
    caller = access.admit(token, "", "act")
    assert caller.name == "jwt:unit-7"
    now[0] += 109  # ten seconds are allowed for clocks that differ
    access.admit(token, "", "act")
    caller.spend()
    now[0] += 1
    with pytest.raises(NotAuthenticated):
        caller.spend()
    other = issuer.token("e", exp=2_000_000_000)
    caller = access.admit(other, "", "act")
    keys = issuer.jwks()
    file.write_text(json.dumps({"keys": keys}, indent=1))  # the same keys, written anew
    refresh(access)
    caller.spend()
    file.write_text(json.dumps({"keys": [key for key in keys if key["kid"] != "e"]}))
    refresh(access)
    for attempt in (lambda: access.admit(other, "", "act"), caller.spend):
        with pytest.raises(NotAuthenticated):
            attempt()


def test_names_from_tokens_are_fit_for_a_log(tmp_path: Path) -> None:
    issuer = Issuer()
    access = Access(Settings(jwks=issuer.write(tmp_path / "jwks"), **SETTINGS))
    assert access.admit(issuer.token(sub="a\n\x1b[2J b"), "", "act").name == "jwt:a??[2J?b"
    assert len(access.admit(issuer.token(sub="a" * 3000), "", "act").name) == 80


def test_certificates_are_asked_for_besides_or_instead(tmp_path: Path) -> None:
    (key,) = write_keys(tmp_path / "keys", "observe")
    given: dict[str, Any] = {"client_ca": tmp_path / "ca", "keys": tmp_path / "keys"}
    access = Access(Settings(**given))
    assert access.admit("", "unit-7", "act").name == "certificate:unit-7"
    with pytest.raises(NotAllowed):
        access.admit("", "unit-7", "observe")
    assert access.admit(key, "unit-7", "observe").name == "key:observe"
    with pytest.raises(NotAuthenticated, match="certificate"):
        access.admit(key, "", "observe")
    strict = Access(Settings(**given, client_role="none"))
    strict.admit(key, "unit-7", "observe")
    with pytest.raises(NotAuthenticated, match="key or token"):
        strict.admit("", "unit-7", "act")


def test_each_caller_has_a_rate_of_its_own(tmp_path: Path) -> None:
    noisy, quiet = write_keys(tmp_path / "keys", "act", "admin")
    access = Access(Settings(keys=tmp_path / "keys", rate_per_s=0.001, rate_burst=3))
    for _ in range(3):
        access.admit(noisy, "", "act")
    with pytest.raises(RateLimited) as caught:
        access.admit(noisy, "", "act")
    assert caught.value.retry_after_s == 1000
    access.admit(quiet, "", "act")


def test_a_bucket_fills_and_lets_a_large_request_owe() -> None:
    now = [0.0]
    bucket = Bucket(rate=2, burst=4, clock=lambda: now[0])
    bucket.take(3)
    with pytest.raises(RateLimited) as caught:
        bucket.take(4)  # one is left, two come a second
    assert caught.value.retry_after_s == 2
    now[0] = 1.5
    bucket.take(4)
    now[0] = 100.0
    bucket.take(10)  # from a full bucket: six are owed, which takes three seconds
    now[0] = 103.0
    with pytest.raises(RateLimited):
        bucket.take(1)
    now[0] = 103.5
    bucket.take(1)


def test_buckets_of_callers_long_gone_are_forgotten() -> None:
    buckets = Buckets(1, 1, clock=lambda: 0.0)
    first = buckets.of("first")
    for number in range(MAX_BUCKETS - 1):
        buckets.of(f"{number}")
    assert buckets.of("first") is first  # used again, and so not the oldest
    buckets.of("one more")
    assert buckets.of("first") is first
    assert len(buckets._buckets) == MAX_BUCKETS


def test_a_caller_without_a_rate_is_never_slowed() -> None:
    Principal("a", frozenset(), None).spend(10**9)


def test_without_credentials_there_is_nothing_to_pass() -> None:
    assert open_access(Settings()) is None


def test_tokens_for_anybody_are_not_taken(tmp_path: Path) -> None:
    jwks = Issuer().write(tmp_path / "jwks")
    for lacking in SETTINGS:
        with pytest.raises(SetupError, match="UNMIX_JWT_ISSUER and UNMIX_JWT_AUDIENCE"):
            open_access(Settings(jwks=jwks, **{**SETTINGS, lacking: ""}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_this_machine_alone_needs_nothing(host: str) -> None:
    check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.evil.test"])
def test_other_machines_need_tls_and_a_credential(host: str) -> None:
    tls: dict[str, Any] = {"tls_certificate": Path("c"), "tls_key": Path("k")}
    for given, lacking in (
        ({}, "TLS (UNMIX_TLS_CERTIFICATE and UNMIX_TLS_KEY) and a credential"),
        ({"keys": Path("x")}, "and TLS ("),
        (tls, "and a credential ("),
    ):
        with pytest.raises(SetupError) as caught:
            check_exposure(Settings(host=host, **given))
        assert lacking in str(caught.value)
        assert "--insecure" in caught.value.fix
    check_exposure(Settings(host=host, **tls, keys=Path("x")))
    check_exposure(Settings(host=host, insecure=True))


def test_a_watched_value_changes_with_its_file_and_survives_nonsense(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("1")

    def load() -> int:
        if not file.exists() or not file.read_text().isdecimal():
            raise SetupError("no number", "write one")
        return int(file.read_text())

    watched = Watched([file], load)
    assert not watched.refresh()
    for text, value in (("2", 2), ("x", 2), ("3", 3)):
        file.write_text(text)
        os.utime(file, ns=(value, len(text) + ord(text)))
        assert watched.refresh() is (text != "x")
        assert watched.value == value
    file.unlink()
    assert not watched.refresh()
    assert watched.value == 3
    with pytest.raises(SetupError):
        Watched([file], load)
