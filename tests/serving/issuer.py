"""An issuer of JWTs, for tests: real keys, and whatever claims and headers a test wants."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER, AUDIENCE = "https://issuer.test", "unmix"
SETTINGS: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


class Issuer:
    """Has an RSA key `r` and a P-256 key `e`."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())

    def jwks(self) -> list[dict[str, Any]]:
        public = {
            "r": jwt.algorithms.RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True),
            "e": jwt.algorithms.ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True),
        }
        return [{**key, "kid": kid} for kid, key in public.items()]

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps({"keys": self.jwks()}))
        return path

    def public_pem(self) -> bytes:
        return self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def token(self, kid: str = "r", **changed: Any) -> str:
        """A token that holds, but for what is changed; None leaves a claim out."""
        key, algorithm = (self.rsa, "RS256") if kid == "r" else (self.ec, "ES256")
        return jwt.encode(claims(**changed), key, algorithm, {"kid": kid})


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    full = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "unit-7",
        "exp": now + 600,
        "nbf": now - 1,
        "scope": "openid unmix:act",
    }
    return {name: value for name, value in (full | changed).items() if value is not None}
