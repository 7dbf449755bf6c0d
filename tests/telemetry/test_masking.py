"""A Rego mask over records: nothing that it hides is stored, by any door."""

import asyncio
import random
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from mixer import config
from mixer.errors import PolicyError
from mixer.loaded import Loaded
from mixer.policy import sources
from mixer.runtime import Runtime
from mixer.telemetry import otlp_pb2 as otlp
from mixer.telemetry.export import ExportService
from mixer.telemetry.masking import MAX_KNOWN, RecordMask
from mixer.telemetry.prometheus import PrometheusSink
from mixer.telemetry.record import AccessRecord
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.service import ReportService
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema
from tests.loop import on_loop
from tests.telemetry.entries import http_entry, identifier, messages, new_metrics, record, streamed, value
from tests.telemetry.logs import REQUEST, export, log
from tests.telemetry.test_export import Held
from tests.telemetry.test_service import Kept

RULE = "mixer/report/mask"


def mask(folder: Path, rules: str, metrics: Any = None, package: str = "mixer.report") -> RecordMask:
    (folder / "mask.rego").write_text(f"package {package}\n\n{rules}\n")
    return RecordMask(sources.load([folder]), RULE, metrics or new_metrics())


def entry(**more: Any) -> Any:
    made = http_entry(path="/orders/1?page=2", **more)
    made.request.request_headers.update({"x-user": "alice", "x-team": "a b"})
    made.common_properties.custom_tags["a tag"] = "t"
    return made


def told(made: AccessRecord | None) -> dict[str, Any]:
    """The record, which is the same in both forms."""
    assert made is not None
    document = orjson.loads(made.to_json())
    message = Schema.FromString(made.to_protobuf())
    names = {field.json_name for field, _ in message.ListFields()}
    assert names == document.keys()
    assert message.url_path == document.get("url.path", "")
    return dict(document)


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ('mask contains "/url.query"', {"url.query"}),
        ('mask contains "/http.request.header"', {"http.request.header"}),
        ('mask := ["/url.path", {"op": "remove", "path": "/client.address"}]', {"url.path", "client.address"}),
        ('mask contains "/envoy.node.id"', {"envoy.node.id"}),
        ('mask contains "/start_time"', {"start_time"}),
        ('mask contains "/duration"', {"duration"}),
        ('mask contains "/envoy.referer"', set()),
        ('mask contains "/url.query" if input["url.path"] == "/orders/1"', {"url.query"}),
        ('mask contains "/url.query" if input["http.request.header"]["x-user"] == "bob"', set()),
        ('mask contains "/url.query" if input["envoy.node.id"] == "edge-1"', {"url.query"}),
        ("mask contains path if { some path in data.hidden }\n", {"server.address"}),
    ],
)  # fmt: skip
def test_paths_of_the_rule_are_not_in_the_record(tmp_path: Path, rules: str, gone: set[str]) -> None:
    (tmp_path / "data.json").write_text('{"hidden": ["/server.address"]}')
    before, after = told(record(entry())), told(mask(tmp_path, rules)(record(entry())))
    assert before.keys() - after.keys() == gone
    assert after == {name: before[name] for name in after} | {"event_id": after["event_id"]}


def test_entries_of_maps_are_masked_by_their_names(tmp_path: Path) -> None:
    rules = 'mask := ["/http.request.header/x-user", "/envoy.custom_tags/a tag", "/http.request.header/none"]'
    after = told(mask(tmp_path, rules)(record(entry())))
    assert after["http.request.header"] == {"x-team": "a b"}
    assert "envoy.custom_tags" not in after


def test_values_are_replaced(tmp_path: Path) -> None:
    rules = """mask contains {"op": "upsert", "path": "/client.address", "value": "10.0.0.0"}
mask contains {"op": "upsert", "path": "/http.request.header/x-user", "value": "***"}
mask contains {"op": "upsert", "path": "/http.response.status_code", "value": 0}
mask contains {"op": "upsert", "path": "/envoy.node.id", "value": "a node"}
mask contains {"op": "upsert", "path": "/duration", "value": "1s"}"""
    after = told(mask(tmp_path, rules)(record(entry())))
    assert after["client.address"] == "10.0.0.0"
    assert after["http.request.header"] == {"x-user": "***", "x-team": "a b"}
    assert "http.response.status_code" not in after
    assert after["envoy.node.id"] == "a node"
    assert after["duration"] == "1.000000000s"


def test_rule_without_a_value_masks_nothing(tmp_path: Path) -> None:
    made = record(entry())
    assert mask(tmp_path, 'mask := "/url.query" if false')(made) is made
    assert mask(tmp_path, 'mask contains "/url.query" if false')(made) is made


@pytest.mark.parametrize(
    "rules",
    [
        'mask contains "/url.qery"',
        'mask contains "url.query"',
        'mask contains "/event_id"',
        "mask := 7",
        'mask contains {"op": "upsert", "path": "/client.port", "value": "hush"}',
        'mask contains {"op": "upsert", "path": "/http.request.header", "value": "hush"}',
        'mask := x if { x := ["/url.path", "/url.query"][_] }',
    ],
)
def test_record_whose_mask_fails_is_not_stored_and_is_counted(tmp_path: Path, rules: str) -> None:
    metrics = new_metrics()
    assert mask(tmp_path, rules, metrics)(record(entry())) is None
    assert value(metrics, "mixer_report_mask_failed_total") == 1


def test_policies_without_the_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=f"have no rule {RULE}"):
        mask(tmp_path, 'masks contains "/url.query"')
    with pytest.raises(PolicyError, match=f"have no rule {RULE}"):
        mask(tmp_path, 'mask contains "/url.query"', package="mixer.other")


class Counted:
    """Counts evaluations of a mask."""

    def __init__(self, of: RecordMask) -> None:
        self.count = 0
        self._evaluate = of._program.evaluate
        of._program.evaluate = self  # type: ignore[method-assign, assignment]

    def __call__(self, *given: Any) -> Any:
        self.count += 1
        return self._evaluate(*given)


def test_rule_is_evaluated_once_for_what_it_reads(tmp_path: Path) -> None:
    constant = mask(tmp_path, 'mask contains "/url.query"')
    evaluated = Counted(constant)
    for number in range(20):
        assert "url.query" not in told(constant(record(entry(host=f"host-{number}"))))
    assert evaluated.count == 1

    by_user = mask(tmp_path, 'mask contains "/url.query" if input["http.request.header"]["x-user"] == "bob"')
    evaluated = Counted(by_user)
    chance = random.Random(7)
    for number in range(60):
        made = entry(host=f"host-{number}")
        user = made.request.request_headers["x-user"] = chance.choice(["bob", "alice", ""])
        assert ("url.query" in told(by_user(record(made)))) == (user != "bob")
    del made.request.request_headers["x-user"]
    assert "url.query" in told(by_user(record(made)))
    assert evaluated.count == 4


def test_what_changes_by_itself_is_evaluated_each_time(tmp_path: Path) -> None:
    changing = mask(tmp_path, 'mask contains "/url.query" if time.now_ns() > 0')
    evaluated = Counted(changing)
    for _ in range(3):
        assert "url.query" not in told(changing(record(entry())))
    assert evaluated.count == 3


def test_memory_for_answers_is_bounded(tmp_path: Path) -> None:
    by_path = mask(tmp_path, 'mask contains "/url.query" if input["url.path"] == "/1"')
    for number in range(MAX_KNOWN + 10):
        by_path._known[(str(number),)] = ()
    by_path(record(entry()))
    assert len(by_path._known) <= MAX_KNOWN + 10
    before = len(by_path._known)
    by_path(record(http_entry(path="/" + "x" * 5000)))
    assert len(by_path._known) == before


def test_sinks_of_a_stream_get_masked_records_alone_and_slots_come_back_all_the_same(tmp_path: Path) -> None:
    metrics = new_metrics()
    rules = """mask contains "/http.request.header/x-user"
mask contains "/no.such.field" if input["url.path"] == "/bad" """
    sink, over = Kept(), []
    holding = {"decision_id": "6f1b8f0e-7c57-4a7e-9f3a-2f0b1c8d9e01", "mixer": {"holds": True}}
    bad = http_entry(path="/bad", metadata={"filterMetadata": {"envoy.filters.http.ext_authz": holding}})
    service = ReportService([sink], metrics, mask=mask(tmp_path, rules, metrics), release=over.extend)
    asyncio.run(service.stream(streamed(messages([entry(), bad], identifier()))))
    ((kept,),) = sink.batches
    assert b"alice" not in kept.to_json() + kept.to_protobuf()
    assert over == [holding["decision_id"]]
    assert value(metrics, "mixer_report_mask_failed_total") == 1


@on_loop
async def test_record_of_an_export_whose_mask_fails_is_rejected(tmp_path: Path) -> None:
    sink, metrics = Held(), new_metrics()
    rules = 'mask contains "/no.such.field" if input["url.path"] == "/bad"'
    exports = ExportService([sink], metrics, Redaction(), 10.0, mask=mask(tmp_path, rules, metrics))
    call = asyncio.create_task(
        exports.export(export([log(REQUEST), log({**REQUEST, "url.path": "/bad"})]), None)
    )
    (await sink.written()).durable(1)
    partial = otlp.ExportLogsServiceResponse.FromString(await call).partial_success
    assert (partial.rejected_log_records, partial.error_message) == (1, "the mask failed")


def test_series_do_not_show_what_is_masked_and_stay_bounded(tmp_path: Path) -> None:
    metrics = new_metrics()
    hide = mask(tmp_path, 'mask := ["/server.address", "/envoy.upstream_cluster"]')
    sink = PrometheusSink(config.Config(telemetry=config.Telemetry(max_series=100)), metrics)
    asyncio.run(sink.start())
    for number in range(200):
        made = hide(record(http_entry(host=f"secret-{number % 2}", cluster="hidden")))
        assert made is not None
        sink.write([made])
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    requests = [sample for sample in samples if sample.name == "istio_requests_total"]
    assert sum(sample.value for sample in requests) == 200
    assert "secret" not in str(samples)
    assert "hidden" not in str(samples)


@on_loop
async def test_another_mask_is_taken_with_the_policies_and_a_bad_one_leaves_the_old(tmp_path: Path) -> None:
    rego = tmp_path / "mask.rego"
    out = tmp_path / "out.jsonl"
    file = tmp_path / "mixer.yaml"
    file.write_text(f"""
listeners: {{report: {{address: "127.0.0.1:0"}}, otlp_http: {{address: "127.0.0.1:0"}}}}
policy: {{paths: ["{rego}"]}}
telemetry: {{mask: {RULE}, sinks: [{{type: file, path: "{out}"}}]}}
""")
    rego.write_text('package mixer.report\n\nmask contains "/url.query"\n')
    settings = config.load(file)
    runtime = Runtime.build(settings, "report", "")
    await runtime.start()
    async with aiohttp.ClientSession() as session:
        url = f"http://{runtime.fronts['otlp_http'].address}/v1/logs"
        data = export([log({**REQUEST, "url.path": "/a", "url.query": "b=c"})])

        async def stored() -> dict[str, Any]:
            headers = {"content-type": "application/x-protobuf"}
            async with session.post(url, data=data, headers=headers) as answer:
                assert answer.status == 200
            return dict(orjson.loads(out.read_text().splitlines()[-1]))

        assert "url.query" not in await stored()
        rego.write_text("package mixer.report\n\nother := 1\n")
        with pytest.raises(PolicyError, match="have no rule"):
            await runtime.prepare(Loaded(settings, "", ""))
        data = export([log({**REQUEST, "url.path": "/a", "url.query": "b=d"})])
        assert "url.query" not in await stored()
        rego.write_text('package mixer.report\n\nmask contains "/url.path"\n')
        files = Loaded(settings, "", "")
        await runtime.exchange(files, await runtime.prepare(files))
        data = export([log({**REQUEST, "url.path": "/a", "url.query": "b=e"})])
        found = await stored()
        assert found["url.query"] == "b=e"
        assert "url.path" not in found
    await runtime.close(1)
