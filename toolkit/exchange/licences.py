"""Shared by dataset cards and model cards: the terms that apply, and text that cannot break a card's Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from ... import manifests


def corpus_terms(corpus: str) -> str | None:
    """The terms of a corpus (manifests/licences.yaml), or None if they are not known."""
    return _stripped(manifests.load("licences.yaml")["corpora"].get(corpus.lower()))


def extractor_terms(made: Mapping[str, object]) -> str | None:
    """The terms that apply to a feature, by its `extractor` and `model`, or None if they are not known."""
    what = f"{made.get('extractor', '')} {made.get('model', '')}".lower()
    known = manifests.load("licences.yaml")["extractors"]
    return _stripped(next((text for key, text in known.items() if key in what), None))


def one_line(text: object) -> str:
    """The text on one line, without characters that end a table cell or code span or open a tag."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def _stripped(text: str | None) -> str | None:
    return text and text.strip()
