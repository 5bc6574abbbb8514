"""The built-in demo: a small corpus made from code alone, and the whole path from its raw clips to a table of results."""
