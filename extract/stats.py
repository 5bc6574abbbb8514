"""Counts of a manifest, compared with the counts published for its corpus.

The published counts are in manifests/<corpus>.yaml under `published`, a list with one entry per label set:

    name: shown to the user
    labels: [names in index order]    # the entry applies to manifests with exactly these labels; of several (releases),
                                      # the one that agrees best
    splits: {train: {dialogues: 1, utterances: 2, speakers: 2, labels: {joy: 2}}, …}    # every count is optional
    dialogues: {id: utterances}    # optional
"""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from typing import Any

from .. import manifests
from ..toolkit.base.words import counted
from ..toolkit.manifest import SPLITS, Manifest


def count(manifest: Manifest) -> dict[str, Any]:
    """Counts dialogues, utterances, speakers and classes.

    Returns:
        corpus, labels (in index order), dialogues, utterances, speakers, and splits: name to dialogues, utterances,
        speakers and labels (name to utterances; "" counts those without a label).
    """
    utterances = manifest.utterances
    splits = {}
    for split in SPLITS:
        chosen = [u for u in utterances if u.split == split]
        if chosen:
            per_label = Counter(u.label or "" for u in chosen)
            splits[split] = {
                "dialogues": len({u.dialogue for u in chosen}),
                "utterances": len(chosen),
                "speakers": len({u.speaker for u in chosen}),
                "labels": {label: per_label[label] for label in [*manifest.labels, ""]},
            }
    return {
        "corpus": manifest.corpus,
        "labels": manifest.labels,
        "dialogues": len({u.dialogue for u in utterances}),
        "utterances": len(utterances),
        "speakers": len({u.speaker for u in utterances}),
        "splits": splits,
    }


def compare(manifest: Manifest) -> dict[str, object] | None:
    """Compares a manifest with the counts published for its corpus, labels and splits (manifests/<corpus>.yaml).

    Only labelled utterances are counted; the others are context.

    Returns:
        None if nothing is published for the corpus and labels; otherwise `published`, the name of the counts, and
        `differences`, one line per difference (empty if everything agrees).
    """
    found_splits = count(manifest)["splits"]
    compared = [(one["name"], _differences(manifest, found_splits, one)) for one in _published(manifest)]
    if not compared:
        return None
    # Of several releases with the same labels, the one that agrees best.
    name, differences = min(compared, key=lambda one: len(one[1]))
    return {"published": name, "differences": differences}


def _differences(manifest: Manifest, found_splits: dict, published: dict) -> list[str]:
    differences = []
    total: Counter[str] = Counter()
    for split, expected in published["splits"].items():
        expected = _flat(expected)
        found = _flat(found_splits.get(split, {"dialogues": 0, "utterances": 0, "speakers": 0, "labels": {}}))
        for what, n in expected.items():
            if found.get(what, 0) != n:
                differences.append(_difference(f"{split}, {what}", found.get(what, 0), n))
            if what != "speakers":  # the same person may speak in several splits
                total[what] += found.get(what, 0) - n
    if differences and not any(total.values()):
        differences.insert(0, "the totals agree, but the splits differ:")
    return differences + _dialogues(manifest, published.get("dialogues", {}))


def _flat(split: dict) -> dict[str, int]:
    """A split's counts by name, including those of the labels; `utterances` counts the labelled ones."""
    labels = {label: n for label, n in split.get("labels", {}).items() if label}
    counts = {what: split[what] for what in ("dialogues", "utterances", "speakers") if what in split}
    return {**counts, **({"utterances": sum(labels.values())} if labels else {}), **labels}


def _published(manifest: Manifest) -> list[dict]:
    """The published counts for exactly these labels."""
    name = f"{manifest.corpus}.yaml"
    # The name comes from the user and must not act as a path.
    if name not in {path.name for path in files(manifests).iterdir()}:
        return []
    return [one for one in manifests.load(name).get("published", ()) if one["labels"] == manifest.labels]


def _dialogues(manifest: Manifest, expected: dict[str, int]) -> list[str]:
    if not expected:
        return []
    found = Counter(u.dialogue for u in manifest.utterances if u.label is not None)
    present = {u.dialogue for u in manifest.utterances}
    lines = [
        _difference(f"dialogue {dialogue}, utterances", found[dialogue], n)
        for dialogue, n in expected.items()
        if dialogue in present and found[dialogue] != n
    ]
    for noun, what, dialogues in (
        ("published dialogue", "missing", [d for d in expected if d not in present]),
        ("dialogue", "not in the published counts", sorted(present - set(expected))),
    ):
        if dialogues:
            lines.append(f"{counted(len(dialogues), noun)} {what}: {', '.join(dialogues)}")
    return lines


def _difference(what: str, found: int, published: int) -> str:
    return f"{what}: {found}, published {published} ({found - published:+d})"
