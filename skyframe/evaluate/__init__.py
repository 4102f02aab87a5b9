"""Frozen features scored: suites, probes, benchmarks, alarms and the report page."""
