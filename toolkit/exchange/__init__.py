"""Feature files of other projects: read into a feature store (`convert`), written from one (`export`), described (`card`)."""
