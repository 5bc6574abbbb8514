"""Random inputs for the parsers, run by `tests/fuzz.py`."""
