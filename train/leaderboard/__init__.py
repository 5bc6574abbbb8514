"""Boards: every model on the same features, splits and protocol, and what their differences are worth."""
