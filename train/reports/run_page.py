"""The page of a run: results, published results, confusion, curves, calibration, groups, and every dialogue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted, layers_in_words
from ..config import OPTIMISTIC, model_in_words
from ..data.batch import Batch
from ..loop.curves import curves_figure
from ..loop.evaluation import OpenedRun, opened_run
from ..loop.run_folder import METRICS, RESULT, read_result, read_run
from ..scores.breakdown import FIRST, GROUPS, SAME, SHIFT, breakdown, confusion_matrix
from ..scores.calibration import calibrate
from ..scores.predictions import Predictions
from ..scores.resampling import dialogue_count, few_dialogues
from ..scores.results_table import MEASURES
from ..scores.tables import ReportTable, percent
from .attention import GRAPHS, Edges, attention_edges
from .comparison import ComparedRun, load, scores_of, seed_folders
from .figures import confusion_figure, layers_figure, reliability_figure, styled
from .page import OPTIMISTIC_WARNING, Page, PageDialogue, PageFigure, PageUtterance, Section, store_name
from .published import published

_GROUP_TITLES = {
    "length": "length of the dialogue, in utterances",
    "position": "position in the dialogue",
    "speaker": "speaker",
    "modalities": "available modalities",
    "shift": "change of the speaker's emotion",
}
_SHIFTS = {
    FIRST: "first utterance of the speaker",
    SAME: "same as in the speaker's previous utterance",
    SHIFT: "different from the speaker's previous utterance",
}
_MOST_SPEAKERS = 12  # maximum number of rows in the table by speaker


def run_page(folder: Path, store: Path | None, device: str, notify: Callable[[str], None]) -> Page:
    """The report on a run, or on several seeds of it (dialogues, curves, layer weights and groups are then those of
    the first seed).

    Raises:
        UserError: there is no finished run, or its store has moved and `store` is not given.
    """
    compared = load(folder)
    first = seed_folders(folder)[0]
    run, predictions = read_run(first), compared.predictions[0]
    facts = cast(Mapping[str, Any], run.facts)
    protocol = facts["protocol"]
    sections = [
        Section("By emotion", [_by_class(predictions)]),
        _published_results(compared, facts["store"]["corpus"], protocol),
        Section(
            "Confusion",
            figures=[
                PageFigure(
                    "confusion",
                    "Rows: true emotion; columns: predicted emotion; shading: share of the true emotion.",
                    confusion_figure(predictions.labels, confusion_matrix(predictions)),
                )
            ],
        ),
        _training(first, facts),
        *_layer_weights(first, run.mixed),
        _calibration(predictions),
        _groups(predictions),
    ]
    dialogues: list[PageDialogue] = []
    warnings = [OPTIMISTIC_WARNING] if protocol == OPTIMISTIC else []
    if few := few_dialogues(dialogue_count(predictions)):
        warnings.append(f"{few[0].upper()}{few[1:]}.")
    try:
        with opened_run(first, store, device, notify) as opened:
            dialogues = _dialogues(opened, predictions)
    except UserError as error:
        if store is not None:
            raise
        notify(f"note: the report does not include the dialogues: {error}")
        reason = str(error)
        for path in (facts["store"]["path"], str(first)):
            reason = reason.replace(path, PurePath(path).name)
        warnings.append(f"The dialogues are not shown: {reason}")
    seeds = (
        f"seed {compared.seeds[0]}"
        if len(compared.seeds) == 1
        else f"mean over seeds {', '.join(map(str, compared.seeds))}"
    )
    shown_facts = [
        ("corpus", facts["store"]["corpus"]),
        ("model", model_in_words(run.config.model)),
        ("parameters", f"{facts['parameters']:,}"),
        ("epoch selected by", protocol),
        ("seed", seeds),
        ("store", store_name(facts["store"]["path"], facts["store"]["content_sha256"])),
        ("device", facts["device"]),
        ("toolkit", f"{facts['toolkit_version']}, torch {facts['torch_version']}"),
    ]
    shown_facts += [
        (m, f"{f['name'].split('/', 1)[1]}, {_width(f['dim'], run.mixed.get(m, 0))}")
        for m, f in facts["features"].items()
    ]
    headline = [
        (
            name,
            percent(compared.measures[key]),
            f"{percent(compared.intervals[key][0])} to {percent(compared.intervals[key][1])}",
        )
        for name, key in MEASURES.items()
    ]
    return Page(
        f"{facts['store']['corpus']}: {folder.resolve().name}",
        shown_facts,
        headline,
        warnings,
        sections,
        dialogues,
        list(predictions.labels),
        list(predictions.modalities),
    )


def _by_class(predictions: Predictions) -> ReportTable:
    measures = scores_of(predictions)
    rows = [
        [name, percent(row["precision"]), percent(row["recall"]), percent(row["f1"]), str(row["support"])]
        for name, row in measures["per_class"].items()
    ]
    head = ["emotion", "precision", "recall", "F1", "support"]
    return ReportTable("by_emotion", "Precision, recall and F1 of each emotion", head, rows)


def _published_results(compared: ComparedRun, corpus: str, protocol: str) -> Section:
    section = Section("Published results")
    printed = published()
    of_corpus = printed.get(corpus.lower())
    names = {"accuracy": "accuracy", "weighted_precision": "w. precision", "weighted_f1": "weighted F1"}
    ours = ["this run", protocol, *(percent(compared.measures[key]) for key in names)]
    if of_corpus is None:
        section.warning = f"No published results are known for the corpus {corpus!r}."
        return section
    labels = compared.predictions[0].labels
    shown = [name for name in of_corpus.get("classes", []) if name in labels]
    rows = [[*ours, *(percent(value) for value in _class_f1(compared, shown))]]
    for row in of_corpus["rows"]:
        cells = [_number(row.get(key)) for key in names]
        by_class = dict(zip(of_corpus.get("classes", []), row.get("per_class", []), strict=False))
        cells += [_number(by_class.get(name)) for name in shown]
        rows.append([f"{row['name']} ({row['source']})", row["selection"], *cells])
    classes = (
        ""
        if sorted(labels) == sorted(of_corpus.get("classes", labels))
        else f" Their emotions are different: {', '.join(of_corpus['classes'])}."
    )
    count = int((compared.predictions[0].true >= 0).sum())
    other = ""
    if count != of_corpus.get("test_utterances", count):
        other = (
            f"Different test split: {count:,} labelled utterance{'s' * (count != 1)} here, "
            f"{of_corpus['test_utterances']:,} in the papers, so the results below are not comparable. "
        )
    section.warning = (
        f"{other}Different features: the published results used {printed['features'].strip()}. "
        f"Compare only rows with the same protocol; this run's is {protocol}.{classes}"
    )
    section.tables.append(
        ReportTable(
            "published",
            "Test split, percent",
            ["", "epoch selection", *names.values(), *shown],
            rows,
            "What some papers call weighted accuracy is a weighted precision, and is listed as such. Emotions: F1.",
        )
    )
    return section


def _class_f1(compared: ComparedRun, names: Sequence[str]) -> list[float]:
    """F1 of some classes, a mean over the runs."""
    scores = [scores_of(one) for one in compared.predictions]
    found = [[one["per_class"][name]["f1"] for name in names] for one in scores]
    return np.mean(found, 0).tolist()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _training(folder: Path, facts: Mapping[str, Any]) -> Section:
    try:
        lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
        with styled():
            figure = curves_figure(lines, facts["selected"]["split"], facts["selected"]["epoch"], facts["protocol"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / METRICS}: damaged; train again with --overwrite") from None
    return Section("Training", figures=[PageFigure("curves", "Loss and scores by epoch.", figure)])


def _width(dim: int, layers: int) -> str:
    return f"{layers_in_words(layers, dim)} with learned weights" if layers else counted(dim, "dimension")


def _layer_weights(folder: Path, mixed: Mapping[str, int]) -> list[Section]:
    """What the run has learned about its encoders' layers; nothing if it has no such weights.

    Args:
        folder: of the run.
        mixed: `Run.mixed`.

    Raises:
        UserError: result.json does not have a share of each layer.
    """
    if not mixed:
        return []
    finished: Any = read_result(folder)
    figures = []
    for modality, count in mixed.items():
        try:
            shares = finished["result"]["layer_weights"][modality]
            valid = len(shares) == count and all(type(x) is float and 0 <= x <= 1 for x in shares)
        except (LookupError, TypeError):
            valid, shares = False, []
        if not valid:
            raise UserError(f"{folder / RESULT}: lacks the {modality} layer weights; train again with --overwrite")
        caption = f"{modality}: the share with which each layer goes into the model."
        figures.append(PageFigure(f"layers_{modality}", caption, layers_figure(shares)))
    return [Section("Layer weights", figures=figures)]


def _calibration(predictions: Predictions) -> Section:
    found = calibrate(predictions)
    text = f"Expected calibration error: {percent(found.ece)} percent, with {len(found.counts)} bins."
    return Section("Calibration", figures=[PageFigure("reliability", text, reliability_figure(found))])


def _groups(predictions: Predictions) -> Section:
    tables = []
    for by, title in _GROUP_TITLES.items():
        found = list(breakdown(predictions, by).items())
        note = ""
        if by == "speaker" and len(found) > _MOST_SPEAKERS:
            note = f"The {_MOST_SPEAKERS} most frequent of {len(found)} speakers."
            found = found[:_MOST_SPEAKERS]
        rows = [
            [_SHIFTS.get(name, name), str(row["utterances"]), percent(row["accuracy"]), percent(row["weighted_f1"])]
            for name, row in found
        ]
        if len(rows) > 1:
            tables.append(
                ReportTable(f"by_{by}", f"By {title}", ["", "utterances", "accuracy", "weighted F1"], rows, note)
            )
    assert set(_GROUP_TITLES) | {"all"} == set(GROUPS)
    return Section("Results by group", tables)


def _dialogues(opened: OpenedRun, predictions: Predictions) -> list[PageDialogue]:
    """Every test dialogue."""
    texts = dict(zip(opened.store.column("id"), opened.store.column("text"), strict=True))
    number = {name: i for i, name in enumerate(opened.store.dialogue_ids)}
    confidence = predictions.probabilities[np.arange(len(predictions)), predictions.predicted]
    opened.model.eval()
    starts = np.flatnonzero(predictions.position == 0)
    found: list[PageDialogue] = []
    for start, end in zip(starts, [*starts[1:], len(predictions)], strict=True):
        name = predictions.dialogue[start]
        utterances: list[PageUtterance] = [
            {
                "speaker": predictions.speaker[i],
                "text": texts.get(predictions.id[i], ""),
                "true": int(predictions.true[i]),
                "predicted": int(predictions.predicted[i]),
                "confidence": round(float(confidence[i]), 3),
                "own": predictions.own[i].tolist(),
            }
            for i in range(start, end)
        ]
        edges: dict[str, dict[str, list[list[int]]]] = {}
        if name in number:
            edges = page_edges(opened.model, opened.data.batch(torch.tensor([number[name]])))
        part = slice(start, end)
        labelled = predictions.true[part] >= 0
        right = (predictions.true[part] == predictions.predicted[part]) & labelled
        found.append(
            {
                "name": str(name),
                "right": int(right.sum()),
                "labelled": int(labelled.sum()),
                "utterances": utterances,
                "edges": edges,
            }
        )
    return found


def page_edges(model: nn.Module, batch: Batch) -> dict[str, dict[str, list[list[int]]]]:
    """The `edges` of a `PageDialogue`; arguments as for `attention_edges`."""
    attended = attention_edges(model, batch)
    return {m: {g: _edge_list(graphs[g]) for g in GRAPHS if g in graphs} for m, graphs in attended.items()}


def _edge_list(edges: Edges) -> list[list[int]]:
    numbers = np.concatenate([edges.branches, edges.weight[:, None]], 1)
    thousandths = np.rint(1000 * numbers).astype(int)
    return np.concatenate([edges.i[:, None], edges.j[:, None], thousandths], 1).tolist()
