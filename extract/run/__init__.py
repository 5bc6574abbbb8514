"""An extraction: manifest in, feature store out, in parts that survive a kill."""
