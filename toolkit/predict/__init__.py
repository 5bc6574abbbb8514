"""Applying a trained run to new recordings."""
