"""What the demo shows, drawn with rich. Every value comes from an answer, a record or a scrape."""

import os
import sys
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from mixer.demo.findings import Record, Series, decision
from mixer.demo.stack import Stack
from mixer.demo.traffic import Outcome

_WIDE = 100  # columns; below, the tables' columns stand closer
_NONE = Text("-", style="dim")
_STYLES = {
    "allowed": "green",
    "denied": "red",
    "none": "magenta",
    "OK": "green",
    "OVER_LIMIT": "yellow",
    "hit": "green",
}
# Metric, and the labels that it is shown by; it is summed over the others.
_SERIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("istio_requests_total", ("response_code", "response_flags")),
    ("istio_request_duration_milliseconds_count", ()),
    ("istio_request_duration_milliseconds_sum", ()),
    ("istio_tcp_connections_closed_total", ("response_flags",)),
    ("istio_tcp_received_bytes_total", ()),
    ("mixer_calls_total", ("method", "code")),
    ("mixer_decisions_total", ("outcome",)),
    ("mixer_decision_cache_lookups_total", ("outcome",)),
    ("mixer_quota_descriptors_total", ("outcome",)),
    ("mixer_sink_records_total", ("sink",)),
)


def console() -> Console:
    """The terminal; as wide as it is, or 120 columns where the output goes elsewhere."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=120 if piped else None, highlight=False)


def heading(text: str, note: str) -> Group:
    line = Text.assemble((text, "bold"), ("  ", ""), (note, "dim"))
    return Group("", Rule(line, align="left", style="dim"))


def introduction() -> Text:
    return Text(
        "\nEach request goes through a real Envoy, which asks Mixer whether it may pass (Check) and whether "
        "it is within its limits (Quota), and afterwards reports it to Mixer (Report)."
    )


def requests_table(console: Console, outcomes: Sequence[Outcome], records: Mapping[str, Record]) -> Table:
    """Request → decision and reason → limit left → status → latency."""
    table = _table(console)
    table.add_column("#", justify="right", style="dim")
    table.add_column("caller", no_wrap=True)
    table.add_column("request", no_wrap=True)
    table.add_column("decision and reason", no_wrap=True)
    table.add_column("limit left", justify="right")
    table.add_column("status", justify="right")
    table.add_column("ms", justify="right", style="dim")
    for number, outcome in enumerate(outcomes, 1):
        table.add_row(
            str(number),
            outcome.request.caller,
            outcome.request.what,
            _decision(records.get(outcome.key)),
            _left(outcome),
            _status(outcome.status),
            f"{outcome.seconds * 1000:.1f}",
        )
    return table


def series_table(console: Console, series: Series) -> Table:
    """Mixer's and Istio's series that the traffic moved."""
    table = _table(console)
    table.add_column("series", no_wrap=True)
    table.add_column("value", justify="right")
    for name, labels in _SERIES:
        for values, total in sorted(series.by(name, labels).items()):
            if not total:
                continue
            shown = Text(name)
            if labels:
                pairs = ", ".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))
                shown.append(f"{{{pairs}}}", style="cyan")
            table.add_row(shown, f"{total:.0f}" if total == int(total) else f"{total:.1f}")
    return table


def records_table(console: Console, outcomes: Sequence[Outcome], records: Mapping[str, Record]) -> Table:
    """Each request's record: what Check and Quota had said about it."""
    table = _table(console)
    table.add_column("#", justify="right", style="dim")
    table.add_column("decision id", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    table.add_column("cache")
    table.add_column("limit", no_wrap=True)
    table.add_column("code", no_wrap=True)
    for number, outcome in enumerate(outcomes, 1):
        if (record := records.get(outcome.key)) is None:
            continue
        identifier = str(record.get("mixer.decision_id", ""))
        table.add_row(
            str(number),
            Text(identifier[:8] + "…" if identifier else "-", style="dim"),
            *(
                _value(record, name)
                for name in (
                    "mixer.policy",
                    "mixer.decision.reason",
                    "mixer.cache",
                    "mixer.limit",
                    "mixer.limit.code",
                )
            ),
        )
    return table


def live_line(record: Record) -> Text:
    """A record as one line, for requests that the person at the terminal sends."""
    tcp = record.get("network.protocol.name") == "tcp"
    what = (
        "TCP connection" if tcp else f"{record.get('http.request.method', '?')} {record.get('url.path', '?')}"
    )
    user = (
        record.get("client.address", "?")
        if tcp
        else record.get("http.request.header", {}).get("x-user", "nobody")
    )
    time = str(record.get("start_time", ""))[11:19]
    limit = ("  limit ", record["mixer.limit"], " ") if "mixer.limit" in record else ()
    line = Text.assemble((f"{time}  ", "dim"), f"{user}  {what}  ", _decision(record))
    if limit:
        code = str(record.get("mixer.limit.code", ""))
        line.append(f"  limit {record['mixer.limit']} ").append(code, style=_STYLES.get(code, ""))
    if not tcp:
        line.append("  ").append_text(_status(str(record.get("http.response.status_code", "-"))))
    return line


def what_to_try(console: Console, stack: Stack, tokens: Mapping[str, str]) -> None:
    """URLs, and lines to paste. No line is broken by us, so that each can be copied whole."""
    web = f"http://{stack.http}"
    host, _, port = stack.tcp.rpartition(":")
    alice, root = '-H "authorization: Bearer $ALICE"', '-H "authorization: Bearer $ROOT"'
    lines = {
        "200, until her five requests a minute are used up": f"curl -i {web}/api/orders {alice}",
        "403: the role user may not": f"curl -i {web}/admin/users {alice}",
        "200: the role admin may": f"curl -i {web}/admin/users {root}",
        "401: no token": f"curl -i {web}/api/orders",
        "TCP, echoed": f"bash -c 'exec 3<>/dev/tcp/{host}/{port}; echo ping >&3; head -1 <&3'",
    }
    console.print(heading("Try it", "paste these into another terminal"))
    for name, token in tokens.items():
        console.print(f"{name.upper()}={token}", style="dim", soft_wrap=True)
    for remark, line in lines.items():
        console.print(f"# {remark}", style="dim cyan")
        console.print(line, soft_wrap=True, markup=False)
    places = Table.grid(padding=(0, 2))
    places.add_row("metrics", f"http://{stack.mixer['admin']}/metrics")
    places.add_row("live view", f"mixer top --address {stack.mixer['admin']}")
    places.add_row(
        "dashboards", "deploy/grafana/ over deploy/prometheus/, loaded as README.md says under Watch"
    )
    places.add_row("Envoy's admin", f"http://{stack.envoy_admin}/")
    places.add_row("records", str(stack.records))
    places.add_row("settings, logs", f"{stack.folder}/")
    console.print("", places)


def right(console: Console, outcomes: Sequence[Outcome], records: Sequence[Record]) -> None:
    console.print(
        f"\n[bold green]✓[/] {len(outcomes)} requests, {len(records)} records, each joined with its decision; "
        "answers, limits, records and series are as they must be."
    )


def wrong(console: Console, differences: Sequence[str]) -> None:
    console.print(f"\n[bold red]Not as expected[/] in {len(differences)} points:")
    for line in differences:
        console.print(f"  [red]✗[/] {escape(line)}")


def _table(console: Console) -> Table:
    gap = 1 if console.width >= _WIDE else 0
    return Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0)
    )


def _decision(record: Record | None) -> Text:
    if record is None:
        return Text("no record", style="magenta")
    said = decision(record)
    reason = str(record.get("mixer.decision.reason", ""))
    return Text.assemble((said, _STYLES[said]), " ", reason)


def _left(outcome: Outcome) -> Text:
    if outcome.left is None:
        return _NONE
    return Text.assemble(
        (str(outcome.left), "" if outcome.left else "yellow"), (f" of {outcome.limit}", "dim")
    )


def _status(status: str) -> Text:
    colours = {"2": "green", "o": "green", "4": "red", "c": "red", "5": "magenta"}
    return Text(status, style="yellow" if status == "429" else colours.get(status[:1], ""))


def _value(record: Record, name: str) -> Text:
    value = record.get(name)
    return _NONE if value is None else Text(str(value), style=_STYLES.get(str(value), ""))
