"""Reproduction of a paper: the commands that lead from raw corpora to its tables, run one after the other."""
