"""Bundles for tests: made by the real OPA, or written by hand where OPA would not make them."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mixer import config
from mixer.policy.signatures import Verifier, keys
from tests.components import binaries

MODULE = "package envoy.authz\n\nallow := true\n"


def opa(*args: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(binaries.opa()), *map(str, args)]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=60)


def built(folder: Path, files: Mapping[str, str], *args: str | Path) -> Path:
    """A bundle that `opa build -b` makes of these files."""
    source, target = folder / "source", folder / "bundle.tar.gz"
    for name, text in files.items():
        file = source / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    made = opa("build", "-b", source, "-o", target, *args)
    assert made.returncode == 0, made.stderr
    return target


def tarball(files: Mapping[str, str | bytes], *more: tarfile.TarInfo) -> bytes:
    """A gzipped tarball with these files, and further headers."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, text in files.items():
            content = text.encode() if isinstance(text, str) else text
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in more:
            archive.addfile(entry)
    return gzip.compress(target.getvalue(), mtime=0)


def signed(files: Mapping[str, str], secret: str = "sesame", **claims: Any) -> dict[str, str]:
    """The files with a `.signatures.json` by HS256, whose digests are those of the files as they are."""
    listed = [
        {"name": name, "hash": hashlib.sha256(text.encode()).hexdigest(), "algorithm": "SHA-256"}
        for name, text in files.items()
    ]
    token = jwt.encode({"files": listed, **claims}, secret.ljust(32), "HS256", headers={"kid": "default"})
    return {**files, ".signatures.json": json.dumps({"signatures": [token]})}


def pem(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> tuple[str, str]:
    """Private and public key as PEM."""
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ).decode(),
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    )


def verifier(key: str, algorithm: str = "HS256", *, scope: str = "", **more: Any) -> Verifier:
    settings = config.Key.model_validate(
        {"id": "default", "algorithm": algorithm, "key": key, "scope": scope}
    )
    return Verifier(keys([settings]), **more)
