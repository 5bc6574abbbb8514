"""Readers of raw corpora, one file a corpus."""
