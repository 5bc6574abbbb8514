"""The extraction run: manifest in, feature store out, in parts that survive an interruption."""
