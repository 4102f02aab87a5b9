"""Probes over frozen features."""
