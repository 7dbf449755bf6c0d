"""Quota by whichever limits are the current ones."""

from collections.abc import Awaitable

from mixer.ratelimit.service import QuotaService


class QuotaSwitch:
    """Hands calls to `current`, which is set before the first and may be replaced at any moment between two of them. A
    call that is being waited for ends with the service that it began with."""

    current: QuotaService

    def should_rate_limit(self, message: bytes, timeout: float | None) -> bytes | Awaitable[bytes]:
        """See `QuotaService.should_rate_limit`."""
        return self.current.should_rate_limit(message, timeout)
