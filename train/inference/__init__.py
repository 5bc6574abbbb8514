"""Inference with a trained run on new recordings, and packaging of trained runs."""
