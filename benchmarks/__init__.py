"""Ratios (`bench_*.py`) and long proofs (`prove.py`)."""
