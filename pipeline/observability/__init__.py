"""Metrics and lineage for other systems: Prometheus, OTLP, OpenLineage. Imports no client by itself."""
