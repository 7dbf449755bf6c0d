"""A bundle on an HTTP server: fetched again and again, with its ETag."""

import hashlib

import aiohttp

from mixer import config
from mixer.errors import BundleError, LoadError, PolicyError
from mixer.trust import trust

_CHUNK = 1 << 16
_MOST_SAID = 300  # characters of an error; it may show what a server sent


class Download:
    """One bundle's resource. `limit`: bytes that it may have."""

    def __init__(self, settings: config.Bundle, limit: int) -> None:
        """Raises `PolicyError` for certificates that cannot be used."""
        self._settings = settings
        try:
            self._trust = trust(settings.tls) if settings.url.startswith("https:") else True
        except LoadError as error:
            raise PolicyError(error.problems) from None
        self._limit = limit
        self._etag = ""
        self._digest = b""

    async def fetch(self, session: aiohttp.ClientSession) -> bytes | None:
        """The tarball, or None where it is the one that was fetched before. Raises `BundleError` ("download")."""
        headers = {"Accept-Encoding": "identity", "Prefer": "modes=snapshot", "User-Agent": "mixer"}
        if self._etag:
            headers["If-None-Match"] = self._etag
        if (token := self._token()) is not None:
            headers["Authorization"] = f"Bearer {token}"
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout)
        try:
            # No redirects: one could lead from https to http, or to where the token is not meant for.
            async with session.get(
                self._settings.url, headers=headers, timeout=timeout, allow_redirects=False, ssl=self._trust
            ) as answer:
                if answer.status == 304 and self._etag:
                    return None
                if answer.status != 200:
                    raise self._failed(f"HTTP {answer.status}, expected 200")
                raw = await self._body(answer)
                etag = answer.headers.get("ETag", "")
        except TimeoutError:
            raise self._failed(f"no answer within {self._settings.timeout:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            why = getattr(error.certificate_error, "verify_message", error.certificate_error)
            whom = self._settings.tls.ca or "the system's authorities"
            raise self._failed(f"its certificate is not trusted by {whom}: {why}") from None
        except aiohttp.ClientResponseError:  # its message shows what came, whatever that was
            raise self._failed("the answer is no HTTP") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode()
            raise self._failed(said[:_MOST_SAID]) from None
        digest = hashlib.sha256(raw).digest()
        self._etag, unchanged, self._digest = etag, digest == self._digest, digest
        return None if unchanged else raw

    def forget(self) -> None:
        """Fetch it whole the next time: what came may have been damaged on its way."""
        self._etag = ""
        self._digest = b""

    def _token(self) -> str | None:
        if (file := self._settings.token_file) is not None:
            try:
                token = file.read_text("ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "is not ASCII"
                raise self._failed(f"the token in {file} cannot be read: {reason}") from None
            if not token or not token.isprintable():
                raise self._failed(f"there is no token in {file}")
            return token
        return None if self._settings.token is None else self._settings.token.get_secret_value()

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        parts, room = [], self._limit
        async for part in answer.content.iter_chunked(_CHUNK):
            room -= len(part)
            if room < 0:
                raise self._failed(f"is larger than {self._limit} bytes (policy.bundle_size_limit)")
            parts.append(part)
        return b"".join(parts)

    def _failed(self, message: str) -> BundleError:
        return BundleError("download", self._settings.name, "", f"{self._settings.url}: {message}")
