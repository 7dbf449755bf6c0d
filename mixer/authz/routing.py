"""Several decisions in one service: Envoy's route says which one its requests are put to."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer.errors import RequestError
from mixer.log import Throttle
from mixer.metrics import Metrics

KEY = "mixer_decision"  # the context extension that names a decision
_LONGEST = 80  # characters of an unknown name that are shown

log = structlog.get_logger()


class Checks(Protocol):
    """What answers calls of Check; see `CheckService`."""

    def check(self, request: CheckRequest, timeout: float | None) -> bytes | Awaitable[bytes]: ...

    def check_all(
        self, requests: Sequence[tuple[CheckRequest, float | None]]
    ) -> list[bytes | Awaitable[bytes] | Exception]: ...


class Routing:
    """Checks by the decision that the request names; `default` for those that name none.

    A name that is not known gets a `RequestError`, since no answer would be right: the default may be laxer or
    stricter than what the route was meant to ask.
    """

    def __init__(self, default: Checks, named: Mapping[str, Checks], metrics: Metrics) -> None:
        self._default = default
        self._named = dict(named)
        self._names = ", ".join(sorted(named))
        self._unknown = metrics.unknown_decisions
        self._throttle = Throttle()

    def check(self, request: CheckRequest, timeout: float | None) -> bytes | Awaitable[bytes]:
        return self._of(request).check(request, timeout)

    def check_all(
        self, requests: Sequence[tuple[CheckRequest, float | None]]
    ) -> list[bytes | Awaitable[bytes] | Exception]:
        """Those of one decision go to it together; the answers are in the requests' order."""
        answers: dict[int, bytes | Awaitable[bytes] | Exception] = {}
        places: dict[Checks, list[int]] = {}
        for place, (request, _) in enumerate(requests):
            try:
                places.setdefault(self._of(request), []).append(place)
            except RequestError as error:
                answers[place] = error
        for checks, its in places.items():
            answers.update(zip(its, checks.check_all([requests[place] for place in its]), strict=True))
        return [answers[place] for place in range(len(requests))]

    def _of(self, request: CheckRequest) -> Checks:
        extensions = request.attributes.context_extensions
        if KEY not in extensions:
            return self._default
        name = extensions[KEY]
        if (checks := self._named.get(name)) is None:
            raise self._refused(name)
        return checks

    def _refused(self, name: str) -> RequestError:
        self._unknown.inc()
        shown = name if len(name) <= _LONGEST else name[:_LONGEST] + "…"
        if (held := self._throttle("decision_unknown")) is not None:
            log.warning("decision_unknown", name=shown, known=self._names, held_back=held)
        return RequestError(
            f'the context extension {KEY} names the decision "{shown}", which policy.decisions has not; '
            f"it has: {self._names}"
        )
