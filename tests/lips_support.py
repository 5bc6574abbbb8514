"""Videos of two real people side by side, from the clips of ../shared, and LR-ASD's weights."""

from __future__ import annotations

from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from erc_toolkit.extract.encoders.base import Crops
from erc_toolkit.extract.faces.choice import Choosing
from erc_toolkit.extract.faces.lips.network import ActiveSpeakerNet, _renamed
from erc_toolkit.extract.run.media.pictures import Watched
from erc_toolkit.extract.run.media.requests import MediaRequest, Span, Task
from erc_toolkit.extract.run.media.worker import process

SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = SHARED / "models/lrasd_ava.pt"
FACES = SHARED / "models/yunet_n_640_640.onnx"
CLIPS = SHARED / "corpora/meld-mini"

# Printed by the authors' code and by python_speech_features 0.6, of the inputs of test_lips.py.
AUTHORS = Path(__file__).parent / "data/lr_asd.npz"

needs_shared = pytest.mark.skipif(
    not (WEIGHTS.is_file() and FACES.is_file() and CLIPS.is_dir()),
    reason="needs the real clips, YuNet and LR-ASD's weights of ../shared",
)


def clip(name: str) -> Path:
    return next(path for path in CLIPS.glob(f"*/{name}.mp4"))


def side_by_side(left: list[str], right: list[str], voice: int, seconds: float, out: Path, still: bool = False) -> Path:
    """Two people, each from clips one after another, with the audio of one (0 left, 1 right); `still`: no face moves.

    The right half has no colours, so that the halves can be told apart; the network reads grey levels.
    """
    shown, heard = [], None
    for who, names in enumerate((left, right)):
        streams = []
        for source in [ffmpeg.input(str(clip(name))) for name in names]:
            streams.append(source.video.filter("scale", 640, 360).filter("fps", 24))
            streams += [source.audio] if who == voice else []
        # Together, since audio and video of a clip differ in length; an unused stream would be written as well.
        joined = ffmpeg.concat(*streams, v=1, a=int(who == voice)).node
        shown.append(joined[0])
        heard = joined[1] if who == voice else heard
    if still:
        shown = [one.filter("select", "eq(n,3)").filter("loop", -1, 1, 0).filter("setpts", "N/24/TB") for one in shown]
    shown[1] = shown[1].filter("hue", s=0)
    both = ffmpeg.filter(shown, "hstack")
    job = ffmpeg.output(both, heard, str(out), t=seconds, vcodec="libx264", crf=20, acodec="aac", loglevel="error")
    job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)
    return out


def extracted(path: Path, choosing: Choosing, start: float | None = None, end: float | None = None) -> Watched:
    """What the extraction's worker makes of an utterance."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        request = MediaRequest({"visual": Crops(64)}, "yunet", FACES, 5, 0.1, 100, 600, choosing=choosing)
        (one,) = process((0, Task(path, [Span(0, start, end, None, ["visual"])]), request)).utterances
        return one.watched[Crops]
    finally:
        torch.set_num_threads(threads)


def shows(one: Watched) -> int:
    """Whether the chosen face is that of the left half, which has colours (0), or that of the right half (1)."""
    (series,) = one.series.values()
    colours = np.ptp(series.images.astype(int), axis=3).mean()
    assert not 8 < colours < 14, colours
    return int(colours < 8)


def released(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of random weights under the released names."""
    torch.manual_seed(seed)
    ours = {name: tensor.clone() for name, tensor in ActiveSpeakerNet().state_dict().items()}
    with np.load(AUTHORS) as theirs:
        names = [str(name) for name in theirs["names"]]
    state = {name: ours[inner] for name in names if (inner := _renamed(name)) is not None}
    assert set(map(_renamed, state)) == set(ours)  # every weight has a released name
    return state | {"lossV.FC.weight": torch.zeros(2, 128)}
