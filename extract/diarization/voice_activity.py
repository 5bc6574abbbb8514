"""Where there is voice: silero-vad's network over windows of 32 ms, and the pieces of a long recording."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import file_sha256
from .requirements import installed_versions

RATE = 16_000
WINDOW = 512  # samples, as the network was trained; it also sees the 64 before them
_CONTEXT = 64
WINDOW_S = WINDOW / RATE
# The package's own defaults: voice begins above the first and ends below the second.
_BEGINS, _ENDS = 0.5, 0.35
# A shorter silence splits no voice, and what is shorter is no voice.
_LEAST_SILENCE_S, _LEAST_VOICE_S, PAD_S = 0.2, 0.2, 0.03
# Long pieces are seldom cut, short ones lose little when a run is killed.
PIECE_S, _LONGEST_PIECE_S, _BLOCK_S = 60.0, 120.0, 10.0
_GOOD_CUT_S, _LEAST_CUT_S = 0.5, 0.2


class VoiceActivity(Protocol):
    """What finds voice."""

    def probabilities(self, samples: np.ndarray, state: object = None) -> tuple[np.ndarray, object]:
        """The probability of voice of each window.

        Args:
            samples: float32 (n,), mono at 16 kHz; the last window is filled up with zeros.
            state: what an earlier call on the samples before these returned; None at a beginning. All but the last
                call take a multiple of `WINDOW` samples.

        Returns:
            float32 (ceil(n / WINDOW),) within 0 and 1, and the state after them.
        """
        ...

    def provenance(self) -> dict[str, object]:
        """Name, checksum of the weights, and versions."""
        ...


class Silero:
    """The network that the package silero-vad ships, by ONNX Runtime on the CPU with one thread.

    The package itself is not imported, since its import sets PyTorch's number of threads to 1 for the whole process.

    Raises:
        UserError: the package has no such file.
    """

    def __init__(self) -> None:
        import onnxruntime

        spec = find_spec("silero_vad")
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        path = Path(places[0], "data", "silero_vad.onnx") if places else None
        if path is None or not path.is_file():
            raise UserError("silero-vad has no file data/silero_vad.onnx; pip install --upgrade silero-vad")
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._sha256 = file_sha256(path)

    def probabilities(self, samples: np.ndarray, state: object = None) -> tuple[np.ndarray, object]:
        memory, context = state if isinstance(state, tuple) else (np.zeros((2, 1, 128), np.float32), None)
        context = np.zeros((1, _CONTEXT), np.float32) if context is None else context
        found = np.zeros(-(-len(samples) // WINDOW), np.float32)
        rate = np.array(RATE, np.int64)
        for i in range(len(found)):
            part = samples[None, i * WINDOW : (i + 1) * WINDOW]
            if part.shape[1] < WINDOW:
                part = np.pad(part, ((0, 0), (0, WINDOW - part.shape[1])))
            inputs = {"input": np.concatenate([context, part], axis=1), "state": memory, "sr": rate}
            output, memory = map(np.asarray, self._session.run(None, inputs))
            found[i], context = output[0, 0], part[:, -_CONTEXT:]
        return found, (memory, context)

    def provenance(self) -> dict[str, object]:
        return {
            "model": "silero-vad",
            "weights_sha256": self._sha256,
            "versions": installed_versions("silero-vad", "onnxruntime"),
            "parameters": {
                "begins_above": _BEGINS,
                "ends_below": _ENDS,
                "least_silence_s": _LEAST_SILENCE_S,
                "least_voice_s": _LEAST_VOICE_S,
                "pad_s": PAD_S,
            },
        }


def voiced_spans(probabilities: np.ndarray) -> list[tuple[float, float]]:
    """The spans of voice in seconds, in order and apart from each other.

    Args:
        probabilities: float (windows,), each of `WINDOW_S`, from time 0.
    """
    spans: list[list[float]] = []
    begun: int | None = None
    for i, p in enumerate([*probabilities.tolist(), 0.0]):
        if begun is None and p >= _BEGINS:
            begun = i
        elif begun is not None and p < _ENDS:
            start, end = begun * WINDOW_S, i * WINDOW_S
            if spans and start - spans[-1][1] < _LEAST_SILENCE_S:
                spans[-1][1] = end
            else:
                spans.append([start, end])
            begun = None
    last = len(probabilities) * WINDOW_S
    return [(max(0.0, start - PAD_S), min(last, end + PAD_S)) for start, end in spans if end - start >= _LEAST_VOICE_S]


def voice_goes_on(voice: bool, probability: float) -> bool:
    """Whether there is voice in a window, after one with or without."""
    return probability >= (_ENDS if voice else _BEGINS)


def quietest_window(probabilities: np.ndarray) -> int:
    """The window to cut a long voice at, float (windows,), in its second half: in a silence if there is one."""
    cut = _cut(probabilities, forced=True)
    assert cut is not None
    return max(1, cut)


def next_piece(
    activity: VoiceActivity, samples: np.ndarray, start: int, piece_s: float = PIECE_S
) -> tuple[int, list[tuple[float, float]]]:
    """The piece that begins at a sample: it ends in a silence, so that no word is cut where that can be avoided.

    It depends on nothing before `start`, so that an interrupted run continues exactly.

    Args:
        activity: finds voice.
        samples: float32 (n,), the whole recording, mono at 16 kHz.
        start: where the last piece has ended.
        piece_s: about how long a piece is; twice that at most.

    Returns:
        The sample where it ends, and its voiced spans in seconds of the recording.
    """
    block = max(WINDOW, round(_BLOCK_S * RATE) // WINDOW * WINDOW)
    longest = min(_LONGEST_PIECE_S, 2 * piece_s)
    found: list[np.ndarray] = []
    state, at, cut = None, start, None
    while at < len(samples):
        probabilities, state = activity.probabilities(samples[at : at + block], state)
        found.append(probabilities)
        at = min(at + block, len(samples))
        if at == len(samples) and at - start <= piece_s * RATE:
            break
        if at - start >= piece_s * RATE:
            cut = _cut(np.concatenate(found), forced=at - start >= longest * RATE)
            if cut is not None:
                break
    probabilities = np.concatenate(found) if found else np.zeros(0, np.float32)
    end = len(samples) if cut is None else min(len(samples), start + cut * WINDOW)
    if cut is not None:
        probabilities = probabilities[:cut]
    origin, last = start / RATE, end / RATE
    spans = [(origin + a, min(last, origin + b)) for a, b in voiced_spans(probabilities)]
    return end, [(a, b) for a, b in spans if b > a]


def _cut(probabilities: np.ndarray, forced: bool) -> int | None:
    """The window to cut at, in the second half: the middle of the last long silence, or of the longest short one."""
    half = len(probabilities) // 2
    silent = probabilities < _ENDS
    silent[:half] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(np.int8)))
    runs = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    good = [run for run in runs if (run[1] - run[0]) * WINDOW_S >= _GOOD_CUT_S]
    if good:
        return sum(good[-1]) // 2
    fair = [run for run in runs if (run[1] - run[0]) * WINDOW_S >= _LEAST_CUT_S]
    if fair:
        return sum(max(fair, key=lambda run: run[1] - run[0])) // 2
    if not forced:
        return None
    # Somebody speaks without a breath, or there is music: where voice is least likely.
    return half + int(np.argmin(probabilities[half:])) if half < len(probabilities) else len(probabilities)


def total_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """The seconds of all spans together."""
    return sum(end - start for start, end in spans)
