"""`python -m erc_toolkit`: the command line."""

import os
import sys

# `-m` puts the working directory first, where a user's train.py would shadow a library's module of that name.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from .toolkit.commands.start import main

main()
