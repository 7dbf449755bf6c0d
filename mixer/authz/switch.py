"""Check by whichever service is the current one."""

from collections.abc import Awaitable, Sequence

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer.authz.routing import Checks


class Switch:
    """Hands calls to `current`, which is set before the first and may be replaced at any moment between two of them. A
    call that is being waited for ends with the service that it began with."""

    current: Checks

    def check(self, request: CheckRequest, timeout: float | None) -> bytes | Awaitable[bytes]:
        return self.current.check(request, timeout)

    def check_all(
        self, requests: Sequence[tuple[CheckRequest, float | None]]
    ) -> list[bytes | Awaitable[bytes] | Exception]:
        return self.current.check_all(requests)
