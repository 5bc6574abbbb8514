"""The built-in demo: a small synthetic corpus, and the whole path from its raw clips to a table of results."""
