"""What `mixer top` shows, drawn with rich: 80 columns are enough."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mixer.top.scrape import CALL_SECONDS, EVALUATION_SECONDS, Change

_LIMITS = 8  # limits shown where the terminal is high enough: those that refuse most
_LINES = 24  # of a terminal, beside the lines of limits
_NARROW = 30  # columns of a name
_FINE = ("OK", "CANCELLED")  # codes that are no failure of ours


def frame(
    change: Change, address: str, interval: float, now: datetime, size: tuple[int, int | None]
) -> RenderableType:
    """One frame. `size`: columns, and lines where it must fit into them."""
    width, height = size
    limits = _LIMITS if height is None else max(1, min(_LIMITS, height - _LINES))
    return Group(
        _head(change, address, interval, now, width),
        _calls(change),
        _decisions(change),
        _engine(change),
        _limits(change, limits),
        _sinks(change),
        _rest(change),
    )


def away(message: str, since: datetime, interval: float, now: datetime) -> RenderableType:
    """In a frame's place while nobody answers."""
    return Group(
        Text.assemble(("mixer top", "bold"), f"  {now:%H:%M:%S}"),
        Text(message, style="bold red"),
        Text(f"away since {since:%H:%M:%S}; asking again every {interval:g} s, Ctrl-C ends", style="dim"),
    )


def _head(change: Change, address: str, interval: float, now: datetime, width: int) -> RenderableType:
    build, policy = _labels(change, "mixer_build_info"), _labels(change, "mixer_policy_info")
    version = build.get("version", "?")
    top = Text.assemble(
        ("mixer top", "bold"), f"  {address}  {version}  {now:%H:%M:%S}", (f"  every {interval:g} s", "dim")
    )
    lines = [top]
    if policy:
        revision = f"@{policy['revision']}" if policy.get("revision") else ""
        lines.append(Text(f"policy {policy.get('decision', '?')}{revision}, {policy.get('engine', '?')}"))
    style = {"ready": "green", "degraded": "yellow", "not ready": "bold red"}
    lines += [Text(said, style=style.get(said.partition(":")[0], "")) for said in change.new.state]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)


def _calls(change: Change) -> Table:
    table = _table("calls", "a second", "failed", "p50", "p99", "in flight")
    rates = change.rates("mixer_calls_total", "method", "code")
    for method in sorted({method for method, _ in rates}):
        codes = {code: rate for (of, code), rate in rates.items() if of == method}
        failed = sum(rate for code, rate in codes.items() if code not in _FINE)
        table.add_row(
            method,
            _number(sum(codes.values())),
            _bad(failed),
            *_latencies(change, CALL_SECONDS, method=method),
            _whole(change.value("mixer_calls_in_flight", method=method)),
        )
    entries = change.rate("mixer_report_entries_total")
    if (streams := change.value("mixer_report_streams")) is not None:
        table.add_row("access-log entries", _number(entries), "", "", "", f"{streams:.0f} streams")
    return table


def _decisions(change: Change) -> Table:
    table = _table("decisions", "allowed", "denied", "errors", "denied %", "other")
    rates = change.rates("mixer_decisions_total", "decision", "outcome")
    for decision in sorted({decision for decision, _ in rates}):
        outcomes = {outcome: rate for (of, outcome), rate in rates.items() if of == decision}
        allowed, denied, error = (outcomes.pop(each, 0.0) for each in ("allowed", "denied", "error"))
        other = sum(outcomes.values())
        table.add_row(
            _name(decision),
            _number(allowed),
            Text(_number(denied), style="yellow" if denied else ""),
            _bad(error),
            _share(denied, allowed + denied + error + other),
            _number(other),
        )
    return table


def _engine(change: Change) -> RenderableType:
    """Engines' cost, the cache before them, and what failed."""
    table = _table("engine", "a second", "failed", "p50", "p99", "")
    failures = change.rates("mixer_engine_errors_total", "engine", "reason")
    evaluated = change.rates(f"{EVALUATION_SECONDS}_bucket", "engine", "le")
    for engine in sorted({engine for engine, _ in (*evaluated, *failures)}):
        failed = sum(rate for (of, _), rate in failures.items() if of == engine)
        rate = evaluated.get((engine, "+Inf"), 0.0)
        latencies = _latencies(change, EVALUATION_SECONDS, engine=engine)
        table.add_row(engine, _number(rate), _bad(failed), *latencies, "")
    lookups = change.rates("mixer_decision_cache_lookups_total", "outcome")
    total = sum(lookups.values())
    hits = lookups.get(("hit",), 0.0) + lookups.get(("joined",), 0.0)
    cache = (
        f"cache: {_share(hits, total)} hits, {_share(lookups.get(('bypass',), 0.0), total)} bypass, "
        f"{_whole(change.value('mixer_decision_cache_entries'))} entries, "
        f"{_number(change.rate('mixer_decision_cache_evictions_total'))}/s evicted"
    )
    lines = [Text(cache)]
    lines += _moving("failed decisions/s", {reason: rate for (_, reason), rate in failures.items()})
    lines += _moving("dry run let pass/s", {"": change.rate("mixer_dry_run_passed_total")})
    shadow = change.rates("mixer_shadow_decisions_total", "outcome")
    lines += _moving("shadow differs/s", {what: rate for (what,), rate in shadow.items() if what != "agree"})
    return Group(table, *lines)


def _limits(change: Change, most: int) -> RenderableType:
    table = _table("limits", "within", "near", "over", "shadow", "over %")
    rates = change.rates("mixer_limit_hits_total", "limit", "outcome")

    def of(limit: str) -> list[float]:
        within, near, over, local, shadow = (
            rates.get((limit, outcome), 0.0) for outcome in ("within", "near", "over", "over_local", "shadow")
        )
        return [within, near, over + local, shadow]

    rows = {limit: of(limit) for limit in {limit for limit, _ in rates}}
    order = sorted(rows, key=lambda limit: (*(-number for number in reversed(rows[limit][1:3])), limit))
    for limit in order[:most]:
        within, near, over, shadow = rows[limit]
        table.add_row(
            _name(limit),
            _number(within),
            Text(_number(near), style="yellow" if near else ""),
            _bad(over),
            Text(_number(shadow), style="yellow" if shadow else ""),
            _share(over, within + near + over + shadow),
        )
    lines: list[Text] = []
    if len(order) > most:
        lines.append(Text(f"and {len(order) - most} more, which refuse less", style="dim"))
    open_ones = change.value("mixer_counter_breakers_open")
    if open_ones:
        lines.append(Text(f"counters: {open_ones:.0f} Redis not asked, its breaker is open", style="red"))
    failures = change.rates("mixer_counter_errors_total", "store", "reason")
    lines += _moving(
        "failed counter calls/s", {f"{store} {reason}": rate for (store, reason), rate in failures.items()}
    )
    instead = change.rates("mixer_counter_on_error_total", "on_error")
    lines += _moving("answered by on_error/s", {answer: rate for (answer,), rate in instead.items()})
    return Group(table, *lines)


def _sinks(change: Change) -> RenderableType:
    table = _table("sinks", "a second", "dropped", "waiting", "buffer %", "lag")
    delivered = {sink: rate for (sink,), rate in change.rates("mixer_sink_records_total", "sink").items()}
    dropped = {sink: rate for (sink,), rate in change.rates("mixer_sink_dropped_total", "sink").items()}
    waiting, room = (
        change.values(name, "sink") for name in ("mixer_sink_buffered", "mixer_sink_buffer_capacity")
    )
    for sink in sorted(delivered.keys() | waiting.keys()):
        rate, waits, capacity = delivered.get(sink, 0.0), waiting.get(sink), room.get(sink)
        table.add_row(
            sink,
            _number(rate),
            _bad(dropped.get(sink, 0.0)),
            _whole(waits),
            "-" if waits is None or not capacity else _share(waits, capacity),
            _lag(waits, rate),
        )
    reasons = change.rates("mixer_sink_dropped_total", "reason")
    return Group(table, *_moving("dropped/s", {reason: rate for (reason,), rate in reasons.items()}))


def _rest(change: Change) -> Text:
    cpu = change.rate("process_cpu_seconds_total")
    memory = change.value("process_resident_memory_bytes")
    overflow = change.rate("mixer_series_overflow_total")
    text = Text(f"process: {cpu:.0%} of a core, {(memory or 0) / 2**20:,.0f} MiB")
    if overflow:
        text.append(f"; {_number(overflow)}/s into overflow series", style="yellow")
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, expand=False, padding=(0, 1, 0, 0), header_style="bold cyan", pad_edge=False)
    table.add_column(title, width=_NARROW, no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(column, width=9, justify="right", no_wrap=True)
    return table


def _latencies(change: Change, name: str, **labels: str) -> Sequence[str]:
    found = change.quantiles(name, (0.5, 0.99), **labels)
    return ("-", "-") if found is None else [_time(seconds) for seconds in found]


def _moving(what: str, rates: dict[str, float]) -> Iterator[Text]:
    """A line that names what moves; none where nothing does."""
    moved = {name: rate for name, rate in rates.items() if rate}
    if moved:
        named = ", ".join(f"{name} {_number(rate)}".strip() for name, rate in sorted(moved.items()))
        yield Text(f"{what}: {named}", style="red")


def _labels(change: Change, name: str) -> dict[str, str]:
    return dict(next(iter(change.new.samples.get(name, {})), ()))


def _name(text: str) -> str:
    """Of a long name, the end, which tells more than its beginning."""
    return text if len(text) <= _NARROW else f"…{text[1 - _NARROW :]}"


def _lag(waiting: float | None, rate: float) -> str:
    """How long what waits takes to be delivered as fast as now."""
    if not waiting:
        return "-"
    return _time(waiting / rate) if rate else "stalled"


def _share(part: float, total: float) -> str:
    return f"{part / total:.1%}" if total else "-"


def _bad(rate: float) -> Text:
    return Text(_number(rate), style="bold red" if rate else "")


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _number(value: float) -> str:
    return "0" if not value else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:,.0f} min"
