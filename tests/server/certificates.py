"""Certificates for one test."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NOW = datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its certificate, PEM."""

    key: bytes
    cert: bytes


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority")
        certificate = (
            _certificate(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.cert = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, uri: str | None = None, hours: int = 1) -> Pair:
        """A certificate for this name and 127.0.0.1, and for the URI; it ends in so many hours."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.DNSName(name),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        if uri is not None:
            names.append(x509.UniformResourceIdentifier(uri))
        certificate = (
            _certificate(_name(name), self._name, key.public_key(), hours)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            certificate.public_bytes(serialization.Encoding.PEM),
        )


def write(folder: Path, pair: Pair) -> dict[str, str]:
    """The `tls` settings of a listener with this pair."""
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(pair.cert)
    (folder / "key.pem").write_bytes(pair.key)
    return {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}


def credentials(trusted: Authority, own: Pair | None = None) -> grpc.ChannelCredentials:
    """Of a client that trusts this authority, and shows a certificate of its own or none."""
    return grpc.ssl_channel_credentials(trusted.cert, own and own.key, own and own.cert)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, hours: int = 1
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - datetime.timedelta(hours=1))
        .not_valid_after(_NOW + datetime.timedelta(hours=hours))
    )
