"""Report: Envoy's access logs, as records, to sinks."""
