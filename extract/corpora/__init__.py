"""Readers of raw corpora, one file per corpus."""
