"""A key pair of the demo's own, and tokens signed with it. They live as long as the demo does."""

import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

ISSUER = "mixer-demo"  # as in policies/authz.rego
LIFETIME = 12 * 3600  # seconds; a person may leave the demo open over a day's work
_KEY_ID = "demo"


class Issuer:
    """Signs tokens (ES256) that the example policy accepts under `jwks`."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._clock = clock

    @property
    def jwks(self) -> dict[str, Any]:
        """The public key as a JWK set (RFC 7517): what the policy reads as `data.jwks`."""
        key = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**key, "kid": _KEY_ID, "alg": "ES256", "use": "sig"}]}

    def token(self, user: str, lifetime: float = LIFETIME) -> str:
        """A token for `user`; one with a negative lifetime (seconds) has expired already."""
        claims = {"iss": ISSUER, "sub": user, "exp": int(self._clock() + lifetime)}
        return jwt.encode(claims, self._key, "ES256", headers={"kid": _KEY_ID})
