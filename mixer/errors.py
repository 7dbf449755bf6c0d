"""The errors of Mixer: one small tree.

A backend translates foreign errors into these at its edge; `server.status` alone turns them into
gRPC status codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class MixerError(Exception):
    """Base of all errors that Mixer raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file that an operator wrote."""

    file: str
    path: str  # key path within the file ("telemetry.sinks[1].type") or "line 3"; empty for the file itself
    expected: str  # what would be right; with no `got`, the whole message
    got: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}: {self.path}" if self.path else self.file
        return (
            f"{where}: {self.expected}"
            if self.got is None
            else f"{where}: expected {self.expected}, got {self.got}"
        )


class LoadError(MixerError):
    """A file of the operator (settings, policy, limits) cannot be used. Carries every mistake found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class SettingsError(LoadError):
    """The settings file is wrong."""


class PolicyError(LoadError):
    """A policy or its data cannot be loaded."""


class BundleError(PolicyError):
    """A bundle cannot be had or used. `reason` is a short constant, fit for a metric label."""

    def __init__(self, reason: str, bundle: str, file: str, message: str) -> None:
        self.reason = reason
        super().__init__([Problem(f"{bundle}/{file}" if file else bundle, "", message)])


class LimitsError(LoadError):
    """A limits file cannot be loaded."""


class StartError(MixerError):
    """Something that Mixer needs at start is not there (an address in use, an OPA server that is away)."""


class RequestError(MixerError):
    """The caller's message is wrong; retrying it unchanged cannot help."""


class CallError(MixerError):
    """A call cannot be answered; Envoy's failure mode decides.

    `reason` is a short constant, fit for a metric label.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class DecisionError(CallError):
    """No decision: undefined, illegal, failed, or its engine is away."""


class CounterError(CallError):
    """The counters cannot be asked, or their answer is not usable."""


class DeadlineError(CallError):
    """The caller's deadline passed before there was an answer."""


class SinkError(MixerError):
    """A sink cannot be opened or written."""
