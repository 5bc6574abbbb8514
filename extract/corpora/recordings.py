"""Recordings without transcripts: their turns are found, and kept in a folder where they can be corrected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from ..diarization.requirements import ASR_MODEL, SPEAKER_MODEL
from .folder import label_names


def read_recordings(
    root: Path,
    *,
    work: Annotated[
        Path | None, "Folder for the turns of each recording, to be corrected.  [default: ROOT-turns beside ROOT]"
    ] = None,
    speakers: Annotated[int | None, "Number of people in each recording.  [default: found]"] = None,
    language: Annotated[str | None, "Code of the language, such as en.  [default: detected]"] = None,
    asr_model: Annotated[str, "Whisper model for faster-whisper: size, hub name or folder."] = ASR_MODEL,
    speaker_model: Annotated[str, "Model that tells voices apart, as for `transcribe`."] = SPEAKER_MODEL,
    compute_on: Annotated[str, "Device: auto, cpu, cuda, cuda:N or mps."] = "auto",
    labels: Annotated[
        str | None, "Labels in index order, separated by commas, for labels added to the manifest later."
    ] = None,
    split: Annotated[Literal["train", "val", "test"], "The split of all utterances."] = "test",
    name: Annotated[str | None, "Name of the corpus.  [default: the folder's name]"] = None,
) -> Manifest:
    """Recordings without transcripts, one dialogue per file: who speaks when and what is found as by `transcribe`.

    The turns of scene.mp4 are in scene.json, .srt, .vtt and .rttm of the folder `work`. A recording whose turns are
    there is not computed again; a file that was corrected there is taken. A recording that cannot be read, or in which
    nobody speaks, is left out with a note, if there are others.

    Args:
        root: the folder with video and audio files, also in subfolders.
        work: folder for the turns.
        speakers: number of people in each recording; None to find it.
        language: code of the language; None to detect it in each recording.
        asr_model, speaker_model: as for `erc-toolkit transcribe`.
        compute_on: the device.
        labels: names in index order, separated by commas, for the manifest's header.
        split: the split of every utterance.
        name: name of the corpus; None for the folder's name.

    Raises:
        UserError: no folder, no recordings, a package or a model is missing, or no recording has turns.
    """
    # Here, since every reader is imported for the list of corpora.
    from ..diarization.folders import names_of, transcribe_folder
    from ..diarization.formats import utterances_of
    from ..diarization.loading import Options

    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the folder with the recordings")
    if speakers is not None and speakers < 1:
        raise UserError(f"--speakers {speakers}: must be 1 or more")
    work = work or root.resolve().with_name(f"{root.resolve().name}-turns")
    options = Options(speakers, language, asr_model, speaker_model, device=compute_on)
    notes: list[str] = []
    done = transcribe_folder(root, work, options, command="manifest build recordings", notify=lambda _: None)
    names = names_of([*done.documents, *done.failed], root)
    utterances: list[Utterance] = []
    marked = 0
    for path, (_, document) in done.documents.items():
        dialogue = names[path]
        if not document.turns:
            notes.append(f"left out: {dialogue}: {document.reason}")
        marked += sum(bool(turn.marks) for turn in document.turns)
        utterances += utterances_of(document.turns, dialogue, path.relative_to(root).as_posix(), split)
    notes += [f"left out: {reason}" for reason in done.failed.values()]
    if not utterances:
        raise UserError(notes[0].removeprefix("left out: ") if notes else f"{root}: no recording has turns")
    notes.append(f"the turns were found, not annotated; correct them in {work}, and build the manifest again")
    if marked:
        notes.append(f"{marked} of {counted(len(utterances), 'turn')} are marked as unsure there")
    return Manifest(name or root.resolve().name or "recordings", label_names(labels) or [], root, utterances, notes)
