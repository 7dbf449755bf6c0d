"""The files that deploy Mixer: each by its schema, and against what Mixer itself says."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from google.protobuf import json_format, symbol_database

import mixer.demo.assets
from mixer import cli, config
from tests.components import binaries
from tests.server.certificates import Authority

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((KUBERNETES / name).read_text())
]
WORKLOADS = [each for each in MANIFESTS if each["kind"] in ("Deployment", "StatefulSet")]
VERSION = "1.33"


def named(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=named)
def test_manifest_is_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_kustomization_names_every_file_of_its_folder() -> None:
    generated = [file for each in KUSTOMIZATION["configMapGenerator"] for file in each["files"]]
    there = {file.name for file in KUBERNETES.iterdir()} - {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert {*KUSTOMIZATION["resources"], *generated} == there


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The settings of Kubernetes and what they name, where the pods have them."""
    text = (KUBERNETES / "mixer.yaml").read_text().replace("/etc/mixer", str(tmp_path))
    (tmp_path / "policies").mkdir()
    for name in ("authz.rego", "limits.yaml"):
        shutil.copy(KUBERNETES / name, tmp_path / "policies")
    file = tmp_path / "mixer.yaml"
    file.write_text(text)
    return file


def test_settings_of_the_pods_are_valid(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXER_REDIS_URL", "redis://redis:6379/0")
    assert cli.main(["validate", "--config", str(settings)]) == 0


@pytest.mark.parametrize("workload", WORKLOADS, ids=named)
def test_pods_have_no_rights_and_are_probed_where_mixer_answers(
    workload: dict[str, Any], settings: Path
) -> None:
    listeners = config.load(settings, {"MIXER_REDIS_URL": "redis://redis:6379/0"}).listeners
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    role = workload["metadata"]["labels"]["app.kubernetes.io/component"]
    assert container["args"][-2:] == ["--role", role]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {name: int(address.rpartition(":")[2]) for name, address in (
        ("grpc", getattr(listeners, role).address), ("admin", listeners.admin.address),
    )}  # fmt: skip
    for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "admin"}
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_pods_end_before_they_are_killed(settings: Path) -> None:
    drain = config.load(settings, {"MIXER_REDIS_URL": "redis://redis:6379/0"}).drain_timeout
    for workload in WORKLOADS:
        pod = workload["spec"]["template"]["spec"]
        before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert before + drain < pod["terminationGracePeriodSeconds"]


def test_scaling_asks_for_the_metric_that_the_adapter_makes() -> None:
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]
    (scaler,) = [each for each in MANIFESTS if each["kind"] == "HorizontalPodAutoscaler"]
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert "mixer_calls_total" in rule["seriesQuery"]


# Compose


def test_compose_file_is_what_compose_takes() -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


def test_compose_names_files_that_are_there_and_waits_for_services_that_tell() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert (DEPLOY / "compose" / volume.partition(":")[0]).exists(), volume
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_started" or "healthcheck" in services[other]
    build = services["mixer"]["build"]
    assert (DEPLOY / "compose" / build["context"] / build["dockerfile"]).exists()


def test_settings_of_compose_are_valid(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "compose" / "mixer.yaml", tmp_path)
    shutil.copytree(mixer.demo.assets.policies(), tmp_path / "policies")
    assert cli.main(["validate", "--config", str(tmp_path / "mixer.yaml")]) == 0


def test_envoy_of_compose_listens_to_the_outside(tmp_path: Path) -> None:
    script: str = COMPOSE["services"]["envoy"]["entrypoint"][-1]
    edit = script.splitlines()[0].replace("/tmp", str(tmp_path))
    subprocess.run(["sh", "-c", edit.replace("/etc/envoy", str(DEPLOY / "envoy"))], check=True)
    file = tmp_path / "envoy.yaml"
    listeners = yaml.safe_load(file.read_text())["static_resources"]["listeners"]
    bound = [each["address"]["socket_address"] for each in listeners]
    assert bound == [{"address": "0.0.0.0", "port_value": port} for port in (10000, 10001)]
    assert validated(file).returncode == 0


# Containers


def images() -> Iterator[str]:
    yield from (service["image"] for service in COMPOSE["services"].values())
    for workload in WORKLOADS:
        yield from (each["image"] for each in workload["spec"]["template"]["spec"]["containers"])
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    yield from re.findall(r"^FROM (\S+)", text, re.M)


def test_images_have_short_names() -> None:
    for image in images():
        host, slash, _ = image.partition("/")
        assert not (slash and re.search(r"[.:]|^localhost$", host)), image


def test_container_runs_as_nobody_what_its_build_has_made() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.M)
    assert "RUN" not in last
    assert "--require-hashes" in text
    kept = (ROOT / ".dockerignore").read_text()
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for name in copied.split():
            assert (ROOT / name).exists()
            assert f"!{name}\n" in kept


# Envoy's side


def validated(file: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [binaries.envoy(), "--mode", "validate", "-c", file]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_envoy_takes_the_snippets_in_the_example(tmp_path: Path) -> None:
    """Acknowledged reports and mutual TLS together, put where the snippets say they belong."""
    document = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())
    otlp = yaml.safe_load((DEPLOY / "envoy" / "otlp.yaml").read_text())
    tls = (DEPLOY / "envoy" / "tls.yaml").read_text()
    secured = yaml.safe_load(tls.replace("/etc/envoy/tls", str(tmp_path)))
    http, tcp = document["static_resources"]["listeners"]
    http["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = otlp["http"]
    tcp["filter_chains"][0]["filters"][-1]["typed_config"]["access_log"] = otlp["tcp"]
    authority = Authority()
    pair = authority.issue("envoy", "spiffe://example.org/envoy")
    (tmp_path / "tls.crt").write_bytes(pair.cert)
    (tmp_path / "tls.key").write_bytes(pair.key)
    (tmp_path / "ca.crt").write_bytes(authority.cert)
    for cluster in document["static_resources"]["clusters"]:
        if cluster["name"] == "mixer-report":
            cluster["circuit_breakers"] = otlp["circuit_breakers"]
        if cluster["name"].startswith("mixer-"):
            cluster.update(secured)
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(document))
    done = validated(file)
    assert done.returncode == 0, done.stderr


def typed(value: Any) -> Iterator[dict[str, Any]]:
    """Messages of Envoy's within other configuration, the inner ones first."""
    if isinstance(value, dict):
        for each in list(value.values()):
            yield from typed(each)
        if "@type" in value:
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from typed(each)


MESHES = sorted([*(DEPLOY / "istio").glob("*.yaml"), *(DEPLOY / "envoy-gateway").glob("*.yaml")])


@pytest.mark.parametrize("file", MESHES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_configuration_of_a_mesh_names_mixers_services_and_has_messages_that_envoy_knows(file: Path) -> None:
    from envoy.config.cluster.v3 import cluster_pb2
    from envoy.config.route.v3 import route_components_pb2
    from envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2  # noqa: F401 (registers its messages)
    from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401

    text = file.read_text()
    documents = list(yaml.safe_load_all(text))
    symbols = symbol_database.Default()
    for message in typed(documents):
        name = message["@type"].rpartition("/")[2]
        plain = {key: value for key, value in message.items() if key != "@type"}
        json_format.ParseDict(plain, symbols.GetSymbol(name)())
    for limits in re.findall(r"rate_limits:\n((?: +- .*\n(?: +.*\n)*))", text):
        for each in yaml.safe_load(limits):
            json_format.ParseDict(each, route_components_pb2.RateLimit())
    if "value:\n        name: mixer" in text:
        cluster = documents[0]["spec"]["jsonPatches"][0]["operation"]["value"]
        json_format.ParseDict(cluster, cluster_pb2.Cluster())
    services = {
        each["metadata"]["name"]: each["spec"]["ports"] for each in MANIFESTS if each["kind"] == "Service"
    }
    for name, port in re.findall(r"(mixer(?:-report)?)\.mixer\.svc\S*\n +port: (\d+)", text):
        assert int(port) in [each["port"] for each in services[name]]
    for name, port in re.findall(r"name: (mixer(?:-report)?), namespace: mixer, port: (\d+)", text):
        assert int(port) in [each["port"] for each in services[name]]
