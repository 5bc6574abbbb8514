"""A trained run on new recordings, and packages of it."""
