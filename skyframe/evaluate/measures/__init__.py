"""Kinds of answers with their metrics, each scored with its clusters resampled (`measures.measure`)."""
