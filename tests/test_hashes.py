"""Hashes that are part of stores, checkpoints and caches: they must not change."""

from __future__ import annotations

import hashlib

import pytest

from erc_toolkit.toolkit.base.hashes import file_sha256, json_sha256, text_sha256


def test_known_hashes(tmp_path):
    """The hash of the standard's example, and of a non-ASCII string."""
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "file").write_bytes(b"abc")
    assert text_sha256("abc") == file_sha256(tmp_path / "file") == expected
    assert text_sha256("é…") == hashlib.sha256(b"\xc3\xa9\xe2\x80\xa6").hexdigest()


def test_the_hash_of_a_description_is_independent_of_key_order():
    one, other = {"b": [1, 2.5], "a": {"y": None, "x": "é"}}, {"a": {"x": "é", "y": None}, "b": [1, 2.5]}
    written = b'{"a": {"x": "\\u00e9", "y": null}, "b": [1, 2.5]}'
    assert json_sha256(one) == json_sha256(other) == hashlib.sha256(written).hexdigest()
    assert json_sha256({"b": [2.5, 1]}) != json_sha256({"b": [1, 2.5]})


def test_a_missing_file(tmp_path):
    with pytest.raises(OSError):
        file_sha256(tmp_path / "none")
