"""Action units and head pose of the speaker's face, measured by py-feat and averaged over the utterance.

`erc-toolkit extract CORPUS ROOT --modalities visual --extractor action-units --face-margin 0.5` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from erc_toolkit.extract.encoders.base import (
    CheckedOptions,
    Crops,
    Extracted,
    Extractor,
    FrameSeries,
    Provenance,
    Setup,
    option,
)
from erc_toolkit.toolkit.base.errors import UserError

UNITS = [f"AU{n:02}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)]
POSE = ["Pitch", "Roll", "Yaw"]


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of the extractor."""

    batch: int = option(16, low=1, high=1024, help="Crops that py-feat measures at once.", changes_numbers=False)


class ActionUnits(Extractor):
    """Probabilities of 20 action units, 0 to 1, and the head's pitch, roll and yaw in radians, 23 numbers.

    py-feat looks for the face in each crop again. A crop in which it finds none is left out; an utterance without any
    other is absent. Of several faces it is the one with the highest score.

    Args:
        options: an instance of `Options`.
        setup: the settings of the run.

    Raises:
        UserError: py-feat is not installed.
    """

    modality = "visual"
    Options = Options
    gives_sequences = True

    def __init__(self, options: Options, setup: Setup) -> None:
        try:
            from feat import Detectorv2  # here, since it takes seconds and only extraction needs it
        except ImportError as error:
            raise UserError(f"extractor action-units: needs py-feat; pip install py-feat ({error})") from None
        self.options, self.device = options, setup.device.type
        self.detector = Detectorv2(device=self.device, identity_model=None)
        self.name = "action-units"
        self.wants = Crops(224)
        self.dimension_names = [*UNITS, *(one.lower() for one in POSE)]
        self.dim = len(self.dimension_names)
        self.frame_width = self.dim if setup.sequences else 0
        self.frame_names = self.dimension_names if setup.sequences else ()
        self.details = {"measured": np.int32}

    def extract(self, utterances: Sequence[FrameSeries], done: Callable[[int], None]) -> Iterable[Extracted]:
        for one in utterances:
            numbers, places = self.measured(one.images)
            if not len(places):
                yield Extracted(None, f"no face for py-feat: {len(one.images)} crops")
                continue
            mean = numbers.mean(0, dtype=np.float64).astype(np.float32)
            yield Extracted(mean, "", numbers, one.times[places], {"measured": len(places)})

    def measured(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers float32 (faces, 23) of the crops uint8 (n, 224, 224, 3) with a face, and their indices (faces,)."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        found = self.detector.detect(
            pixels, data_type="tensor", batch_size=self.options.batch, num_workers=0, progress_bar=False
        )
        numbers = found[[*UNITS, *POSE]].to_numpy(np.float32)
        places, scores = found["frame"].to_numpy(int), found["FaceScore"].to_numpy(float)
        order = np.lexsort((-scores, places))
        order = order[np.isfinite(numbers[order]).all(1) & (scores[order] > 0)]  # no face: a row without numbers
        places, first = np.unique(places[order], return_index=True)
        return numbers[order][first], places

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        return {
            "model": "py-feat Detectorv2: action units and head pose",
            "versions": {"py-feat": version("py-feat"), "torch": torch.__version__},
            "parameters": {"pooling": "mean over crops with a face", "pose": "radians", "dtype": "float32"},
            "device": self.device,
            "licence": "py-feat's network is for research only; see huggingface.co/py-feat/face_multitask_v2",
        }
