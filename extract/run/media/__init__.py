"""The media of a run: what workers decode and look at, and what becomes of it."""
