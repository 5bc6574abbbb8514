"""Class probabilities of a fine-tuned speech model as a feature, so that a graph model can stand on its opinion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import torch
import torchaudio

from ....toolkit.base.errors import UserError
from ....toolkit.media import library_version
from ..base import AudioSpan, Extracted, Extractor, Provenance, Samples, Setup
from ..batching import Batches
from ..finetuned import TunedFolder
from ..selection import Options
from ..weights import DTYPES, checksum
from .heads import Waves, load_classifier
from .resampling import resample
from .waves import run

_CPU_SAMPLES, _GPU_SAMPLES = 8 * 16_000, 8 * 60 * 16_000  # padded samples in a batch
_SHORTEST_S = 0.1  # below, the convolutions of the models leave nothing


class SpeechClassifier(Extractor):
    """A speech model that `erc-toolkit finetune-speech` wrote, and its probabilities of the classes that it learned.

    Args:
        folder: of the fine-tuning.
        device: device of the model.
        precision: "float32", "tf32", "bfloat16" or "float16"; probabilities are float32.

    Raises:
        UserError: the folder is none of a fine-tuning, or has no classification head.
    """

    modality = "audio"
    Options = Options
    wants = Samples(rate=None)
    details: ClassVar[Mapping[str, Any]] = {"seconds_cut": np.float64}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, folder: str, device: torch.device | str = "cpu", precision: str = "float32"):
        self.tuned = TunedFolder.read(folder, "--audio-model", "finetune-speech")
        self.device, self.precision = torch.device(device), precision
        model, prepare = load_classifier(folder, torch.float32, whole=True)
        self.tuned.check_head(model)
        try:
            self.most_seconds = float(self.tuned.record.get("most_seconds", 30.0))
        except (TypeError, ValueError) as error:
            raise self.tuned.damaged(error) from None
        self._waves = Waves(prepare, model.config)
        self._sha256 = checksum(model.state_dict())
        self._model = model.eval().to(self.device, DTYPES[precision])
        labels = self.tuned.labels
        self.name, self.dim, self.dimension_names = self.tuned.name, len(labels), labels
        most = (_CPU_SAMPLES if self.device.type == "cpu" else _GPU_SAMPLES) if self._waves.together else 0
        what, identity = f"audio model {self.name}", f"audio probabilities, weights {self._sha256}"
        self._batches = Batches(what, "padded samples", most, self.device, precision, identity)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> SpeechClassifier:
        """The folder given with --audio-model.

        Raises:
            UserError: as above, or sequences are requested, which probabilities have none of.
        """
        assert options.audio_model is not None
        if setup.sequences:
            raise UserError("--sequences: probabilities have no sequence behind them; leave the option out")
        return cls(options.audio_model, setup.device, setup.precision)

    def extract(self, utterances: Sequence[AudioSpan], done: Callable[[int], None]) -> Iterator[Extracted]:
        """Probabilities float32 (classes,) of each utterance; they are 1 in sum."""
        rate = self._waves.rate
        waves = [resample(span, rate).samples for span in utterances]
        longest = round(self.most_seconds * rate)
        cut = [max(0, len(wave) - longest) / rate for wave in waves]
        waves = [wave[:longest] for wave in waves]
        usable = [i for i, wave in enumerate(waves) if len(wave) >= _SHORTEST_S * rate]
        order = sorted(usable, key=lambda i: (len(waves[i]), i))
        found: dict[int, np.ndarray] = {}
        for batch, rows in self._batches.run(
            [len(waves[i]) for i in order],
            lambda batch: self._waves.inputs([waves[order[k]] for k in batch]),
            self._probabilities,
        ):
            found |= {order[k]: row for k, row in zip(batch, rows, strict=True)}
        for i, wave in enumerate(waves):
            details = {"seconds_cut": cut[i]}
            if i not in found:
                reason = f"audio too short for {self.name}: {len(wave) / rate:.3f} s"
                yield Extracted(None, reason, details=details)
            elif np.isfinite(found[i]).all():
                yield Extracted(found[i], details=details)
            else:
                yield Extracted(None, "the audio model returned NaN or infinity", details=details)

    def _probabilities(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The result of `Waves.inputs`, on the device, to (batch, classes)."""
        return torch.softmax(run(self._model, inputs, DTYPES[self.precision]).logits.float(), -1)

    def provenance(self) -> Provenance:
        """How the probabilities are computed, for the store."""
        return {
            "extractor": "fine-tuned speech model, its class probabilities",
            "model": f"{self.name} ({self._model.config.model_type})",
            "weights_sha256": self._sha256,
            "versions": {
                "transformers": version("transformers"),
                "torch": torch.__version__,
                "torchaudio": torchaudio.__version__,
                "ffmpeg": library_version(),
            },
            "parameters": {
                **self.tuned.parameters(),
                "sample_rate_hz": self._waves.rate,
                "most_seconds": self.most_seconds,
                "resampling": "torchaudio.functional.resample from the track's own rate",
                "channels": "mono mix",
                "dtype": self.precision,
            },
            "device": self.device.type,
            "fine_tuning": self.tuned.record,
        }
