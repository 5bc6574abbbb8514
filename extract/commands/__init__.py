"""The commands of extraction."""
