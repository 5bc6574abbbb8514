"""Transcripts as JSON: the forms of known speech recognisers, each with the unit of its times, and lists of turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_numbers import finite
from .turns import OUR_FORMAT, Transcript, Turn, Unit, are_ms, roles, seconds, text_of
from .words import (
    Context,
    given_of,
    grouped,
    items_of,
    list_of,
    made,
    object_of,
    plain_words,
    turn_of,
    whole_times,
    word_text,
)

_LISTS = ("segments", "turns", "utterances", "sentences", "speakers", "chunks", "captions", "phrases", "transcript")


def read_json_turns(
    text: str, source: Path, unit: Unit | None = None, duration: float | None = None, lines: bool = False
) -> Transcript:
    """Reads the JSON of a speech recogniser, or a list of turns.

    Args:
        text: the file's content.
        source: the file, for messages.
        unit: of times that are plain numbers; None to go by the form.
        duration: of the recording in seconds, by which the unit is checked; the last turn ends there if it has no end.
        lines: whether each line is an object (JSON Lines).

    Raises:
        UserError: not JSON, or no turns in it; names file and turn.
    """
    if lines:
        content: object = [
            _parsed(line, f"{source}, line {number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()
        ]
    else:
        content = _parsed(text, f"{source}")
    while isinstance(content, dict) and isinstance(content.get("response"), dict):  # Google's operations
        content = content["response"]
    context = Context(source, unit, [], duration)
    for form in _FORMS:
        if (turns := form(content, context)) is not None:
            return Transcript(turns, context.assumed, context.notes)
    raise UserError(f"{source}: must be a list of turns, or an object with one under segments, turns or utterances")


def _parsed(text: str, where: str) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _ours(content: object, context: Context) -> list[Turn] | None:
    found = list_of(content, "turns")
    if found is None or object_of(content).get("format") != OUR_FORMAT:
        return None
    unit = context.written_by("erc-toolkit transcribe")
    return [turn_of(one, context.at(i), unit, one.get("speaker"), one.get("text")) for i, one in enumerate(found, 1)]


def _whisper_cpp(content: object, context: Context) -> list[Turn] | None:
    found = list_of(content, "transcription")
    if not found or not all("offsets" in one or "timestamps" in one for one in found):
        return None
    unit = context.written_by("whisper.cpp (-oj)", "ms")
    turns: list[Turn] = []
    for i, one in enumerate(found, 1):
        times = object_of(one.get("offsets") or one.get("timestamps"))
        turns.append(turn_of(times, context.at(i), unit, one.get("speaker"), one.get("text")))
    return turns


def _assembly_ai(content: object, context: Context) -> list[Turn] | None:
    if not isinstance(content, dict):
        return None
    marked = bool(content.keys() & {"audio_url", "acoustic_model", "audio_duration", "speech_model", "status"})
    found = list_of(content, "utterances")
    if found is None:
        words = list_of(content, "words") if marked else None
        if not words or not all(map(whole_times, words)):
            return None
        unit = context.written_by("AssemblyAI", "ms")
        return grouped(plain_words(words, context, unit), context)
    if not found or not all(map(whole_times, found)):
        return None
    if not are_ms([(one["start"], one["end"]) for one in found], context.duration):
        return None
    if not marked and not all("confidence" in one and "words" in one for one in found):
        return None
    unit = context.written_by("AssemblyAI", "ms")
    return [turn_of(one, context.at(i), unit, one.get("speaker"), one.get("text")) for i, one in enumerate(found, 1)]


def _deepgram(content: object, context: Context) -> list[Turn] | None:
    results = object_of(content).get("results")
    found = list_of(results, "utterances")
    channels = list_of(results, "channels")
    if not found and not channels:
        return None
    unit = context.written_by("Deepgram")
    if found:
        return [
            turn_of(one, context.at(i), unit, one.get("speaker", one.get("channel")), one.get("transcript"))
            for i, one in enumerate(found, 1)
        ]
    turns: list[Turn] = []
    for number, channel in enumerate(channels or ()):
        best = next(iter(list_of(channel, "alternatives") or ()), {})
        by_channel = str(number) if len(channels or ()) > 1 else ""
        paragraphs = list_of(best.get("paragraphs"), "paragraphs")
        if paragraphs:
            turns += [
                turn_of(sentence, context.at(i), unit, part.get("speaker", by_channel), sentence.get("text"))
                for i, part in enumerate(paragraphs, 1)
                for sentence in list_of(part, "sentences") or ()
            ]
        else:
            turns += grouped(plain_words(list_of(best, "words") or [], context, unit, by_channel), context)
    return turns


def _aws(content: object, context: Context) -> list[Turn] | None:
    results = object_of(content).get("results")
    items, segments = list_of(results, "items"), list_of(results, "audio_segments")
    if items is None and not segments:
        return None
    unit = context.written_by("Amazon Transcribe")
    if segments and (items is None or all("speaker_label" in one for one in segments)):
        return [
            turn_of(one, context.at(i), unit, one.get("speaker_label"), one.get("transcript"))
            for i, one in enumerate(segments, 1)
        ]
    speakers: dict[str, str] = {}
    for segment in list_of(object_of(results).get("speaker_labels"), "segments") or ():
        for item in list_of(segment, "items") or ():
            speakers[text_of(item.get("start_time"))] = text_of(item.get("speaker_label"))
    return grouped(items_of(items or [], context, unit, speakers), context)


def _speechmatics(content: object, context: Context) -> list[Turn] | None:
    found = list_of(content, "results")
    if not found or not all("alternatives" in one and "start_time" in one for one in found):
        return None
    return grouped(items_of(found, context, context.written_by("Speechmatics"), {}), context)


def _google(content: object, context: Context) -> list[Turn] | None:
    results = list_of(content, "results")
    if not results or not any("alternatives" in one for one in results):
        return None
    best = [next(iter(list_of(one, "alternatives") or ()), {}) for one in results]
    spoken = [list_of(one, "words") or [] for one in best]
    if not any(spoken):
        raise UserError(
            f"{context.source}: Google's results have no times; recognise with enableWordTimeOffsets, and with "
            "diarizationConfig for the speakers"
        )
    unit = context.written_by("Google Speech-to-Text")
    tags = ("speakerTag", "speaker_tag", "speakerLabel", "speaker_label")
    tagged = [words for words in spoken if any(word.get(tag) for word in words for tag in tags)]
    # With diarization the last result repeats all words, with their speakers; in version 2 each has its own.
    repeated = len(tagged) == 1 and len(spoken) > 1 and tagged[0] is spoken[-1]
    turns: list[Turn] = []
    for word in spoken[0][:1]:
        if given_of(word, "start") is None:  # version 2 leaves out what is 0
            word["startOffset"] = 0
    for words in tagged if repeated else spoken:
        turns += grouped(plain_words(words, context, unit), context)
    return turns


def _azure(content: object, context: Context) -> list[Turn] | None:
    found = list_of(content, "recognizedPhrases")
    if found:
        context.written_by("Azure Speech")
        turns: list[Turn] = []
        for i, one in enumerate(found, 1):
            best = next(iter(list_of(one, "nBest") or ()), {})
            start, lasts = (_azure_time(one, name, context.at(i)) for name in ("offset", "duration"))
            speaker = text_of(one.get("speaker", one.get("channel")))
            text = text_of(best.get("display") or best.get("lexical"))
            turns.append(made(start, start + lasts, speaker, text))
        return turns
    return None


def _azure_time(one: Mapping[str, object], name: str, where: str) -> float:
    ticks = finite(one.get(f"{name}InTicks"))
    return seconds(one.get(name) if ticks is None else ticks / 1e7, f"{where}, {name}")


def _rev(content: object, context: Context) -> list[Turn] | None:
    found = list_of(content, "monologues")
    if not found:
        return None
    unit = context.written_by("Rev AI")
    turns: list[Turn] = []
    for i, one in enumerate(found, 1):
        elements = list_of(one, "elements") or []
        timed = [element for element in elements if element.get("ts") is not None]
        if not timed:
            continue
        start = seconds(timed[0]["ts"], f"{context.at(i)}, ts", unit)
        end = seconds(timed[-1].get("end_ts"), f"{context.at(i)}, end_ts", unit)
        text = "".join(str(element.get("value") or "") for element in elements)
        turns.append(made(start, end, text_of(one.get("speaker")), text))
    return turns


def _vosk(content: object, context: Context) -> list[Turn] | None:
    parts = content if isinstance(content, list) else [content]
    if not parts or not all(isinstance(part, dict) and ("result" in part or "text" in part) for part in parts):
        return None
    spoken = [words for part in parts if (words := list_of(part, "result"))]
    if not spoken or not all("word" in word for words in spoken for word in words):
        return None
    unit = context.written_by("Vosk")
    return [turn for words in spoken for turn in grouped(plain_words(words, context, unit), context)]


def _hugging_face(content: object, context: Context) -> list[Turn] | None:
    found = list_of(content, "speakers") or list_of(content, "chunks")
    if not found or not all(isinstance(one.get("timestamp"), list) for one in found):
        return None
    unit = context.written_by("transformers")
    turns: list[Turn] = []
    for i, one in enumerate(found, 1):
        times = one["timestamp"]
        if len(times) != 2:
            raise UserError(f"{context.at(i)}, timestamp: must be two times")
        start = seconds(times[0], f"{context.at(i)}, start", unit)
        end = times[1]
        if end is None:  # where the recogniser was cut off: up to the next one, or the end of the recording
            end = next(iter(found[i]["timestamp"]), None) if i < len(found) else context.duration
            context.notes.append(f"{context.source.name}: turn {i} has no end; it lasts up to the next one, or the end")
        turns.append(
            made(start, seconds(end, f"{context.at(i)}, end", unit), text_of(one.get("speaker")), one.get("text"))
        )
    return turns


def _words_alone(content: object, context: Context) -> list[Turn] | None:
    """ElevenLabs, and other objects with words only."""
    if not isinstance(content, dict) or any(isinstance(content.get(name), list) for name in _LISTS):
        return None
    words = [word for word in list_of(content, "words") or () if word.get("type") != "spacing"]
    if not words:
        return None
    if all("speaker_id" in word for word in words):
        unit = context.written_by("ElevenLabs")
    else:
        unit, context.assumed = context.unit or "s", context.unit is None
    return grouped(plain_words(words, context, unit), context)


def _turns(content: object, context: Context) -> list[Turn] | None:
    """Any list of turns, at the top or in objects within each other."""
    found = content
    for _ in range(4):
        if not isinstance(found, dict):
            break
        inside = next((found[key] for key in _LISTS if isinstance(found.get(key), list)), None)
        found = inside or next((found[k] for k in ("result", "results", "transcription", "data") if k in found), None)
    if not isinstance(found, list):
        return None
    turns: list[Turn] = []
    in_ms = 0
    for i, one in enumerate(found, 1):
        where = context.at(i)
        if not isinstance(one, dict):
            raise UserError(f"{where}: not an object with start, end, speaker and text")
        named, by_name = roles({k: v for k, v in one.items() if v is not None and v != ""}, where)

        def given(what: str, one: dict = one, named: dict = named) -> object:
            return one[named[what][0]] if what in named else None

        start, end, text, speaker = (given(what) for what in ("start", "end", "text", "speaker"))
        words = list_of(one, "words") or []
        if text is None and words:
            text = " ".join(word_text(word) for word in words)
        if words and start is None and end is None:  # Recall.ai
            start, end = (given_of(words[at], what) for at, what in ((0, "start"), (-1, "end")))
        unit = context.unit or by_name or "s"
        in_ms += unit == "ms"
        context.assumed |= context.unit is None and by_name is None and finite(start) is not None
        if end is None and "duration" in named:
            first = seconds(start, f"{where}, start", unit)
            lasts = seconds(given("duration"), f"{where}, duration", unit)
            turns.append(made(first, first + lasts, text_of(speaker), text))
        else:
            turns.append(turn_of({"start": start, "end": end}, where, unit, speaker, text))
    if in_ms:
        why = "--time-unit says" if context.unit else "the keys' names say"
        context.notes.append(f"{context.source.name}: times read as milliseconds, as {why}")
    return turns


_FORMS: tuple[Callable[[object, Context], list[Turn] | None], ...] = (
    _ours,
    _whisper_cpp,
    _assembly_ai,
    _deepgram,
    _aws,
    _speechmatics,
    _google,
    _azure,
    _rev,
    _vosk,
    _hugging_face,
    _words_alone,
    _turns,
)
