"""An extractor for erc-toolkit: action units and head pose by py-feat."""
