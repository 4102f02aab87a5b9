"""Commands that outgrew `cli.py`, one file each; torch-free at import like it."""

import click

OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key=value ...]")
"""Settings of a recipe or suite given on the command line."""
