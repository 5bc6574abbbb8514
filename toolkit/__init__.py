"""The ground floor that extraction and training stand on: manifest, feature store, media, exchange, prediction, commands."""
