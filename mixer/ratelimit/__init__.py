"""Quota: Envoy's rate limit service, with envoyproxy/ratelimit's limits and exact counters."""
