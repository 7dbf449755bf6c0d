"""TLS of what Mixer calls: whom it trusts, and what it shows of itself."""

import ssl
from pathlib import Path

from mixer import config
from mixer.errors import LoadError, Problem


def trust(tls: config.ClientTls) -> ssl.SSLContext:
    """Whom a client trusts and what it shows. Raises `LoadError` that names the file which cannot be used."""

    def unusable(file: Path, expected: str, error: OSError) -> LoadError:
        got = error.reason or "something else" if isinstance(error, ssl.SSLError) else error.strerror
        return LoadError([Problem(str(file), "", expected, str(got).replace("_", " ").lower())])

    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except OSError as error:
        raise unusable(tls.ca or Path(), "PEM certificates of authorities", error) from None
    if tls.cert is not None and tls.key is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key, password="")
        except OSError as error:
            raise unusable(
                tls.cert, f"a PEM certificate, with its key without a password in {tls.key}", error
            ) from None
    return context
