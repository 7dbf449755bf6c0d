"""How a limit of a file is counted: the keys of a `rate_limit` that envoyproxy/ratelimit has, and those it has not.

`algorithm` (fixed_window unless given; see `algorithms`), `window` in place of `unit`, `burst`, `lease`,
`count_over_limit`, `lot` and `on_error` (see the module of that name) are ours. Without them a limit is counted as that
server counts it.
"""

from typing import cast, get_args

from mixer.config import INSTANCES, OnError
from mixer.ratelimit.counters import MAX_LIMIT, MAX_WINDOW, SECOND, Algorithm, Rule, RuleError
from mixer.ratelimit.section import OWN_LIMIT_KEYS, Section
from mixer.ratelimit.tree import SECONDS, UNITS

_UNITS = {name.upper(): number for name, (number, _) in UNITS.items()}
# The keys that an algorithm knows beside `requests_per_unit` (for slots, their number).
_KEYS: dict[str, tuple[str, ...]] = {
    "fixed_window": ("unit", "window", "count_over_limit", "lot"),
    "sliding_window": ("unit", "window", "count_over_limit"),
    "token_bucket": ("unit", "window", "count_over_limit", "burst"),
    "concurrency": ("lease",),
}
_FIELDS = {
    "window": "window",
    "burst": "burst",
    "lot": "lot",
    "limit": "requests_per_unit",
}  # of a rule, as keys


def read(section: Section, unlimited: bool, counts_over: bool) -> tuple[int, int, Rule | None]:
    """Rate and unit (0 where there is none) of a `rate_limit`, and its rule: None for an unlimited one, and where there
    are mistakes (noted). `counts_over`: what `count_over_limit` is for a fixed window that does not say it."""
    rate = section.whole_number("requests_per_unit", MAX_LIMIT)
    if unlimited:
        _check_unlimited(section)
        return rate, 0, None
    algorithm = section.choice("algorithm", get_args(Algorithm), "fixed_window")
    if algorithm is None:
        return rate, 0, None
    for name in ("unit", *OWN_LIMIT_KEYS[1:]):
        if section.has(name) and name not in (*_KEYS[algorithm], "on_error"):
            section.problem(section.at(name), f"no {name} beside algorithm: {algorithm}", section.shown(name))
    unit, seconds = (0, section.seconds("lease", MAX_WINDOW // SECOND))
    if algorithm != "concurrency":
        unit, seconds = _window(section)
    elif not section.has("lease"):
        section.problem(section.at("lease"), "how long a slot is held at most", "nothing")
    given = {name for name in _KEYS[algorithm] if section.has(name)}
    over = counts_over and algorithm == "fixed_window"
    if "count_over_limit" in given:
        over = section.flag("count_over_limit")
    burst = section.whole_number("burst", MAX_LIMIT) if "burst" in given else None
    lot = section.whole_number("lot", MAX_LIMIT) if "lot" in given else 1
    if seconds is None:
        return rate, unit, None
    try:
        rule = Rule(rate, seconds * SECOND, cast(Algorithm, algorithm), burst, counts_over=over, lot=lot)
    except RuleError as error:
        section.problem(section.at(_FIELDS[error.name]), error.expected, error.got)
        return rate, unit, None
    return rate, unit, rule


def _check_unlimited(section: Section) -> None:
    """Note what makes no sense beside `unlimited`."""
    if section.has("requests_per_unit"):
        section.warn(section.at("requests_per_unit"), "changes nothing beside unlimited: true")
    # What is no unit at all is no mistake for envoyproxy/ratelimit here.
    if (text := section.text("unit")) is not None and section.has("unit") and text.upper() not in _UNITS:
        section.warn(section.at("unit"), "changes nothing beside unlimited: true")
    elif text:
        section.problem(section.at("unit"), "no unit beside unlimited: true", section.shown("unit"))
    for name in OWN_LIMIT_KEYS:
        if section.has(name):
            section.problem(section.at(name), f"no {name} beside unlimited: true", section.shown(name))


def _window(section: Section) -> tuple[int, int | None]:
    """The unit, and the window in seconds; None for a mistake (noted)."""
    if section.has("window"):
        if section.has("unit"):
            section.problem(section.at("window"), "either unit or window", "both")
        return 0, section.seconds("window", MAX_WINDOW // SECOND)
    if (text := section.text("unit")) is None:
        return 0, None
    if unit := _UNITS.get(text.upper(), 0):
        return unit, SECONDS[unit]
    *most, last = UNITS
    section.problem(section.at("unit"), f"{', '.join(most)} or {last}", f'"{text}"' if text else "nothing")
    return 0, None


def on_error(section: Section, has_shares: bool) -> str:
    """What a limit answers while its counters are away, empty where it does not say. `has_shares`: whether `local` has
    a meaning."""
    choice = section.choice("on_error", get_args(OnError), "")
    if choice == "local" and not has_shares:
        section.problem(section.at("on_error"), INSTANCES)
    return choice or ""
