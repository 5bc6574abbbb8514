"""Readers of subtitle formats."""
