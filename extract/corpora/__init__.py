"""Parsers of raw corpora, a file each: from the folder that an archive unpacks to, to a manifest."""
