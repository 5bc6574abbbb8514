"""From a feature store to the batches of a model."""
