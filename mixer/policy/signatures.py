"""Signatures of bundles, `.signatures.json`: a JWT over the digest of each file, checked as OPA checks it
(https://www.openpolicyagent.org/docs/management-bundles#signing).

Structured files (`data.json`, `data.yaml`, `.manifest`) are hashed over their canonical JSON: keys sorted, no
whitespace, numbers as they are written; all others over their bytes.
"""

import base64
import fnmatch
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import InvalidKeyError

from mixer import config
from mixer.errors import BundleError, PolicyError, Problem
from mixer.policy import yaml_data
from mixer.policy.bundle import MANIFEST, SIGNATURES
from mixer.policy.documents import DATA_NAMES

# MD5 and SHA-1, which OPA takes too, are left out: two files of one digest can be made for them.
_DIGESTS = {
    "SHA-224": "sha224",
    "SHA-256": "sha256",
    "SHA-384": "sha384",
    "SHA-512": "sha512",
    "SHA-512-224": "sha512_224",
    "SHA-512-256": "sha512_256",
}
_ESCAPED = {chr(code): f"\\u{code:04x}" for code in (*range(0x20), 0x2028, 0x2029)}
_ESCAPED |= {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPE = str.maketrans(_ESCAPED)
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Verifier:
    """Checks the signatures of one bundle. `key_id` and `scope` of the settings go before the signature's own."""

    keys: "dict[str, _Key]"
    key_id: str | None = None
    scope: str | None = None
    exclude: tuple[str, ...] = ()

    def verify(self, bundle: str, files: dict[str, bytes]) -> None:
        """Raises `BundleError` ("signature") unless the bundle's files are those that were signed."""
        try:
            signed = self._signed(files.get(SIGNATURES))
        except (ValueError, TypeError, KeyError, AttributeError, _RefusedError) as error:
            raise BundleError("signature", bundle, SIGNATURES, f"does not verify: {error}") from None
        for path, content in files.items():
            if path == SIGNATURES:
                continue
            claim = signed.pop(path, None)
            if any(_excluded(path, pattern) for pattern in self.exclude):
                continue
            if claim is None:
                raise BundleError("signature", bundle, path, "is not among the files that were signed")
            if (wrong := _differs(path, content, claim)) is not None:
                raise BundleError("signature", bundle, path, wrong)
        if signed:
            missing = ", ".join(sorted(signed))
            raise BundleError(
                "signature", bundle, "", f"lacks files that its signature names: {missing[:500]}"
            )

    def _signed(self, text: bytes | None) -> dict[str, dict[str, Any]]:
        """The claim of each file, from a JWT that verifies."""
        if text is None:
            raise _RefusedError("the bundle is not signed, and policy.keys asks for it")
        document = orjson.loads(text)
        if document.get("plugin", "") not in ("", "_default"):
            raise _RefusedError("it asks for a plugin")
        tokens = document.get("signatures")
        if not isinstance(tokens, list) or len(tokens) != 1:
            raise _RefusedError("expected one JWT")
        head, payload, signature = tokens[0].split(".")
        header, claims = orjson.loads(_decoded(head)), orjson.loads(_decoded(payload))
        key_id = self.key_id or header.get("kid") or claims.get("keyid")
        if not key_id:
            raise _RefusedError("it names no key; set signing.keyid")
        if (key := self.keys.get(key_id)) is None:
            raise _RefusedError(f'policy.keys has no key "{key_id}"')
        if not key.verifies(f"{head}.{payload}".encode(), _decoded(signature)):
            raise _RefusedError(f'not a signature of key "{key_id}" by {key.algorithm}')
        scope = key.scope if self.scope is None else self.scope
        if claims.get("scope", "") != scope:
            raise _RefusedError(f'its scope is "{claims.get("scope", "")}", expected "{scope}"')
        return {file["name"]: file for file in claims.get("files") or ()}


class _RefusedError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Key:
    algorithm: str
    scope: str
    prepared: Any

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """By the algorithm of the settings, whatever the token says of itself."""
        return get_default_algorithms()[self.algorithm].verify(message, self.prepared, signature)


def keys(settings: Iterable[config.Key]) -> dict[str, _Key]:
    """The keys of the settings, ready for use. Raises `PolicyError` for one that is no key of its algorithm."""
    found: dict[str, _Key] = {}
    problems: list[Problem] = []
    for key in settings:
        where = str(key.file) if key.file else f'policy.keys, "{key.id}"'
        try:
            text = (
                key.file.read_bytes()
                if key.file
                else (key.key.get_secret_value() if key.key else "").encode()
            )
            found[key.id] = _Key(key.algorithm, key.scope, _prepared(key.algorithm, text))
        except OSError as error:
            problems.append(Problem(where, "", f"cannot be read: {error.strerror}"))
        except (ValueError, TypeError, InvalidKeyError):
            problems.append(Problem(where, "", f"is no PEM key for {key.algorithm}"))
    if problems:
        raise PolicyError(problems)
    return found


def _prepared(algorithm: str, text: bytes) -> Any:
    if b"-----BEGIN CERTIFICATE-----" in text:
        text = (
            load_pem_x509_certificate(text)
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    prepared = get_default_algorithms()[algorithm].prepare_key(text)
    if hasattr(prepared, "public_key"):  # a private key verifies too, by its public half
        return prepared.public_key()
    return prepared


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _excluded(path: str, pattern: str) -> bool:
    """As Go's filepath.Match: a star does not reach over a slash."""
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _differs(path: str, content: bytes, claim: dict[str, Any]) -> str | None:
    """Why a file is not the one that was signed, or None."""
    algorithm = claim.get("algorithm")
    if algorithm not in _DIGESTS:
        return f"is signed by a digest that is not taken: {algorithm}; use {', '.join(_DIGESTS)}"
    want = str(claim.get("hash")).lower()

    def matches(canonical: bytes) -> bool:
        digest = hashlib.new(_DIGESTS[algorithm], canonical).hexdigest()
        return hmac.compare_digest(digest.encode(), want.encode())

    name = path.rpartition("/")[2]
    try:
        if name not in (*DATA_NAMES, MANIFEST):
            right = matches(content)
        else:
            right = any(matches(canonical) for canonical in _canonical(name, content))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        return f"cannot be read: {error}"
    return None if right else f"is not what was signed: its {algorithm} digest is another"


def _canonical(name: str, content: bytes) -> Iterable[bytes]:
    """The canonical JSON of a structured file.

    First as orjson writes it, which is fast and right where no number is written in an unusual way; a text that
    has the signed digest is the signed text. Then with every number as it is written.
    """
    if not name.endswith((".yaml", ".yml")):
        yield orjson.dumps(orjson.loads(content), option=orjson.OPT_SORT_KEYS)
        yield _written(json.loads(content, parse_int=_Literal, parse_float=_Literal, parse_constant=_refused))
        return
    text = content.removeprefix(b"\xef\xbb\xbf").decode()
    try:
        value = json.loads(text, parse_int=_Literal, parse_float=_Literal, parse_constant=_refused)
    except ValueError:
        value = yaml_data.load(text)
    yield _written(value)


class _Literal(str):
    """A number as it is written."""


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _written(value: Any) -> bytes:
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, dict):
        parts.append("{")
        for index, key in enumerate(sorted(value)):
            parts.append(f"{',' if index else ''}{_quoted(key)}:")
            _write(value[key], parts)
        parts.append("}")
    elif isinstance(value, list):
        parts.append("[")
        for index, item in enumerate(value):
            if index:
                parts.append(",")
            _write(item, parts)
        parts.append("]")
    elif isinstance(value, _Literal):
        parts.append(value)
    elif isinstance(value, str):
        parts.append(_quoted(value))
    elif value is None or isinstance(value, bool):
        parts.append("null" if value is None else "true" if value else "false")
    else:
        parts.append(_number(value))


def _quoted(text: str) -> str:
    """As Go's encoding/json without HTML escapes."""
    return f'"{_SURROGATES.sub(chr(0xFFFD), text).translate(_ESCAPE)}"'


def _number(value: float) -> str:
    """A number of YAML as Go writes it: without an exponent from 1e-6 up to 1e21."""
    if isinstance(value, int) and abs(value) < 10**21:
        return str(value)
    number = float(value)
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        return format(Decimal(repr(number)), "f").removesuffix(".0")
    mantissa, _, exponent = repr(number).partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent[0]}{exponent[1:].lstrip('0')}"
