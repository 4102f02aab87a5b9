"""`python -m skyframe`."""

from skyframe.cli import main

main()
