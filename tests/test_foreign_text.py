"""Text of other programs: what was decoded with the wrong encoding is repaired by one function, and only that."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest

from erc_toolkit.extract.corpora.iemocap_files import parse_transcription
from erc_toolkit.extract.corpora.meld import repair_text
from erc_toolkit.toolkit.base.reading.foreign_text import (
    DecodedBytes,
    TextRepair,
    decode,
    looks_misread,
    match_names,
    repaired,
)
from erc_toolkit.toolkit.exchange.convert import convert
from erc_toolkit.toolkit.exchange.unpickle import load_pickle
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.store import FeatureStore


class Two:
    """Pickles like Python 2: every `bytes` of the value is a `str` opcode."""

    def __init__(self, protocol: int):
        self.protocol = protocol

    def dumps(self, value: object) -> bytes:
        return (b"\x80\x02" if self.protocol == 2 else b"") + self._body(value) + b"."

    def _body(self, value: object) -> bytes:
        if isinstance(value, bytes):
            if self.protocol == 0:
                return b"S" + repr(value)[1:].encode() + b"\n"
            if len(value) < 256:
                return b"U" + bytes([len(value)]) + value
            return b"T" + struct.pack("<i", len(value)) + value
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, (int, float)):
            return f"{'I' if isinstance(value, int) else 'F'}{value!r}\n".encode()
        if isinstance(value, dict):
            return b"(d" + b"".join(self._body(k) + self._body(v) + b"s" for k, v in value.items())
        return b"(" + b"".join(map(self._body, value)) + (b"l" if isinstance(value, list) else b"t")


@pytest.mark.parametrize(
    "misread, right",
    [
        ("I\x92m", "I’m"),  # Windows-1252 as Latin-1
        ("\x93so\x94 \x85", "“so” …"),
        ("caf\xe2\x80\x99\xc3\xa9", "caf’é"),  # UTF-8 as Latin-1, which a C1 character proves
        ("Ж\x92", "Ж’"),  # cannot go back to bytes
        ("\udcc3\udca9", "é"),  # a file name that Python could not decode
        ("x\x81", "x\ufffd"),  # not defined in Windows-1252
    ],
)
def test_c1_characters_are_repaired_everywhere(misread, right):
    assert repaired(misread) == right and repaired(right) == right


@pytest.mark.parametrize("text", ["Ã©", "café", "naïve — “so”", "a\tb\nc", "日本", "A\u0301", "\ud800", "donâ€™t"])
def test_what_may_be_meant_is_left_alone(text):
    assert repaired(text) == text


def test_bytes_are_utf8_where_valid_and_windows_1252_otherwise():
    assert decode("café …".encode()) == "café …" and decode("café …".encode("cp1252")) == "café …"
    assert decode("«CAFÉ»".encode("cp1252")) == "«CAFÉ»"  # its last two bytes alone would be valid UTF-8
    assert decode("été à".encode()[:-1]) == "été \ufffd" and decode("CAFÉ".encode("cp1252")) == "CAFÉ"


def test_misread_text_is_repaired_where_the_source_proves_it():
    """`Ã©` may be meant; beside a text with C1 characters whose bytes are UTF-8 it is not."""
    alone, proven = TextRepair(), TextRepair()
    proven.learn(["it\xe2\x80\x99s", "caf\xc3\xa9"])
    assert alone.repair("caf\xc3\xa9") == "caf\xc3\xa9" and proven.repair("caf\xc3\xa9") == "café"
    assert any("1 may be" in note and "cafÃ©" in note for note in alone.notes("texts"))
    assert any("1 UTF-8" in note for note in proven.notes("texts"))
    assert looks_misread("donâ€™t") and not looks_misread("café")


def test_names_of_two_files_are_matched_whichever_was_decoded_wrongly():
    assert match_names(["café"], ["cafe\u0301"]) == {"café": "cafe\u0301"}  # macOS's file names
    assert match_names(["I\x92m"], ["I’m"]) == {"I\x92m": "I’m"}
    assert match_names(["café"], ["caf\xc3\xa9", "other"]) == {"café": "caf\xc3\xa9"}
    assert match_names(["x", "é"], ["é", "e\u0301"]) == {"é": "é"}
    assert match_names(["é"], ["e\u0301", "\xc3\xa9x"]) == {"é": "e\u0301"}


@pytest.mark.parametrize("protocol", [0, 2])
def test_strings_of_python_2(protocol, tmp_path):
    path = tmp_path / "x.pkl"
    long = "café " * 100
    value = [b"plain", "café".encode(), "it’s".encode("cp1252"), long.encode(), b"", "é".encode()]
    if protocol == 2:
        value.append("caf\xc3\xa9")  # `unicode` of Python 2 is what it says
    path.write_bytes(Two(protocol).dumps(value))
    found = load_pickle(path)
    assert found[:6] == ["plain", "café", "it’s", long, "", "é"] and found[6:] == value[6:]
    assert isinstance(found[1], DecodedBytes) and not isinstance(found[0], DecodedBytes)


def tuple_of(names, texts, speakers=("A", "B")) -> tuple:
    """A tuple in MMGCN's layout with two dialogues of one utterance each."""
    first, second = names
    one = [1.0, 2.0]
    return (
        {first: [b"u1"], second: [b"u2"]},
        {first: [speakers[0]], second: [speakers[1]]},
        {first: [0], second: [1]},
        *[{first: [one], second: [one]}] * 3,
        {first: [texts[0]], second: [texts[1]]},
        [first],
        [second],
    )


def converted(tmp_path, *files: bytes):
    for i, data in enumerate(files):
        (tmp_path / f"{i}.pkl").write_bytes(data)
    made = convert([str(tmp_path / f"{i}.pkl") for i in range(len(files))], tmp_path / "x.h5")
    return FeatureStore.open(tmp_path / "x.h5"), made["problems"]


def test_convert_repairs_texts_names_and_ids_of_python_2_and_says_so(tmp_path):
    names, speakers = ("dîner".encode(), "Ses’2".encode("cp1252")), ("Zoé".encode(), "Zoé".encode())
    store, problems = converted(tmp_path, Two(2).dumps(tuple_of(names, ("café".encode(), b"I\x92m"), speakers)))
    with store:
        assert store.column("text").tolist() == ["café", "I’m"] and store.speaker_names == ["Zoé"]
        assert store.dialogue_ids == ["dîner", "Ses’2"]
        order = store.attrs["split_order"]
        assert "d\\u00eener" in order or "dîner" in order
    notes = [p for p in problems if p.startswith("texts: ")]
    assert len(notes) == 2 and any("1 byte string" in n and "UTF-8" in n for n in notes)
    assert any(p.startswith("speakers: 1 ") for p in problems) and any(p.startswith("dialogues: 1 ") for p in problems)


def text_of(value):
    """The same value with `str` instead of `bytes`, decoded as Latin-1, as people re-save pickles of Python 2."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {text_of(k): text_of(v) for k, v in value.items()}
    return type(value)(map(text_of, value)) if isinstance(value, (list, tuple)) else value


def test_convert_repairs_c1_characters_of_python_3(tmp_path):
    """COSMIC's real meld.pkl: Windows-1252 bytes as C1 control characters in 3,741 of its texts."""
    value = text_of(tuple_of((b"d1", b"d2"), (b"company\x92s", "Ã©".encode("latin-1"))))
    store, problems = converted(tmp_path, pickle.dumps(value))
    with store:
        assert store.column("text").tolist() == ["company’s", "Ã©"]
    assert any(p.startswith("texts: 1 with C1") and "company" in p for p in problems)
    assert any("may be UTF-8" in p for p in problems)
    store, _ = converted(tmp_path, pickle.dumps(text_of(tuple_of((b"d1", b"d2"), ("it’s".encode(), "é".encode())))))
    with store:
        assert store.column("text").tolist() == ["it’s", "é"]


def test_dialogues_are_joined_although_one_file_was_decoded_wrongly(tmp_path):
    names = ("dîner".encode(), "Ses’2".encode("cp1252"))
    base = Two(2).dumps(tuple_of(names, (b"a", b"b")))
    roberta = {name: [np.ones(3, np.float32)] for name in ("d\xc3\xaener", "Ses’2")}
    comet = pickle.dumps(tuple(dict(roberta) for _ in range(9)))
    store, problems = converted(tmp_path, base, comet)
    with store:
        assert store.feature("text/comet-xIntent").present().all() and store.dialogue_ids == ["dîner", "Ses’2"]
    assert not any("skipped" in p for p in problems)


def test_bytes_of_python_3_are_texts(tmp_path):
    """As `pickle.load(…, encoding="bytes")` leaves them; also in arrays of bytes."""
    value = tuple_of((b"d1", b"d2"), ("café".encode(), b"b"))
    value[6][b"d1"] = np.array(["café".encode()])
    store, _ = converted(tmp_path, pickle.dumps(value))
    with store:
        assert store.column("text").tolist() == ["café", "b"] and store.column("id").tolist() == ["u1", "u2"]


def test_names_that_become_equal_stay_apart(tmp_path):
    value = text_of(tuple_of((b"d\x92", "d’".encode()), (b"a", b"b")))
    store, problems = converted(tmp_path, pickle.dumps(value))
    with store:
        assert store.dialogue_ids == ["d’", "d’#2"] and any("d’#2" in p for p in problems)


def test_a_manifest_is_unicode(tmp_path):
    """Only C1 characters are repaired there; its ids still match files that were named wrongly."""
    us = [Utterance("u\x92", "d", 0, "A", "Ã©", "joy", "train"), Utterance("é", "d", 1, "A", "b\x85", "joy", "train")]
    write_manifest(Manifest("mine", ["joy"], tmp_path, us), tmp_path / "m.jsonl")
    np.savez(tmp_path / "audio.npz", **{"u’": np.ones(2), "e\u0301": np.ones(2)})
    convert([str(tmp_path / "audio.npz")], tmp_path / "x.h5", manifest=tmp_path / "m.jsonl")
    with FeatureStore.open(tmp_path / "x.h5") as store:
        assert store.column("text").tolist() == ["Ã©", "b…"] and store.column("id").tolist() == ["u’", "é"]
        assert store.feature("audio/converted").present().all()


def test_byte_strings_of_an_exported_archive(store_path, tmp_path):
    from erc_toolkit.toolkit.exchange.arrays import store_arrays

    with FeatureStore.open(store_path) as store:
        arrays, texts = store_arrays(store, ["audio/IS10"]), store.column("text").tolist()
    arrays["text"] = np.array([text.encode() for text in texts])
    np.savez(tmp_path / "x.npz", **arrays)
    convert([str(tmp_path / "x.npz")], tmp_path / "x.h5")
    with FeatureStore.open(tmp_path / "x.h5") as store:
        assert store.column("text").tolist() == texts and "naïve" in texts[0]


def test_extract_uses_the_same_repair():
    assert repair_text("it\xe2\x80\x99s") == "it's" and repair_text("\x93so\x94") == '"so"'
    turns, _ = parse_transcription("Ses01F_impro01_F000 [1.0-2.0]: it\x92s\n", "Ses01F_impro01")
    assert turns[0].text == "it’s"
