"""Which metrics are counted, with which labels: Istio's, as the settings change them, and the operator's own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mixer.config import Config, Label, Override
from mixer.errors import Problem, SettingsError
from mixer.telemetry import labels, own
from mixer.telemetry.istio import CONNECTIONS, HISTOGRAMS, MESSAGES, REQUESTS, Group, Requests, Sums
from mixer.telemetry.labelset import LabelError, LabelSet, label_set
from mixer.telemetry.own import Own

Overflowed = Callable[[str], Callable[[], None]]
"""What to call for each sample of a metric that goes into its overflow series."""
_LABELS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(REQUESTS, labels.HTTP),
    **dict.fromkeys(MESSAGES, labels.PEERS),
    **dict.fromkeys(CONNECTIONS, labels.TCP),
}


@dataclass(frozen=True, slots=True)
class Views:
    """All that is counted."""

    requests: tuple[Requests, ...]
    messages: tuple[Sums, ...]
    connections: tuple[Sums, ...]
    own: tuple[Own, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        return (*self.requests, *self.messages, *self.connections, *self.own)


def views(settings: Config, overflowed: Overflowed) -> Views:
    """Raises `SettingsError` with every mistake in `telemetry.overrides` and `telemetry.metrics`."""
    telemetry = settings.telemetry
    limit = telemetry.max_series
    problems: list[Problem] = []

    def refuse(path: str, error: LabelError) -> None:
        problems.append(Problem(settings.file, f"{path}.{error.key}", error.expected, error.got))

    requests = [
        Requests(shown, label_set_, _bounds(telemetry.overrides, shown), limit, overflowed(shown[0]))
        for shown, label_set_ in _grouped(REQUESTS, telemetry.overrides, refuse)
    ]
    sums = [
        [
            Sums(texts, shown, label_set_, limit, overflowed(shown[0]))
            for shown, label_set_ in _grouped(texts, telemetry.overrides, refuse)
        ]
        for texts in (MESSAGES, CONNECTIONS)
    ]
    for place, override in enumerate(telemetry.overrides):
        if override.buckets is not None and not HISTOGRAMS.intersection(override.metrics or HISTOGRAMS):
            refuse(f"telemetry.overrides[{place}]", LabelError("buckets", "needs a histogram among metrics"))
    made: list[Own] = []
    taken: dict[str, int] = {}
    for place, metric in enumerate(telemetry.metrics):
        try:
            made.append(Own(metric, limit, overflowed(metric.name)))
        except LabelError as error:
            refuse(f"telemetry.metrics[{place}]", error)
    for place, name in own.names(telemetry.metrics):
        if taken.setdefault(name, place) != place:
            what = f'"{name}" is taken by telemetry.metrics[{taken[name]}]; give each its own'
            refuse(f"telemetry.metrics[{place}]", LabelError("name", what))
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return Views(tuple(requests), tuple(sums[0]), tuple(sums[1]), tuple(made))


def _of(overrides: Sequence[Override], metric: str) -> Iterable[tuple[int, Override]]:
    return ((at, each) for at, each in enumerate(overrides) if not each.metrics or metric in each.metrics)


def _bounds(overrides: Sequence[Override], shown: Sequence[str]) -> dict[str, tuple[float, ...]]:
    return {
        name: override.buckets
        for name in shown
        for _, override in _of(overrides, name)
        if override.buckets is not None
    }


def _grouped(
    metrics: Iterable[str], overrides: Sequence[Override], refuse: Callable[[str, LabelError], None]
) -> Iterable[tuple[list[str], LabelSet]]:
    """The metrics that are shown, those with the same labels together."""
    groups: list[tuple[dict[str, Label | None], list[str], LabelSet]] = []
    for metric in metrics:
        chosen, where, disabled = _changes(overrides, metric)
        if disabled:
            continue
        if (same := next((group for group in groups if group[0] == chosen), None)) is not None:
            same[1].append(metric)
            continue
        try:
            made = label_set(_LABELS[metric], chosen)
        except LabelError as error:
            name = error.key.partition(".")[0]
            refuse(f"telemetry.overrides[{where[name]}].labels", error)
        else:
            groups.append((chosen, [metric], made))
    return [(shown, made) for _, shown, made in groups]


def _changes(
    overrides: Sequence[Override], metric: str
) -> tuple[dict[str, Label | None], dict[str, int], bool]:
    """What all overrides together make of a metric's labels, which of them says so of each, and whether it is off."""
    chosen: dict[str, Label | None] = {}
    where: dict[str, int] = {}
    disabled = False
    for at, override in _of(overrides, metric):
        if override.disabled is not None:
            disabled = override.disabled
        for name, label in override.labels.items():
            where[name] = at
            if label is None and chosen.get(name) is not None and name not in labels.HTTP:
                del chosen[name]  # which an earlier one had added
            else:
                chosen[name] = label
    return chosen, where, disabled
