"""The version of the toolkit.

`import erc_toolkit` imports this before `python -m` has left out the working directory, so it imports nothing.
"""

__version__ = "0.1.0"
