"""Spans of the calls that a trace of Envoy's goes through."""
