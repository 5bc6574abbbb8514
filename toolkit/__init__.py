"""The common base of extraction and training: manifest, feature store, media, exchange, prediction, commands."""
