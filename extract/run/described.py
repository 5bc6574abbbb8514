"""Texts that are read with a sentence about the voice: made when the prosody of all utterances is known.

A speaker's usual voice is the median of their utterances, so a sentence depends on rows of every part. The features of
such texts are therefore extracted after the media, from the feature `SOURCE` of the same store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.manifest import Manifest
from .context import unmasked
from .extractors import RunExtractor
from .jobs import Job

SOURCE = "audio/prosody"


def is_described(one: RunExtractor) -> bool:
    """Whether an extractor reads texts with such a sentence."""
    return one.modality == "text" and one.request.options.describe != "none"


def check_shard(prosody: Job, shard: tuple[int, int] | None) -> None:
    """Raises a UserError if a shard would have to describe texts without the prosody of the other shards."""
    if shard is not None and not prosody.complete:
        raise UserError(
            "--shard: describe=prosody compares an utterance with all others of its speaker, which other shards have; "
            "extract --feature prosody first, merge it, and then run the shards of the texts"
        )


def sentences_of(prosody: Job, manifest: Manifest) -> list[str]:
    """For each utterance of a manifest a sentence about how it is spoken, or "".

    Args:
        prosody: the finished job of `SOURCE`.
        manifest: the corpus.
    """
    from ..encoders.audio.prosody_words import describe

    parts = list(prosody.finished_parts())
    utterances = manifest.utterances
    return describe(
        np.concatenate([part.values for part in parts]),
        np.array([not reason for part in parts for reason in part.reasons]),
        [u.speaker for u in utterances],
        np.concatenate([part.details["seconds"] for part in parts]),
        list(map(unmasked, utterances)),
    )


def has_any(prosody: Job) -> bool:
    """Whether any utterance has prosody."""
    return any(not reason for part in prosody.finished_parts() for reason in part.reasons)


def implicit(jobs: Sequence[Job]) -> Job | None:
    """The job of `SOURCE`, if it is there only because texts are described."""
    return next((job for job in jobs if job.planned.request.implicit), None)
