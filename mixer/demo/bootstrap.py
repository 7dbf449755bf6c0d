"""The example Envoy configuration with other addresses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def bootstrap(
    template: Path, *, listeners: Mapping[str, int], admin: int, clusters: Mapping[str, str]
) -> dict[str, Any]:
    """`deploy/envoy/envoy.yaml` with the ports of its listeners and the addresses of its clusters replaced.

    `listeners`: name to port, 0 for any free one. `clusters`: name to "host:port" or "unix:/path". What is not
    named stays as it is; a name that the file does not have raises KeyError.
    """
    document: dict[str, Any] = yaml.safe_load(template.read_text("utf-8"))
    document["admin"]["address"]["socket_address"]["port_value"] = admin
    by_name = {listener["name"]: listener for listener in document["static_resources"]["listeners"]}
    for name, port in listeners.items():
        by_name[name]["address"]["socket_address"]["port_value"] = port
        by_name[name]["enable_reuse_port"] = (
            False  # a port that is taken is an error, not shared with its owner
        )
    by_name = {cluster["name"]: cluster for cluster in document["static_resources"]["clusters"]}
    for name, address in clusters.items():
        endpoint = by_name[name]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        endpoint["address"] = _address(address)
    return document


def _address(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
