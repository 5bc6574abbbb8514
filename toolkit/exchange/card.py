"""A dataset card in the format of the Hugging Face Hub, with provenance, counts and licences."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..base.demo_mark import NOTE
from ..base.reading.plain_json import parse_json
from ..base.words import counted, layers_in_words
from .licences import corpus_terms, extractor_terms, one_line

_KINDS = {"text": "text-classification", "audio": "audio-classification", "visual": "video-classification"}


def card_of(store, features: Sequence[str], hub_folder: bool = False) -> str:
    """A dataset card, Markdown with YAML front matter.

    Args:
        store: an open `FeatureStore`.
        features: names of the features to describe.
        hub_folder: whether the card is next to Parquet files, `data/SPLIT-*.parquet`.
    """
    import yaml

    from ..store.summary import summarise
    from .marks import HUB_SPLITS

    summary = summarise(store)
    modalities = sorted({name.split("/")[0] for name in features})
    front: dict[str, object] = {
        "license": "other",
        "license_name": "see-below",
        "pretty_name": f"{' '.join(store.corpus.split())}: features for emotion recognition in conversation",
        "task_categories": [_KINDS[m] for m in modalities] or ["text-classification"],
        "tags": ["emotion-recognition-in-conversation", "multimodal", "erc-toolkit", store.corpus.lower()],
        "size_categories": [_size(summary["utterances"])],
    }
    if hub_folder:
        front["configs"] = [
            {
                "config_name": "default",
                "data_files": [
                    {"split": HUB_SPLITS[s], "path": f"data/{HUB_SPLITS[s]}-*.parquet"} for s in summary["splits"]
                ],
            }
        ]
    made = summary["made"]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {one_line(store.corpus)}: features for emotion recognition in conversation",
        "",
        f"{counted(summary['utterances'], 'utterance')} in {counted(summary['dialogues'], 'dialogue')} by "
        f"{counted(summary['speakers'], 'speaker')}, {'converted' if made.get('converted_from') else 'extracted'} by "
        f"erc-toolkit {made['toolkit_version']} on {str(made['created'])[:10]}.",
        "",
        "## Licences",
        "",
        *_licences(store, features),
        "",
        "## Labels",
        "",
        *_counts(summary),
        "",
        "## Features",
        "",
        "| feature | dimensions | present | missing, by reason |",
        "|---|---:|---:|---|",
    ]
    for name in features:
        feature = summary["features"][name]
        why = ", ".join(f"{n} {one_line(reason)}" for reason, n in feature["reasons"].items()) or "none"
        layers = f" ({layers_in_words(feature['layers'], feature['dim'])})" if "layers" in feature else ""
        lines.append(f"| `{name}` | {feature['dim']}{layers} | {feature['present']} | {why} |")
    for name in features:
        lines += ["", f"### {name}", ""]
        for key, value in _without_folders(summary["features"][name]["made"]).items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"- {key}: `{one_line(text)}`")
    lines += ["", "## Provenance", "", f"- content SHA-256: `{made['content_sha256']}`"]
    shown = {
        "command": _command_without_folders(str(made.get("command") or "")),
        "corpus_fingerprint": made.get("corpus_fingerprint"),
        "converted_from": _without_folders(made.get("converted_from")),
    }
    lines += [f"- {key}: `{one_line(text)}`" for key, text in shown.items() if text]
    if notes := _notes(made):
        lines += [
            "",
            "Irregularities of the source, and what was done about them:",
            "",
            *(f"- {one_line(note)}" for note in notes[:50]),
        ]
        lines += [f"- and {len(notes) - 50} more, in the store"] if len(notes) > 50 else []
    return "\n".join(lines) + "\n"


def _licences(store, features: Sequence[str]) -> list[str]:
    name = one_line(store.corpus)
    if NOTE in _notes(store.attrs):
        generated = "its texts, voices and faces are generated and free of rights of others."
        return [f"- Corpus: {NOTE}; {generated}", *_feature_licences(store, features)]
    unknown = (
        f"The terms of the corpus {name} apply to its texts and everything computed from it; they are not known here."
    )
    return [f"- Corpus: {corpus_terms(store.corpus) or unknown}", *_feature_licences(store, features)]


def _feature_licences(store, features: Sequence[str]) -> list[str]:
    lines = []
    for name in features:
        attrs = store.feature(name).attrs
        known = extractor_terms(attrs) or attrs.get("licence") or "the licence of the model named below applies."
        lines.append(f"- `{name}`: {one_line(known)}")
    return [*lines, "", "Before publishing, set a `license` above that all of these permit."]


def _counts(summary: dict) -> list[str]:
    splits = list(summary["splits"])
    lines = [f"| label | {' | '.join(splits)} |", f"|---|{'---:|' * len(splits)}"]
    for label in [*summary["labels"], ""]:
        counts = [summary["label_counts"][s][label] for s in splits]
        if label or any(counts):
            lines.append(f"| {one_line(label) or '(none)'} | {' | '.join(map(str, counts))} |")
    lines.append(f"| all | {' | '.join(str(summary['splits'][s]['utterances']) for s in splits)} |")
    lines.append(f"| dialogues | {' | '.join(str(summary['splits'][s]['dialogues']) for s in splits)} |")
    return lines


def _notes(made: Mapping[str, object]) -> list[str]:
    try:
        notes = parse_json(str(made.get("notes", "[]")))
    except ValueError:
        return []
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _size(n: int) -> str:
    for most, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if n < most:
            return name
    return "n>1M"


def _without_folders(value: Any) -> Any:
    """A value in which files are named without their folders, which say whose they are."""
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return PurePath(value).name or value if isinstance(value, str) and PurePath(value).is_absolute() else value


def _command_without_folders(command: str) -> str:
    """A command line without the folders of its files."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    shown = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        word = f"{option}{equals}{_without_folders(value)}"
        shown.append(word if word == "&&" else shlex.quote(word))
    return " ".join(shown)
