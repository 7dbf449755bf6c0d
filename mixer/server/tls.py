"""Certificates of a listener, looked at before gRPC does: it would only say that it cannot listen."""

import ssl

import grpc

from mixer import config
from mixer.errors import StartError


def credentials(settings: config.Tls) -> grpc.ServerCredentials:
    """Raises `StartError` that names the file which cannot be read or used."""
    try:
        pair = (settings.key.read_bytes(), settings.cert.read_bytes())
        client_ca = settings.client_ca.read_bytes() if settings.client_ca else None
    except OSError as error:
        raise StartError(f"cannot read {error.filename}: {error.strerror}") from error
    context(settings)
    return grpc.ssl_server_credentials(
        [pair], root_certificates=client_ca, require_client_auth=client_ca is not None
    )


def context(settings: config.Tls) -> ssl.SSLContext:
    """The same for a server that is not gRPC's. Raises `StartError` likewise."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        made.load_cert_chain(settings.cert, settings.key, password="")
    except OSError as error:
        if not isinstance(error, ssl.SSLError):
            raise StartError(f"cannot read {settings.cert} or {settings.key}: {error.strerror}") from error
        raise StartError(
            f"{settings.cert} and {settings.key}: expected a PEM certificate and its private key without a password, "
            f"got {_reason(error)}"
        ) from None
    if settings.client_ca is not None:
        try:
            made.load_verify_locations(settings.client_ca)
        except OSError as error:
            if not isinstance(error, ssl.SSLError):
                raise StartError(f"cannot read {settings.client_ca}: {error.strerror}") from error
            raise StartError(
                f"{settings.client_ca}: expected PEM certificates of authorities, got {_reason(error)}"
            ) from None
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def ends(settings: config.Tls) -> float:
    """When the first certificate of the listener's chain to end does so, in Unix seconds. Raises `StartError`."""
    from cryptography import x509

    try:
        chain = x509.load_pem_x509_certificates(settings.cert.read_bytes())
    except (OSError, ValueError) as error:
        raise StartError(f"{settings.cert}: its end cannot be read: {error}") from error
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "something else").replace("_", " ").lower()
