"""Random subtitle files of every format, and random transcripts in which speakers are sought."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

from erc_toolkit.extract.transcripts.cues import Cue
from erc_toolkit.extract.transcripts.speakers import split_speakers
from erc_toolkit.extract.transcripts.subtitles.decoding import decode
from erc_toolkit.extract.transcripts.subtitles.files import parse_cues
from erc_toolkit.extract.transcripts.subtitles.sami import read_sami
from erc_toolkit.extract.transcripts.subtitles.substation import read_substation
from erc_toolkit.extract.transcripts.subtitles.ttml import read_ttml
from erc_toolkit.toolkit.base.errors import UserError

SRT = """1
00:00:01,000 --> 00:00:02,500
Ann: Hello <i>you</i>

there.

2
00:00:02,500 --> 00:00:04,000
- Hi. - Who?
>> BOB: {\\an8}me &amp; you
"""
VTT = """WEBVTT - x
Kind: captions

NOTE
remark

a
00:01.000 --> 00:02.500 align:start position:0%
{blank}
<v.loud Ann Lee>Hello<00:00:01.500><c> you</c></v>

00:02.500 --> 00:02.510
Hello you
{blank}

00:02.510 --> 01:00:04.000
Hello you
<v Bob>again
""".replace("{blank}", " ")
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname
Style: Default,Arial

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,no speech
Dialogue: 0,0:00:01.00,0:00:02.50,Default,Ann,0,0,0,,{\\i1}Hello{\\i0}, you\\Nthere
Dialogue: 0,0:00:03.00,0:00:04.50,Default,,0,0,0,,{\\p1}m 0 0 l 1 1{\\p0}Bob: hi
"""
TTML = """<?xml version="1.0" encoding="UTF-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttm="http://www.w3.org/ns/ttml#metadata"
ttp:frameRate="25" ttp:tickRate="1000">
<head><metadata><ttm:agent xml:id="a1" type="person"><ttm:name type="full">Ann</ttm:name></ttm:agent></metadata></head>
<body begin="1s"><div timeContainer="seq"><p begin="0:00:01:05" dur="2s" ttm:agent="a1">Hello<br/>you</p>
<p begin="500t" end="00:00:02.500"><span ttm:agent="a2">hi</span> there</p></div></body></tt>
"""
SAMI = """<SAMI><HEAD><STYLE TYPE="text/css"><!-- P {} .ENCC {Name:English; lang:en-US;} --></STYLE></HEAD><BODY>
<SYNC Start=1000><P Class=ENCC ID=Source>Ann<P Class=ENCC>Hello<br>you
<SYNC Start=2500><P Class=ENCC>&nbsp;
<SYNC Start="3000" End=4000><P Class=KRCC>hi&nbsp</BODY></SAMI>
"""
MICRODVD = "{1}{1}25\n{25}{50}Ann: Hello|you\n{60}{90}{Y:i}Bob: hi\n"
MPL2 = "[10][25] Ann: Hello|/you\n[30][45] hi\n"
SBV = "0:00:01.000,0:00:02.500\nAnn: Hello\n\n0:00:03.000,0:00:04.000\nhi\n"
_EXAMPLES = (SRT, VTT, ASS, TTML, SAMI, MICRODVD, MPL2, SBV)
_PIECES = (
    *"<v|<v Ann>|</v>|<|>|>>| |\t|\n|\r|\n\n|:|：|-->|--|- |{|}|{\\p1}|[|]|(|)|&|&#|&nbsp|&#0;|&#99999999999;".split(
        "|"
    ),
    *"|0|9|00:00:01,000|1:2:3.4|-1|t|Ann: |ANN: |[SPEAKER_00]: |(speaker 1) |Dr. Smith: |[laughs] |>> B: |安娜：".split(
        "|"
    ),
    *"Dialogue: |Format: |[Events]|<SYNC Start=|<P Class=X>|<!--|<p begin='|<span>|</p>|&a;|<![CDATA[|]]>|<?x".split(
        "|"
    ),
    *"\0|\x85|\u2028|\u200f|\ufeff|\ud800|é|٣|²|Ⅷ|ǅ|ß|\U0001f600|Remember: |Ann 0:03|{1}{2}|[1][2]|NOTE".split("|"),
    *("WEBVTT", "|", "SPEAKER_01|", "<!DOCTYPE x [<!ENTITY a 'b'>]>"),
)
_NAMES = ("Ann", "BOB", "Speaker 1", "安娜", "ann", "Dr. Smith", "O’Neil", "iPhone", "ǅ", "", "a" * 70, ":", "[")


def mutated(rng: random.Random, text: str) -> str:
    """The text with pieces inserted, removed, doubled or repeated thousands of times; sometimes only pieces."""
    if rng.random() < 0.1:
        text = "".join(rng.choice(_PIECES) for _ in range(rng.randrange(60)))
    for _ in range(rng.randrange(6)):
        i = rng.randrange(len(text) + 1)
        j = min(len(text), i + rng.choice((0, 1, 3, 20)))
        what = rng.random()
        if what < 0.006:
            text = text[:i] + rng.choice(_PIECES) * rng.choice((300, 4000, 16_000)) + text[i:]
        elif what < 0.2:
            text = text[:j] + text[i:]
        elif what < 0.3:
            text = text[:i] + chr(rng.randrange(0x110000)) + text[j:]
        else:
            text = text[:i] + rng.choice(_PIECES) + text[j:]
    return text


def _parser(example: str, read: Callable[[str], object]) -> Callable[[random.Random], None]:
    def feed(rng: random.Random) -> None:
        with suppress(UserError):
            read(mutated(rng, example))

    return feed


def _any(rng: random.Random) -> None:
    """The whole path from bytes to turns."""
    data = mutated(rng, rng.choice(_EXAMPLES)).encode(rng.choice(("utf-8", "utf-16", "utf-16-le")), "surrogatepass")
    if rng.random() < 0.3:
        i = rng.randrange(len(data) + 1)
        data = data[:i] + rng.randbytes(rng.randrange(5)) + data[i:]
    with suppress(UserError):
        text, _ = decode(data, "x")
        split_speakers(parse_cues(text, "x").cues)


def _speakers(rng: random.Random) -> None:
    turns = []
    for i in range(rng.randrange(8)):
        text = mutated(
            rng, rng.choice(("Ann: Hello.", ">> ANN: Hi. >> BOB: No.", "- Hi\n- Hello", "[Ann] well", "I see"))
        )
        turns.append(Cue(i, i + 1, rng.choice(_NAMES) if rng.random() < 0.2 else "", text))
    split_speakers(turns, rng.choices(_NAMES, k=rng.randrange(4)) if rng.random() < 0.4 else None)


PARSERS: dict[str, Callable[[random.Random], None]] = {
    "srt": _parser(SRT, parse_cues),
    "vtt": _parser(VTT, parse_cues),
    "sbv": _parser(SBV, parse_cues),
    "ass": _parser(ASS, lambda text: read_substation(text, "x")),
    "ttml": _parser(TTML, lambda text: read_ttml(text, "x")),
    "sami": _parser(SAMI, lambda text: read_sami(text, "x")),
    "microdvd": _parser(MICRODVD, parse_cues),
    "mpl2": _parser(MPL2, parse_cues),
    "subtitles": _any,
    "speakers": _speakers,
}
