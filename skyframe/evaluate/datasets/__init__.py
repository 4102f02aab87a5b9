"""Data sets as they lie on disk: what they hold, safely opened, checked and drawn."""
