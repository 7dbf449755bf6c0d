"""Certificates of a listener: loaded, read again when their files change, and whom they let in."""

import asyncio
import os
import ssl
import time
from pathlib import Path
from typing import Any

import structlog

from mixer import config
from mixer.errors import StartError
from mixer.metrics import Metrics

log = structlog.get_logger()

_LOOK = 0.5  # seconds between two looks at the files
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

Seen = tuple[tuple[int, ...] | None, ...]


class Certificates:
    """`context` is for new connections; those that are open keep theirs."""

    def __init__(self, settings: config.Tls, metrics: Metrics, protocol: str) -> None:
        """`protocol`: of ALPN. Raises `StartError` that names the file which cannot be read or used."""
        self._settings = settings
        self._metrics = metrics
        self._protocol = protocol
        self._seen = self._look()
        self._end = ends(settings)
        self.context = self._load()
        self._tell()

    async def watch(self) -> None:
        """Exchange the context when a file has changed; files that cannot be used are logged and counted, and leave the
        context as it is. Ends by cancellation."""
        last = self._seen
        file = str(self._settings.cert)
        # Both are shown from the start, or the first failure would be no increase of anything.
        loaded, failed = (
            self._metrics.certificate_reloads.labels(file, each) for each in ("loaded", "failed")
        )
        while True:
            await asyncio.sleep(_LOOK)
            seen = await asyncio.to_thread(self._look)
            # Written to the end, as far as one can see: a key is replaced after its certificate, or before.
            settled, last = seen == last, seen
            if seen == self._seen or not settled:
                continue
            self._seen = seen
            try:
                self.context, self._end = await asyncio.to_thread(self._renewed)
            except StartError as error:
                failed.inc()
                log.error("certificate_not_reloaded", file=file, reason=str(error))
            else:
                self._tell()
                loaded.inc()
                log.info("certificate_reloaded", file=file, ends=int(self._end))

    def _renewed(self) -> tuple[ssl.SSLContext, float]:
        if (end := ends(self._settings)) < time.time() <= self._end:
            raise StartError(f"{self._settings.cert}: has ended already, and the one in use has not")
        return self._load(), end

    def _tell(self) -> None:
        self._metrics.certificate_ends.labels(str(self._settings.cert)).set(self._end)

    def _look(self) -> Seen:
        """What changes when a file is written or replaced, also behind a symbolic link."""
        files = (self._settings.cert, self._settings.key, self._settings.client_ca)
        return tuple(_stat(file) for file in files if file is not None)

    def _load(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[settings.min_version]
        context.options |= ssl.OP_NO_RENEGOTIATION
        # A resumed session would let in who is let in no more: certificates are looked at in a full handshake alone.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols([self._protocol])
        try:
            context.load_cert_chain(settings.cert, settings.key, password="")
        except ssl.SSLError as error:
            raise StartError(
                f"{settings.cert} and {settings.key}: expected a PEM certificate and its private key without a "
                f"password, got {_reason(error)}"
            ) from None
        except OSError as error:
            raise _unreadable(settings.key, error) from error
        if settings.client_ca is not None:
            try:
                context.load_verify_locations(settings.client_ca)
            except ssl.SSLError as error:
                raise StartError(
                    f"{settings.client_ca}: expected PEM certificates of authorities, got {_reason(error)}"
                ) from None
            except OSError as error:
                raise _unreadable(settings.client_ca, error) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def ends(settings: config.Tls) -> float:
    """When the first certificate of the listener's chain to end does so, in Unix seconds. Raises `StartError`."""
    from cryptography import x509

    try:
        chain = x509.load_pem_x509_certificates(settings.cert.read_bytes())
    except OSError as error:
        raise _unreadable(settings.cert, error) from error
    except ValueError:
        raise StartError(f"{settings.cert}: expected a PEM certificate, got something else") from None
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)


def stranger(peer: dict[str, Any] | None, spiffe: config.Spiffe, now: float) -> str | None:
    """Why the client with this certificate (as `getpeercert` gives it) may not connect; None: it may.

    A certificate of SPIFFE has one URI and no more (X509-SVID, section 2). TLS itself has verified it, but for one that
    comes with a session of before (TLS 1.2 by its id) and has ended since.
    """
    if peer and ssl.cert_time_to_seconds(peer["notAfter"]) < now:
        return "its certificate has ended"
    if not spiffe.allow and not spiffe.refuse:
        return None
    uris = [value for kind, value in (peer or {}).get("subjectAltName", ()) if kind == "URI"]
    if len(uris) > 1:
        return f"its certificate has {len(uris)} URIs"
    return (
        _unwanted(uris[0], spiffe) if uris else "its certificate has no SPIFFE ID" if spiffe.allow else None
    )


def _unwanted(uri: str, spiffe: config.Spiffe) -> str | None:
    if any(_matches(uri, pattern) for pattern in spiffe.refuse):
        return f"{uri[:256]} is refused"
    if spiffe.allow and not any(_matches(uri, pattern) for pattern in spiffe.allow):
        return f"{uri[:256]} is not allowed"
    return None


def _matches(uri: str, pattern: str) -> bool:
    if not pattern.endswith("/*"):
        return uri == pattern
    return uri.startswith(pattern[:-1]) and config.is_spiffe_id(uri)


def _stat(file: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _unreadable(file: Path, error: OSError) -> StartError:
    return StartError(f"cannot read {error.filename or file}: {error.strerror}")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "something else").replace("_", " ").lower()
