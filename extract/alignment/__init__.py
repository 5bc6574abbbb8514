"""Forced alignment of a corpus's words with its audio, and the overlay of corrected spans that it gives."""
