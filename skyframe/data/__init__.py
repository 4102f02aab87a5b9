"""Cubes: written, read, planned, cut into views, ingested and simulated."""
