"""Transcripts as the programs write them that people use, small, with the turns that are in them."""

from __future__ import annotations

import json

ANN, BOB = "Hi, you.", "No."


def turns(*speakers: str, texts: tuple[str, str] = (ANN, BOB)) -> list[tuple[float, float, str, str]]:
    """(start, end, speaker, text) of the two turns that every form below has."""
    first, second = speakers or ("unknown", "unknown")
    return [(1.0, 2.0, first, texts[0]), (5.0, 6.5, second, texts[1])]


def _words(**names: str) -> list[dict[str, object]]:
    """Ann's two words and Bob's, as most recognisers write them; `names` replaces keys."""
    rows = ((1.0, 1.4, "Hi,", 0), (1.5, 2.0, "you.", 0), (5.0, 6.5, "No.", 1))
    keys = [names.get(key, key) for key in ("start", "end", "word", "speaker")]
    return [{"confidence": 0.9, **dict(zip(keys, row, strict=True))} for row in rows]


def _two(start: object, end: object, start2: object, end2: object, **more: object) -> list[dict[str, object]]:
    return [
        {"start": start, "end": end, "speaker": "A", "text": ANN, **more},
        {"start": start2, "end": end2, "speaker": "B", "text": BOB, **more},
    ]


TABLES: dict[str, tuple[str, list]] = {
    "comma.csv": (f'start,end,speaker,text\n1,2,Ann,"{ANN}"\n5,6.5,Bob,No.\n', turns("Ann", "Bob")),
    "semicolon.csv": (f"Start;End;Speaker;Text\r\n1,0;2,0;Ann;{ANN}\r\n5;6,5;Bob;No.\r\n", turns("Ann", "Bob")),
    "excel.csv": (f"sep=;\nSpeaker; Start (s) ;End (s);Text\nAnn;1;2;{ANN}\nBob;5,0;6,5;No.\n", turns("Ann", "Bob")),
    "tab.tsv": (f"speaker\tstart\tend\ttext\nAnn\t1,0\t2,0\t{ANN}\nBob\t5.0\t6.5\tNo.\n", turns("Ann", "Bob")),
    "quoted-commas.csv": (f'text,"start","end"\n"{ANN}","1,0","2,0"\nNo.,"5,0","6,5"\n', turns()),
    "old-mac.csv": (f'start,end,text\r1,2,"{ANN}"\r5,6.5,No.\r', turns()),
    "clock.csv": (f'Start Time,End Time,Text\n00:00:01,0:02,"{ANN}"\n00:00:05.000,"00:00:06,500",No.\n', turns()),
    "headless.csv": (f'1.0,2.0,Ann,"{ANN}"\n5,6.5,Bob,No.\n', turns("Ann", "Bob")),
    "headless-semicolon.csv": (f"1,0;2,0;{ANN}\n5,0;6,5;No.\n", turns()),
    "headless-speaker.csv": (f'Ann,1.0,2.0,"{ANN}"\nBob,5,6.5,No.\n', turns("Ann", "Bob")),
    "milliseconds.csv": (f'start_ms,end_ms,text\n1000,2000,"{ANN}"\n5000,6500,No.\n', turns()),
    "elan.tsv": (f"Begin Time - msec\tEnd Time - msec\tText\n1000\t2000\t{ANN}\n5000\t6500\tNo.\n", turns()),
    "duration.csv": (f'onset,duration,text\n1,1,"{ANN}"\n5,1.5,No.\n', turns()),
    "onset-offset.csv": (f'onset,offset,text\n1,2,"{ANN}"\n5,6.5,No.\n', turns()),
    "whisper.cpp.csv": (f'start,end,text\n1000,2000," {ANN}"\n5000,6500," No."\n', turns()),
    "whisper.cpp-diarized.csv": (
        f'start,end,speaker,text\n1000,2000,0,"{ANN}"\n5000,6500,1,"No."\n',
        turns("0", "1"),
    ),
    "whisper.cpp-old.csv": (
        'start,end,text\n1000, 2000, "say \\"Hi, you.\\" so"\n5000, 6500, "No."\n',
        turns(texts=('say "Hi, you." so', BOB)),
    ),
    "whisper.tsv": (f'start\tend\ttext\n1000\t2000\t"{ANN}\n5000\t6500\tNo.\n', turns(texts=(f'"{ANN}', BOB))),
    "audacity.txt": (f"1.000000\t2.000000\t{ANN}\n\\\t200.0\t3000.0\n5.000000\t6.500000\tNo.\n", turns()),
    "diarization.rttm": (
        "SPEAKER f 1 1.0 1.000 <NA> <NA> S0 <NA> <NA>\nSPEAKER f 1 5.0 1.5 <NA> <NA> S1 <NA> <NA>\n",
        turns("S0", "S1", texts=("", "")),
    ),
}

_AWS_ITEMS = [
    {"type": "pronunciation", "start_time": "1.0", "end_time": "1.4", "alternatives": [{"content": "Hi"}]},
    {"type": "punctuation", "alternatives": [{"content": ","}]},
    {"type": "pronunciation", "start_time": "1.5", "end_time": "2.0", "alternatives": [{"content": "you"}]},
    {"type": "punctuation", "alternatives": [{"content": "."}]},
    {"type": "pronunciation", "start_time": "5.0", "end_time": "6.5", "alternatives": [{"content": "No"}]},
    {"type": "punctuation", "alternatives": [{"content": "."}]},
]
_AWS_SPEAKERS = [
    {"items": [{"start_time": time, "speaker_label": who} for time in times]}
    for who, times in (("spk_0", ("1.0", "1.5")), ("spk_1", ("5.0",)))
]
_GOOGLE_WORDS = [
    {"startTime": f"{word['start']:.3f}s", "endTime": f"{word['end']}s", "word": word["word"]} for word in _words()
]
_TAGGED = [{**word, "speakerTag": tag} for word, tag in zip(_GOOGLE_WORDS, (1, 1, 2), strict=True)]


def _speechmatics(start: float, end: float, text: str, **more: str) -> dict[str, object]:
    return {"type": "word", "start_time": start, "end_time": end, "alternatives": [{"content": text, **more}]}


JSON_FORMS: dict[str, tuple[object, list]] = {
    "list": (_two(1, 2, 5.0, 6.5), turns("A", "B")),
    "whisper": ({"text": "x", "segments": _two(1.0, 2.0, 5.0, 6.5, id=0, seek=0)}, turns("A", "B")),
    "whisperx": ({"segments": _two(1.0, 2.0, 5.0, 6.5, words=_words()), "word_segments": []}, turns("A", "B")),
    "whisper.cpp": (
        {
            "model": {"type": "base"},
            "transcription": [
                {
                    "timestamps": {"from": "00:00:01,000", "to": "00:00:02,000"},
                    "offsets": {"from": 1000, "to": 2000},
                    "text": f" {ANN}",
                },
                {
                    "timestamps": {"from": "00:00:05,000", "to": "00:00:06,500"},
                    "offsets": {"from": 5000, "to": 6500},
                    "text": " No.",
                },
            ],
        },
        turns(),
    ),
    "assemblyai": (
        {"status": "completed", "utterances": _two(1000, 2000, 5000, 6500, confidence=0.9)},
        turns("A", "B"),
    ),
    "assemblyai-words": (
        {
            "audio_url": "u",
            "utterances": None,
            "words": [
                {"start": 1000, "end": 1400, "text": "Hi,", "speaker": "A"},
                {"start": 1500, "end": 2000, "text": "you.", "speaker": "A"},
                {"start": 5000, "end": 6500, "text": "No.", "speaker": "B"},
            ],
        },
        turns("A", "B"),
    ),
    "deepgram": (
        {
            "metadata": {},
            "results": {
                "utterances": [
                    {"start": 1.0, "end": 2.0, "transcript": ANN, "speaker": 0, "channel": 0, "words": []},
                    {"start": 5.0, "end": 6.5, "transcript": BOB, "speaker": 1, "channel": 0, "words": []},
                ]
            },
        },
        turns("0", "1"),
    ),
    "deepgram-words": (
        {"results": {"channels": [{"alternatives": [{"transcript": "x", "words": _words(word="punctuated_word")}]}]}},
        turns("0", "1"),
    ),
    "aws-items": (
        {"results": {"items": _AWS_ITEMS, "speaker_labels": {"segments": _AWS_SPEAKERS}}},
        turns("spk_0", "spk_1"),
    ),
    "aws-segments": (
        {
            "jobName": "j",
            "results": {
                "items": _AWS_ITEMS,
                "audio_segments": [
                    {"start_time": "1.0", "end_time": "2.0", "transcript": ANN, "speaker_label": "spk_0"},
                    {"start_time": "5.0", "end_time": "6.5", "transcript": BOB, "speaker_label": "spk_1"},
                ],
            },
        },
        turns("spk_0", "spk_1"),
    ),
    "google": (
        {
            "results": [
                {"alternatives": [{"transcript": ANN, "words": _GOOGLE_WORDS[:2]}]},
                {"alternatives": [{"transcript": BOB, "words": _GOOGLE_WORDS[2:]}]},
            ]
        },
        turns(),
    ),
    "google-speakers": (
        {
            "response": {
                "results": [
                    {"alternatives": [{"transcript": ANN, "words": _GOOGLE_WORDS}]},
                    {"alternatives": [{"words": _TAGGED}]},
                ]
            }
        },
        turns("1", "2"),
    ),
    "azure-batch": (
        {
            "recognizedPhrases": [
                {
                    "speaker": 1,
                    "offset": "PT1S",
                    "duration": "PT1S",
                    "offsetInTicks": 10000000.0,
                    "durationInTicks": 10000000.0,
                    "nBest": [{"display": ANN, "lexical": "hi you"}],
                },
                {"speaker": 2, "offset": "PT5S", "duration": "PT1.5S", "nBest": [{"display": BOB}]},
            ]
        },
        turns("1", "2"),
    ),
    "azure-fast": (
        {
            "durationMilliseconds": 10000,
            "combinedPhrases": [{"text": "x"}],
            "phrases": [
                {"offsetMilliseconds": 1000, "durationMilliseconds": 1000, "text": ANN, "speaker": 1},
                {"offsetMilliseconds": 5000, "durationMilliseconds": 1500, "text": BOB, "speaker": 2},
            ],
        },
        turns("1", "2"),
    ),
    "rev.ai": (
        {
            "monologues": [
                {
                    "speaker": 0,
                    "elements": [
                        {"type": "text", "value": "Hi", "ts": 1.0, "end_ts": 1.4},
                        {"type": "punct", "value": ", "},
                        {"type": "text", "value": "you", "ts": 1.5, "end_ts": 2.0},
                        {"type": "punct", "value": "."},
                    ],
                },
                {"speaker": 1, "elements": [{"type": "text", "value": "No.", "ts": 5.0, "end_ts": 6.5}]},
            ]
        },
        turns("0", "1"),
    ),
    "vosk": ({"result": [{"conf": 1.0, **w} for w in _words(speaker="x")], "text": "hi you no"}, turns()),
    "transformers": (
        {"text": "x", "chunks": [{"timestamp": [1.0, 2.0], "text": ANN}, {"timestamp": [5.0, 6.5], "text": BOB}]},
        turns(),
    ),
    "speechmatics": (
        {
            "format": "2.9",
            "results": [
                _speechmatics(1.0, 1.4, "Hi", speaker="S1"),
                {**_speechmatics(1.4, 1.4, ","), "type": "punctuation"},
                _speechmatics(1.5, 2.0, "you.", speaker="S1"),
                _speechmatics(5.0, 6.5, "No.", speaker="S2"),
            ],
        },
        turns("S1", "S2"),
    ),
    "elevenlabs": (
        {
            "text": "x",
            "words": [{"type": "word", **w} for w in _words(word="text", speaker="speaker_id")]
            + [{"type": "spacing", "text": " ", "start": 6.5, "end": 6.5, "speaker_id": 1}],
        },
        turns("0", "1"),
    ),
    "gladia": ({"result": {"transcription": {"utterances": _two(1.0, 2.0, 5.0, 6.5)}}}, turns("A", "B")),
    "fireflies": (
        {
            "sentences": [
                {"speaker_name": "Ann", "start_time": 1, "end_time": 2, "text": ANN},
                {"speaker_name": "Bob", "start_time": 5, "end_time": 6.5, "text": BOB},
            ]
        },
        turns("Ann", "Bob"),
    ),
    "recall.ai": (
        [
            {
                "participant": {"id": 1, "name": "Ann"},
                "words": [
                    {"text": "Hi,", "start_timestamp": {"relative": 1.0}, "end_timestamp": {"relative": 1.4}},
                    {"text": "you.", "start_timestamp": {"relative": 1.5}, "end_timestamp": {"relative": 2.0}},
                ],
            },
            {
                "participant": {"id": 2, "name": "Bob"},
                "words": [{"text": "No.", "start_timestamp": {"relative": 5.0}, "end_timestamp": {"relative": 6.5}}],
            },
        ],
        turns("Ann", "Bob"),
    ),
    "own-milliseconds": (
        [{"startMs": 1000, "endMs": 2000, "text": ANN}, {"startMs": 5000, "endMs": 6500, "text": BOB}],
        turns(),
    ),
}


def content(name: str) -> str:
    """The text of the file."""
    if name in TABLES:
        return TABLES[name][0]
    return json.dumps(JSON_FORMS[name][0], ensure_ascii=False)
