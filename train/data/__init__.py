"""From a feature store to the batches that a model sees."""
