"""Readers of further layouts: folders of arrays, tables of labels, dictionaries without ids."""
