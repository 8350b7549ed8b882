"""JWTs: the attacks that are known, each refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from serving.access.tokens import Claims, read_jwks, read_token
from serving.settings import SetupError
from tests.serving.issuer import AUDIENCE, ISSUER, Issuer, claims


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def keys(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_jwks(issuer.write(tmp_path_factory.mktemp("jwks") / "jwks.json"))


def forge(header: dict[str, Any], secret: bytes | None, **changed: Any) -> str:
    """A token put together by hand, signed with an HMAC or not at all."""
    parts = [_base64(json.dumps(part).encode()) for part in (header, claims(**changed))]
    signed = ".".join(parts)
    signature = b"" if secret is None else hmac.digest(secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{_base64(signature)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("kid", ["r", "e"])
def test_a_token_of_either_algorithm_holds(issuer: Issuer, keys: Any, kid: str) -> None:
    read = read_token(keys, issuer.token(kid, exp=2_000_000_000), ISSUER, AUDIENCE)
    assert read == Claims("unit-7", frozenset({"act"}), 2_000_000_010.0, kid)


def test_roles_are_the_words_of_the_scope_that_are_ours(issuer: Issuer, keys: Any) -> None:
    for scope, roles in (
        ("unmix:observe unmix:admin", {"observe", "admin"}),
        ("act admin unmix:adminx", set()),
        (["unmix:act"], set()),
        (None, set()),
    ):
        read = read_token(keys, issuer.token(scope=scope), ISSUER, AUDIENCE)
        assert isinstance(read, Claims)
        assert read.roles == roles


def test_what_does_not_hold_is_refused(issuer: Issuer, keys: Any) -> None:
    now = int(time.time())
    pem = issuer.public_pem()
    stranger = rsa.generate_private_key(65537, 2048)
    good = issuer.token()
    head, _, signature = good.split(".")
    attacks = {
        "alg none": forge({"alg": "none", "kid": "r"}, None),
        "alg None, capital": forge({"alg": "None", "kid": "r"}, None),
        "HS256 with the public key": forge({"alg": "HS256", "kid": "r"}, pem),
        "HS256 with an empty key": forge({"alg": "HS256", "kid": "r"}, b""),
        "RS256 said, HMAC made": forge({"alg": "RS256", "kid": "r"}, pem),
        "RS512": jwt.encode(claims(), issuer.rsa, "RS512", {"kid": "r"}),
        "PS256": jwt.encode(claims(), issuer.rsa, "PS256", {"kid": "r"}),
        "another's key": jwt.encode(claims(), stranger, "RS256", {"kid": "r"}),
        "the other kid": jwt.encode(claims(), issuer.rsa, "RS256", {"kid": "e"}),
        "unknown kid": jwt.encode(claims(), issuer.rsa, "RS256", {"kid": "x"}),
        "kid is a path": jwt.encode(claims(), stranger, "RS256", {"kid": "../../dev/null"}),
        "no kid": jwt.encode(claims(), issuer.rsa, "RS256"),
        "kid is a list": forge({"alg": "RS256", "kid": ["r"]}, pem),
        "its own key along": jwt.encode(
            claims(), stranger, "RS256",
            {"kid": "r", "jwk": jwt.algorithms.RSAAlgorithm.to_jwk(stranger.public_key(), True)},
        ),
        "a critical header": jwt.encode(
            claims(), issuer.rsa, "RS256", {"kid": "r", "crit": ["x"], "x": 1}
        ),
        "wrong audience": issuer.token(aud="other"),
        "no audience": issuer.token(aud=None),
        "wrong issuer": issuer.token(iss="https://issuer.test.evil"),
        "no issuer": issuer.token(iss=None),
        "expired": issuer.token(exp=now - 20),
        "never expires": issuer.token(exp=None),
        "not yet": issuer.token(nbf=now + 60),
        "no subject": issuer.token(sub=None),
        "exp is text": issuer.token(exp="tomorrow"),
        "cut": good[:-1],
        "no signature": good.rpartition(".")[0] + ".",
        "other claims": f"{head}.{_base64(json.dumps(claims(sub='root')).encode())}.{signature}",
        "empty": "",
        "dots": "..",
        "not ASCII": "é.é.é",
        "a surrogate": "\ud800",
        "nested": "e30." * 1000,
    }  # fmt: skip
    for name, token in attacks.items():
        assert isinstance(read_token(keys, token, ISSUER, AUDIENCE), str), name
    assert isinstance(read_token(keys, good, ISSUER, AUDIENCE), Claims)


def test_a_jwks_holds_public_keys_of_ours_kind_and_nothing_else(
    issuer: Issuer, tmp_path: Path
) -> None:
    file = tmp_path / "jwks.json"
    good = issuer.jwks()[0]
    small = rsa.generate_private_key(65537, 1024).public_key()
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    for entry, words in (
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "h"}, "neither RS256 nor ES256"),
        (jwt.algorithms.ECAlgorithm.to_jwk(curve, True) | {"kid": "c"}, "neither RS256 nor ES256"),
        ({**good, "alg": "HS256"}, "neither RS256 nor ES256"),
        (jwt.algorithms.RSAAlgorithm.to_jwk(issuer.rsa, True) | {"kid": "p"}, "private"),
        (jwt.algorithms.RSAAlgorithm.to_jwk(small, True) | {"kid": "s"}, "fewer than 2048 bits"),
        ({**good, "n": "!"}, "cannot be read"),
        ({name: it for name, it in good.items() if name != "kid"}, "have a kid"),
        ("text", "not a JSON Web Key Set"),
    ):
        file.write_text(json.dumps({"keys": [good, entry]}))
        with pytest.raises(SetupError, match=words):
            read_jwks(file)
    for text, words in (("[]", "not a JSON"), ("{", "not a JSON"), ('{"keys": []}', "no key")):
        file.write_text(text)
        with pytest.raises(SetupError, match=words):
            read_jwks(file)
