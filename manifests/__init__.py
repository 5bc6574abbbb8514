"""Data, not code: label sets, official splits, known defects of the corpora, and training recipes, as YAML."""
