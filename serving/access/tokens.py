"""JWTs: signed by RS256 or ES256 with a key of a JWKS file, and nothing else.

The algorithm is the key's, never what the token says of itself, and the JWKS holds public keys
only: so neither `alg: none` nor a public key used as an HMAC secret gets anywhere. Claims checked:
`iss`, `aud`, `exp`, `nbf` (if there is one), and `sub`, which names the caller. Roles are the words
`unmix:act`, `unmix:observe` and `unmix:admin` of `scope` (RFC 8693).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from serving.access.watched import read_text
from serving.settings import Role, SetupError

LEEWAY_S = 10
"""How far clocks may differ."""
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256"}
_MIN_RSA_BITS = 2048
_ROLES: dict[str, Role] = {f"unmix:{role}": role for role in get_args(Role)}


@dataclass(frozen=True)
class PublicKey:
    """One key of the JWKS."""

    algorithm: str
    key: Any


@dataclass(frozen=True)
class Claims:
    """What a token that holds says of its caller."""

    subject: str
    roles: frozenset[Role]
    expires: float
    """Seconds since the epoch."""
    kid: str
    """The key that signed it."""


def read_jwks(path: Path) -> dict[str, PublicKey]:
    """The keys by `kid`; equal to those read before if they are the same. Raises: SetupError"""
    _import_jwt()
    try:
        entries = json.loads(read_text(path, "jwks"))["keys"]
        keys = {entry["kid"]: _public_key(entry) for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SetupError(
            f"jwks: {path} is not a JSON Web Key Set whose keys have a kid",
            "save what the issuer serves at its jwks_uri",
        ) from None
    except _UnfitKeyError as error:
        raise SetupError(f"jwks: {path}: {error}", "leave that key out of the file") from None
    if not keys:
        raise SetupError(
            f"jwks: {path} holds no key", "save what the issuer serves at its jwks_uri"
        )
    return keys


def read_token(keys: dict[str, PublicKey], token: str, issuer: str, audience: str) -> Claims | str:
    """What the token says, or, for the log alone, why it does not hold."""
    jwt = _import_jwt()
    try:
        kid = jwt.get_unverified_header(token).get("kid", "")
        key = keys.get(kid)
        if key is None:
            return "unknown kid"
        claims = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        return type(error).__name__
    scope = claims.get("scope", "")
    words = scope.split() if isinstance(scope, str) else []
    roles = frozenset(_ROLES[word] for word in words if word in _ROLES)
    return Claims(str(claims["sub"]), roles, float(claims["exp"]) + LEEWAY_S, kid)


class _UnfitKeyError(Exception):
    """A key that must not be in the file."""


def _public_key(entry: dict[str, Any]) -> PublicKey:
    kind = (entry["kty"], entry.get("crv"))
    algorithm = _ALGORITHMS.get(kind)
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        raise _UnfitKeyError("a key is for neither RS256 nor ES256")
    if "d" in entry:
        raise _UnfitKeyError("a key is a private one")
    try:
        key = _import_jwt().PyJWK(entry, algorithm).key
    except Exception:  # PyJWT's and cryptography's own, of many kinds
        raise _UnfitKeyError("a key cannot be read") from None
    if algorithm == "RS256" and key.key_size < _MIN_RSA_BITS:
        raise _UnfitKeyError(f"an RSA key has fewer than {_MIN_RSA_BITS} bits")
    return PublicKey(algorithm, key)


def _import_jwt() -> Any:
    """PyJWT, which only callers with tokens need. Raises: SetupError"""
    try:
        import cryptography  # noqa: F401 - what PyJWT checks these signatures with
        import jwt
    except ImportError:
        raise SetupError(
            "jwks: PyJWT or cryptography is not installed", "pip install 'unmix[auth]'"
        ) from None
    return cast(Any, jwt)
