"""Intervals and significance by resampling dialogues and seeds, and McNemar's test.

Utterances of one dialogue are not independent, so whole dialogues are drawn with replacement, as many as there are. A
draw weights each dialogue's confusion matrix; every measure follows from their sum, so that thousands of draws cost one
product. If a model was trained with several seeds, its measure is the mean over them, and each draw resamples seeds as
well.

The p-value is that of a paired permutation test: if two systems are equally good, their predictions for a dialogue may
as well be swapped. Weighted F1 is not a sum over dialogues, so predictions are swapped, not differences. With D
dialogues there are 2^D ways to swap, and no p-value can be below 2 / 2^D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...toolkit.base.words import counted
from .predictions import Predictions

DRAWS, LEVEL = 10_000, 0.95
ENOUGH = 20  # dialogues; with fewer, intervals are too narrow and small p-values cannot be attained
_EXACT = 14  # dialogues whose 2^14 swaps are enumerated; with more, the smallest p of DRAWS swaps is attainable
_AT_ONCE = 1000
_ROUNDING = 1e-12  # two sums of the same numbers in another order are equal


@dataclass(frozen=True, slots=True)
class Difference:
    """How a second run's measure differs from a first one's on the same utterances.

    Attributes:
        value: second minus first, a fraction.
        low, high: bounds of its interval.
        p: two-sided p-value, see `differences`.
    """

    value: float
    low: float
    high: float
    p: float


def measures_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of confusion matrices (..., C, C), true class by predicted class, that may contain weights.

    Returns:
        accuracy, weighted_f1, weighted_precision, macro_f1, uar (unweighted average recall), each (...), as
        `erc_toolkit.train.scores.metrics.evaluate` defines them. They are 0 for a matrix of zeros.
    """
    confusion = np.asarray(confusion, np.float64)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, claimed = confusion.sum(-1), confusion.sum(-2)
    recall, precision = _ratio(hits, support), _ratio(hits, claimed)
    f1 = _ratio(2 * hits, support + claimed)
    total, classes = support.sum(-1), (support > 0).sum(-1)
    return {
        "accuracy": _ratio(hits.sum(-1), total),
        "weighted_f1": _ratio((f1 * support).sum(-1), total),
        "weighted_precision": _ratio((precision * support).sum(-1), total),
        "macro_f1": _ratio((f1 * (support > 0)).sum(-1), classes),
        "uar": _ratio(recall.sum(-1), classes),
    }


def intervals(
    runs: Sequence[Predictions], draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of every measure of `measures_of`, over the dialogues that have a label.

    Args:
        runs: one run, or runs that differ only in their seed.
        draws, level, seed: number of samples, fraction of them inside the interval, seed of the samples.
    """
    samples = _resampled([_by_dialogue(runs)], draws, seed)[0]
    return {name: _bounds(values, level) for name, values in samples.items()}


def differences(
    first: Sequence[Predictions], second: Sequence[Predictions], draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Difference]:
    """How `second` differs from `first`, each the runs of its seeds, in every measure of `measures_of`.

    The interval is that of a paired bootstrap: a draw takes the same dialogues for both. The p-value is how often the
    difference is at least as large, in either direction, after the two systems' predictions are swapped in a random
    half of the dialogues; all ways to swap are enumerated if at most 14 dialogues differ, otherwise `draws` are drawn.
    Seeds are swapped together, the i-th with the i-th. As swaps do not tell how much seeds matter, with several seeds p
    is the larger of this one and of that of the bootstrap, which resamples seeds too: how often a resampled difference
    is on the other side of zero.

    Raises:
        ValueError: they do not all have the same utterances and labels.
    """
    for other in (*first, *second):
        check_paired(first[0], other)
    pair = [_by_dialogue(first), _by_dialogue(second)]
    observed = [{k: v.mean() for k, v in measures_of(matrices.sum(1)).items()} for matrices in pair]
    one, other = _resampled(pair, draws, seed)
    p = _swapped(pair[0], pair[1], draws, seed)
    found = {}
    for name in observed[0]:
        moved = other[name] - one[name]
        if len(first) > 1 or len(second) > 1:
            # One more on each side: with a finite number of draws, a p-value of 0 would overstate the evidence.
            beyond = min((moved <= 0).sum(), (moved >= 0).sum())
            p[name] = max(p[name], min(1.0, 2 * float(beyond + 1) / (draws + 1)))
        low, high = _bounds(moved, level)
        found[name] = Difference(float(observed[1][name] - observed[0][name]), low, high, p[name])
    return found


def dialogue_count(predictions: Predictions) -> int:
    """The number of dialogues that have a label, which intervals and p-values are about."""
    return len(set(predictions.dialogue[predictions.true >= 0]))


def few_dialogues(count: int) -> str | None:
    """A warning about intervals and p-values of so few dialogues; None if there are enough."""
    if count >= ENOUGH:
        return None
    least = f"no p-value can be below {p_text(2 / 2**count)}" if count > 1 else "differences cannot be tested"
    return f"only {counted(count, 'dialogue')}: intervals are too narrow with fewer than {ENOUGH}, and {least}"


def p_text(p: float) -> str:
    """A p-value for a table, with three significant digits, which are never below it; "< 0.0001" below that."""
    if p < 0.0001:
        return "< 0.0001"
    digits = 2 - math.floor(math.log10(p))
    return f"{math.ceil(round(p * 10**digits, 6)) / 10**digits:.{digits}f}".rstrip("0").rstrip(".")


def mcnemar(first: Predictions, second: Predictions) -> tuple[int, int, float]:
    """McNemar's exact test on the labelled utterances.

    Returns:
        The number of utterances that only the first predicts correctly, of those that only the second does, and the
        two-sided p-value of the binomial test that both are equally likely. It assumes independent utterances, unlike
        the bootstrap.

    Raises:
        ValueError: as for `differences`.
    """
    from scipy.stats import binomtest  # takes half a second to import, and every command imports this module

    check_paired(first, second)
    labelled = first.true >= 0
    right = [(p.predicted == p.true)[labelled] for p in (first, second)]
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return *only, float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0


def check_paired(first: Predictions, second: Predictions) -> None:
    """Raises ValueError if two predictions are not for the same utterances with the same labels."""
    if first.labels != second.labels:
        raise ValueError("their labels differ")
    if len(first) != len(second) or (first.id != second.id).any() or (first.dialogue != second.dialogue).any():
        raise ValueError("they are not for the same utterances")
    if (first.true != second.true).any():
        raise ValueError("their true emotions differ")


def _by_dialogue(runs: Sequence[Predictions]) -> np.ndarray:
    """Confusion matrices (runs, D, C, C) of the dialogues that have a label.

    Raises:
        ValueError: there are none.
    """
    found = []
    for run in runs:
        labelled = run.true >= 0
        if not labelled.any():
            raise ValueError("no labelled utterance")
        _, dialogue = np.unique(run.dialogue[labelled].astype(str), return_inverse=True)
        matrices = np.zeros((dialogue.max() + 1, len(run.labels), len(run.labels)))
        np.add.at(matrices, (dialogue, run.true[labelled], run.predicted[labelled]), 1)
        found.append(matrices)
    return np.stack(found)


def _resampled(models: list[np.ndarray], draws: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Measures (draws,) of each model's (runs, D, C, C), all on the same drawn dialogues."""
    rng = np.random.default_rng(seed)
    count = models[0].shape[1]
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in models]
    for start in range(0, draws, _AT_ONCE):
        some = min(_AT_ONCE, draws - start)
        times = rng.multinomial(count, np.full(count, 1 / count), some)
        for part, runs in zip(parts, models, strict=True):
            seeds = len(runs)
            share = rng.multinomial(seeds, np.full(seeds, 1 / seeds), some).T / seeds  # (runs, some)
            drawn = (times @ runs.reshape(seeds, count, -1)).reshape(seeds, some, *runs.shape[2:])
            part.append({name: (values * share).sum(0) for name, values in measures_of(drawn).items()})
    return [{name: np.concatenate([p[name] for p in part]) for name in part[0]} for part in parts]


def _swapped(first: np.ndarray, second: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    """Two-sided p-value of each measure by swapping the models' matrices (runs, D, C, C) of whole dialogues."""
    pairs = math.lcm(len(first), len(second))  # every run equally often
    first, second = (runs[np.arange(pairs) % len(runs)] for runs in (first, second))
    change = (second - first)[:, (first != second).any((0, 2, 3))]  # swapping equal predictions changes nothing
    count = change.shape[1]
    total = [runs.sum(1, keepdims=True).swapaxes(0, 1) for runs in (first, second)]  # (1, pairs, C, C)

    def moved(swaps: np.ndarray) -> dict[str, np.ndarray]:
        change_of_sum = np.tensordot(swaps, change, (1, 1))  # (swaps, pairs, C, C)
        one, other = measures_of(total[0] + change_of_sum), measures_of(total[1] - change_of_sum)
        return {name: (other[name] - one[name]).mean(-1) for name in one}

    observed = {name: abs(float(value[0])) for name, value in moved(np.zeros((1, count))).items()}
    exact = count <= _EXACT
    # Swapping the other dialogues instead changes the sign alone, so half of the ways are enough.
    ways = 2 ** max(count - 1, 0) if exact else draws
    rng = np.random.default_rng(seed)
    beyond = dict.fromkeys(observed, 0)
    for start in range(0, ways, _AT_ONCE):
        some = np.arange(start, min(start + _AT_ONCE, ways))
        swaps = some[:, None] >> np.arange(count) & 1 if exact else rng.integers(0, 2, (len(some), count))
        for name, values in moved(swaps.astype(np.float64)).items():
            beyond[name] += int((np.abs(values) >= observed[name] - _ROUNDING).sum())
    # The observed way is among those enumerated; it counts as one more among those drawn.
    return {name: n / ways if exact else (n + 1) / (ways + 1) for name, n in beyond.items()}


def _bounds(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b))), where=np.asarray(b) > 0)
