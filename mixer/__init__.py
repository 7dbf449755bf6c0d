"""Mixer: the policy and telemetry service that Envoy proxies call."""

from importlib.metadata import version

__version__ = version("mixer")
