"""`python -m edgeconv` is the command `edgeconv`."""

from edgeconv.cli import main

main()
