"""Objectives: pure functions of tensors that know no trainer, no reader and no recipe."""
