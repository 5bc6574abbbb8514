"""A trained run on new recordings."""
