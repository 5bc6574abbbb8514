"""What to extract: the options of `erc-toolkit extract`, declared once, and which extractor they choose for a
modality.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...toolkit.manifest import MODALITIES
from .option import CheckedOptions, option, option_specs

# The feature sets of the opensmile package and the DenseNets of `face_network.ARCHITECTURES`, named here so that
# `--help` imports neither; tests compare them.
AUDIO_SETS = (
    "ComParE_2016",
    "IS09",
    "IS10",
    "IS11",
    "IS12",
    "IS13",
    "GeMAPS",
    "GeMAPSv01b",
    "eGeMAPS",
    "eGeMAPSv01b",
    "eGeMAPSv02",
    "emobase",
)
DENSENETS = ("densenet121", "denseface")
PRECISIONS = ("float32", "bfloat16", "float16")
POOLINGS = ("cls", "mean", "last4", "last4-mean")
# Registered names of the built-in extractors.
TEXT_MODEL, OPENSMILE, SPEECH_MODEL = "text-model", "opensmile", "speech-model"
FACE_NETWORK, IMAGE_MODEL = "face-network", "image-model"
_VISUAL = (FACE_NETWORK, IMAGE_MODEL)


@dataclass(frozen=True)
class Options(CheckedOptions):
    """What to extract and how; the fields are the options of `erc-toolkit extract`, in the order of its help.

    Raises:
        UserError: a value that the option cannot have.
    """

    modalities: tuple[str, ...] = option(MODALITIES, help="Which to extract, with commas.", choices=MODALITIES)
    text_model: str = option(
        "roberta-large", help="Hub name, or a folder with the model.", makes=("text",), of=(TEXT_MODEL,)
    )
    pooling: str = option(
        "mean",
        choices=POOLINGS,
        help="How the tokens' vectors become one; last4 stores the last four layers' <s>, a matrix each.",
        makes=("text",),
        of=(TEXT_MODEL,),
    )
    text_context: int = option(
        0,
        low=0,
        high=100,
        metavar="K",
        help="Let the text model read the K utterances before, with speakers' names.",
        makes=("text",),
        of=(TEXT_MODEL,),
    )
    audio_set: str = option(
        "ComParE_2016",
        choices=AUDIO_SETS,
        help="openSMILE feature set; functionals.",
        makes=("audio",),
        of=(OPENSMILE,),
    )
    audio_model: str | None = option(
        None,
        metavar="NAME|DIR",
        help="A speech encoder of transformers (wav2vec2, hubert, wavlm, …) in place of openSMILE: hub name, "
        "or a folder.",
        makes=("audio",),
        of=(SPEECH_MODEL,),
    )
    visual_model: str = option(
        "densenet121",
        metavar="NAME|DIR",
        help="Network over the face crops: densenet121 (1024), denseface (the field's 342), vit, or any image "
        "encoder of transformers: hub name, or a folder.",
        makes=("visual",),
        of=_VISUAL,
    )
    visual_weights: str = option(
        "imagenet",
        metavar="imagenet|random|FILE",
        help="A DenseNet's weights: torchvision's, untrained from a fixed seed, or a .safetensors or .pt file.",
        makes=("visual",),
        of=(FACE_NETWORK,),
    )
    normalisation: str | None = option(
        None,
        metavar="MEAN,STD",
        help="Of the crops' grey levels, 0 to 255, in place of the network's own; for denseface also ferplus, "
        "iemocap, meld.",
        makes=("visual",),
        of=_VISUAL,
    )
    extractors: tuple[str, ...] = option(
        (),
        metavar="NAME",
        help="An extractor of another package, by the name it is registered with, in place of its modality's own "
        "(docs/how-to/extractors.md). May be given for each modality.",
    )
    extractor_options: Mapping[str, object] = option(
        {}, metavar="NAME.KEY=VALUE", help="An option of such an extractor. May be given repeatedly."
    )
    sequences: bool = option(
        False,
        help="Keep the frames behind each vector as well: low-level descriptors, a speech model's frames, a "
        "vector for each face crop.",
    )
    precision: str = option(
        "float32",
        choices=PRECISIONS,
        help="What the networks run in; features are float32. float32 is exact, the others are fast where the "
        "hardware has them.",
        makes=MODALITIES,
    )
    face_detector: str = option(
        "yunet",
        choices=("yunet", "haar"),
        help="YuNet gives landmarks, and so upright crops.",
        makes=("visual",),
    )
    face_model: Path | None = option(
        None, help="The detector's file. Default: YuNet's from the hub; Haar's from OpenCV.", makes=("visual",)
    )
    face_margin: float = option(
        0.1,
        low=0,
        high=2,
        help="Added around the face on each side, as a fraction of its own.",
        makes=("visual",),
    )
    fps: float = option(5.0, low=0.1, high=60, help="Frames looked at in each second of video.", makes=("visual",))
    most_frames: int = option(100, low=1, high=100_000, makes=("visual",), on_command_line=False)
    save_crops: Path | None = option(None, folder=True, help="Write each utterance's face crops to this folder.")
    device: str = option("auto", help="auto, cpu or cuda, for the encoders.")
    part_size: int = option(32, low=1, help="Utterances that are finished, and written, together.")
    time_limit: float = option(1800.0, low=1, help="Seconds after which decoding a file is given up.")
    log_json: bool = option(False, help="Progress as JSON lines on standard error.")
    workers: int = option(0, low=0, default_text="one a core", help="Processes that decode.")


# The options that make a modality's features what they are. The store keeps them, so that the same can be done to
# other files.
MAKING: dict[str, tuple[str, ...]] = {
    modality: tuple(name for name, spec in option_specs(Options).items() if modality in spec.makes)
    for modality in MODALITIES
}


def built_in_extractor(options: Options, modality: str) -> str:
    """The registered name of this package's extractor that the options choose for a modality."""
    if modality == "text":
        return TEXT_MODEL
    if modality == "audio":
        return OPENSMILE if options.audio_model is None else SPEECH_MODEL
    return FACE_NETWORK if options.visual_model in DENSENETS else IMAGE_MODEL


def making(options: Options, modality: str) -> dict[str, object]:
    """The options that the features of a modality's built-in extractor depend on, as JSON holds them."""
    return recordable(options, MAKING[modality])


def recordable(options: CheckedOptions, names: Iterable[str]) -> dict[str, object]:
    """Values of options as JSON holds them; one that names a file or folder by its absolute path."""
    specs, found = option_specs(type(options)), {}
    for name in names:
        value = getattr(options, name)
        may_be_file = isinstance(value, (str, Path)) and not specs[name].choices
        found[name] = str(Path(value).resolve()) if may_be_file and Path(value).exists() else value
        if isinstance(found[name], Path):
            found[name] = str(found[name])
    return found
