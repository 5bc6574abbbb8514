"""The rows of a run: what they were made from, what is there already, and the parts on disk."""
