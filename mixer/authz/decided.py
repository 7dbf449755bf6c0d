"""The seam between Check and whoever is told of its decisions."""

from collections.abc import Callable
from dataclasses import dataclass

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What a candidate policy decided beside the live one, for the same input.

    `outcome`: "agree", "would_allow", "would_deny" or "error". `result` is JSON text, None where there is none.
    """

    path: str
    revision: str
    outcome: str
    result: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """One call of Check that was answered, or failed.

    `path` and `revision`: of the decision, "envoy/authz/allow". `document`: the input that it was made from, as JSON:
    what the policy can read of `request`, all of which is there for who wants more; None where the request could not
    be read. `result`: the decision as JSON text, None where there is none. `error` and `reason`: why there is no legal
    decision; then `allowed` is None, except for a request that could not be read, which is denied. It is None too
    where the decision is an `error_response`. `cache`: "hit", "miss" or "off". `timestamp`: Unix seconds. `seconds`: of
    the evaluation, None where none was made for this call. `limit`: of those that the decision asks for the one that
    decided, None where it asks for none; with `over_limit`, the request was refused for it though it is `allowed`.
    """

    decision_id: str
    path: str
    revision: str
    request: CheckRequest
    document: bytes | None
    result: str | None
    error: str | None
    reason: str | None
    cache: str
    timestamp: float
    seconds: float | None
    allowed: bool | None
    limit: str | None = None
    over_limit: bool = False
    shadow: Shadowed | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        request: int = self.request.ByteSize()
        return request + len(self.document or b"") + len(self.result or "")

    def drawn(self, share: float) -> bool:
        """Whether it is in a sample of that share. By its id, which is random: so whoever has the id can tell, and a
        sample of shadows and one of the log are the same."""
        return share >= 1 or int(self.decision_id[:8], 16) < share * 2**32


Observer = Callable[[Decided], None]
"""Is called on the loop before the answer goes out, so it returns at once and does not raise: what takes time is done
later."""
