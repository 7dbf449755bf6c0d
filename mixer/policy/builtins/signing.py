"""`io.jwt.encode_sign` and `io.jwt.encode_sign_raw`: tokens signed with the first key of a JWK (set).

Source: OPA's `topdown/tokens.go`; RFC 7515 says what is signed.
"""

import base64
import json
from typing import Any

from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

from mixer.policy.builtins.gojson import dumps
from mixer.policy.builtins.operands import BuiltinError, mapping, string

_ALGORITHMS = {
    name: algorithm
    for name, algorithm in get_default_algorithms().items()
    if name == "EdDSA" or (name[:2] in ("HS", "RS", "PS", "ES") and name[2:] in ("256", "384", "512"))
}
_KEY_TYPES = {"HS": "oct", "RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


def _encode_sign(headers: object, payload: object, key: object) -> str:
    return _signed(dumps(mapping(headers)), dumps(mapping(payload)), mapping(key))


def _encode_sign_raw(headers: object, payload: object, key: object) -> str:
    return _signed(string(headers), string(payload), _json(string(key), "key is not JSON"))


def _signed(headers: str, payload: str, key: Any) -> str:
    header = _json(headers, "header is not JSON")
    if not isinstance(header, dict) or header.get("alg") not in _ALGORITHMS:
        raise BuiltinError("header alg is missing or unknown")
    if header.get("typ", "JWT") in ("JWT", None):
        _json(payload, "type is JWT but the payload is not JSON")
    text = f"{_base64url(headers.encode())}.{_base64url(payload.encode())}"
    return f"{text}.{_base64url(_signature(header['alg'], key, text.encode()))}"


def _signature(alg: str, key: Any, text: bytes) -> bytes:
    algorithm: Any = _ALGORITHMS[alg]
    try:
        entry = key["keys"][0] if "keys" in key else key
        if entry["kty"] != _KEY_TYPES[alg[:2]]:
            raise BuiltinError("the key is none for this algorithm")
        return algorithm.sign(text, algorithm.from_jwk(entry))  # type: ignore[no-any-return]
    except (PyJWTError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise BuiltinError("the key is no JWK that can sign") from None


def _json(text: str, otherwise: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BuiltinError(otherwise) from None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


BUILTINS = {"io.jwt.encode_sign": _encode_sign, "io.jwt.encode_sign_raw": _encode_sign_raw}
