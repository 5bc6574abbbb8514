"""Counts of a manifest, against the counts that are published for its corpus.

Those stand in manifests/<corpus>.yaml under `published`, a list with an entry for each label set:

    name: shown to the user
    labels: [names in index order]    # an entry is for manifests with exactly these
    splits: {train: {dialogues: 1, utterances: 2, speakers: 2, labels: {joy: 2}}, …}    # each count may be left out
    dialogues: {id: utterances}    # may be left out
"""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

from .. import manifests
from ..toolkit.manifest import SPLITS, Manifest


def count(manifest: Manifest) -> dict[str, object]:
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
            counted = Counter(u.label or "" for u in chosen)
            splits[split] = {
                "dialogues": len({u.dialogue for u in chosen}),
                "utterances": len(chosen),
                "speakers": len({u.speaker for u in chosen}),
                "labels": {label: counted[label] for label in [*manifest.labels, ""]},
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

    Utterances are compared by those that have a label; the others are context.

    Returns:
        None where nothing is published for it; else `published`, the name of those counts, and `differences`, a line
        each, none where everything agrees.
    """
    published = _published(manifest)
    if published is None:
        return None
    counted = count(manifest)["splits"]
    differences = []
    total: Counter[str] = Counter()
    for split, expected in published["splits"].items():
        expected = _flat(expected)
        found = _flat(counted.get(split, {"dialogues": 0, "utterances": 0, "speakers": 0, "labels": {}}))
        for what, n in expected.items():
            if found.get(what, 0) != n:
                differences.append(_difference(f"{split}, {what}", found.get(what, 0), n))
            if what != "speakers":  # one may speak in several splits
                total[what] += found.get(what, 0) - n
    if differences and not any(total.values()):
        differences.insert(0, "the same in all, but split in another way:")
    differences += _dialogues(manifest, published.get("dialogues", {}))
    return {"published": published["name"], "differences": differences}


def _flat(split: dict) -> dict[str, int]:
    """A split's counts by name, labels among them; utterances are those with a label."""
    labels = {label: n for label, n in split.get("labels", {}).items() if label}
    counts = {what: split[what] for what in ("dialogues", "utterances", "speakers") if what in split}
    return {**counts, **({"utterances": sum(labels.values())} if labels else {}), **labels}


def _published(manifest: Manifest) -> dict | None:
    """The published counts with exactly these labels, where the corpus has any."""
    name = f"{manifest.corpus}.yaml"
    if name not in {path.name for path in files(manifests).iterdir()}:  # the name is the user's: no path
        return None
    for published in manifests.load(name).get("published", ()):
        if published["labels"] == manifest.labels:
            return published
    return None


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
    for what, dialogues in (
        ("published dialogues are not there", [d for d in expected if d not in present]),
        ("dialogues are not published", sorted(present - set(expected))),
    ):
        if dialogues:
            lines.append(f"{len(dialogues)} {what}: {', '.join(dialogues)}")
    return lines


def _difference(what: str, found: int, published: int) -> str:
    return f"{what}: {found}, published {published} ({found - published:+d})"
