"""What a file is, by its first bytes."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from erc_toolkit.toolkit.base.reading.file_kinds import describe_kind, file_kind


def member(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


def saved(value) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


KINDS = {
    "gzip": gzip.compress(b"x"),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(50),
    "npy": saved(np.zeros(2)),
    "npz": member("a.npy"),
    "torch": member("archive/data.pkl"),
    "office": member("word/document.xml"),
    "zip": member("a.pkl"),
    "tar": b"x".ljust(257, b"\0") + b"ustar\0",
    "pickle": pickle.dumps({}),
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "html": b"\n<!DOCTYPE html><html>",
    "json": b'{"a": 1}',
    "table": "a,b\n1,é\n".encode(),
    "text": b"MAC address, and so on",
    "sphere": b"NIST_1A\n   1024\n",
    "amr": b"#!AMR\n\x3c",
    "caf": b"caff\0\1\0\0desc",
    "mpeg-ts": (b"\x47" + bytes(187)) * 3,
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "avi": b"RIFF\x24\0\0\0AVI LIST",
    "w64": b"riff\x2e\x91\xcf\x11\xa5\xd6",
    "aiff": b"FORM\0\0\0\1AIFFCOMM",
    "mp4": b"\0\0\0\x20ftypisom",
    "braw": b"\0\0\0\x20ftypbraw",
    "mov": b"\0\0\0\x08wide\0\0\0\0mdat",
    "segment": b"\0\0\0\x18stypmsdh",
    "matroska": b"\x1aE\xdf\xa3",
    "dahua": b"DHAV\xfd\0\0\0",
    "mp3": b"\xff\xfb\x90\x64\0",
    "aac": b"\xff\xf1\x50\x80",
    "encrypted": b"Salted__abcdefgh",
    "appledouble": b"\0\x05\x16\x07\0\x02",
    "zeros": bytes(4096),
    "empty": b"",
    "subtitles": "\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\n".encode(),
    "unknown": bytes(range(1, 200)),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_by_their_first_bytes(name, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(KINDS[name])
    assert file_kind(path).name == name and file_kind(KINDS[name]) == file_kind(path)
    assert describe_kind(path).startswith(("a ", "an ", "one ", "WebVTT", "SubRip"))


def test_a_camera_s_transport_stream_and_a_text_in_utf_16():
    assert "camera" in describe_kind((bytes(4) + b"\x47" + bytes(187)) * 3)
    assert file_kind("a\tb\n1\t2\n".encode("utf-16")).name == "table"
    assert file_kind(b"x" * 512 + KINDS["hdf5"]).name == "hdf5"  # after a user block


def test_what_cannot_be_opened_is_described_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert file_kind(tmp_path).name == "folder" and file_kind(tmp_path / "none").name == "unreadable"
    assert file_kind(tmp_path / "pipe").name == "device" and file_kind("a\0b").name == "unreadable"
