"""`python -m erc_toolkit`: the command line."""

from .toolkit.commands.main import main

main(prog_name="erc-toolkit")
