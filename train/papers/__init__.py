"""A paper's tables and figures made again: our studies beside the printed values."""
