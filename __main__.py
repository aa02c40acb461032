"""``python -m attnc``: the command line."""

from .compiler.cli.app import main

main()
