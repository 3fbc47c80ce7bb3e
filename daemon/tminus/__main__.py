"""`python -m tminus` is the command."""

from tminus.cli import main

main()
