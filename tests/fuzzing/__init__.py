"""Fuzzing of the parsers: each module has `PARSERS`, run by tests/fuzz.py."""
