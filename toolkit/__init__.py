"""Ground floor of erc-toolkit: manifest, feature store, media, errors, progress and the command line's shell.

`extract` and `train` stand on this package; it imports neither of them.
"""

__version__ = "0.1.0"
