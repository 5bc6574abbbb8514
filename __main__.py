"""`python -m erc_toolkit`: the command line."""

import os
import sys

# `-m` puts the working folder first, where a user's train.py would be found before a library's module of that name.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from .toolkit.commands.main import main

main(prog_name="erc-toolkit")
