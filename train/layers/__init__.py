"""Pieces that models of emotion in conversations are built from."""
