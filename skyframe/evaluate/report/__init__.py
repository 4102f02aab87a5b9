"""Pages about a run, and about several encoders side by side."""
