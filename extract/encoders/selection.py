"""The options of `erc-toolkit extract`, declared once, and the built-in extractors that they select."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...toolkit.manifest import MODALITIES
from .option import CheckedOptions, option, option_specs

# The feature sets of the opensmile package and the DenseNets of `face_network.ARCHITECTURES`, repeated here so that
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
    "prosody",  # our own: `encoders/audio/prosody.py`
)
DENSENETS = ("densenet121", "denseface")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
TORCH, OPENVINO, AUTO = "torch", "openvino", "auto"
RUNTIMES = (TORCH, OPENVINO, AUTO)
POOLINGS = ("cls", "mean", "last", "last4", "last4-mean")
AUDIO_POOLINGS = ("mean", "mean+std", "attentive")
# Registered names of the built-in extractors.
TEXT_MODEL, OPENSMILE, SPEECH_MODEL = "text-model", "opensmile", "speech-model"
PROSODY = "prosody"
FACE_NETWORK, IMAGE_MODEL, VIDEO_MODEL = "face-network", "image-model", "video-model"
WITHOUT_NETWORK = (OPENSMILE, PROSODY)  # openSMILE's, which run on any processor and in no precision
_VISUAL = (FACE_NETWORK, IMAGE_MODEL)


@dataclass(frozen=True)
class Options(CheckedOptions):
    """What to extract and how; the fields are the options of `erc-toolkit extract`, in the order of its help.

    Raises:
        UserError: an invalid value.
    """

    modalities: tuple[str, ...] = option(
        MODALITIES, help="Modalities to extract, separated by commas.", choices=MODALITIES
    )
    text_model: str = option(
        "roberta-large", help="Hub name, or a folder with the model.", makes=("text",), of=(TEXT_MODEL,)
    )
    pooling: str = option(
        "mean",
        choices=POOLINGS,
        help="How to pool the tokens' vectors; last is the last token's, for decoders; last4 stores the vector of <s> "
        "from each of the last four layers, in four matrices.",
        makes=("text",),
        of=(TEXT_MODEL,),
    )
    text_context: int = option(
        0,
        low=0,
        high=100,
        metavar="K",
        help="Give the text model the K preceding utterances as context, with speakers' names.",
        makes=("text",),
        of=(TEXT_MODEL,),
    )
    text_prompt: str | None = option(
        None,
        metavar="emotion|FILE",
        help="Wrap the text in an instruction with the dialogue so far and the speakers' names: emotion, or a text "
        "file with {context}, {speaker} and {text}.",
        makes=("text",),
        of=(TEXT_MODEL,),
    )
    describe: str = option(
        "none",
        choices=("none", "prosody"),
        help="Add a sentence to each text: prosody says loudness, pitch and rate against the speaker's own median.",
        makes=("text",),
        of=(TEXT_MODEL,),
    )
    device_map: bool = option(
        False,
        help="Spread a text model over all GPUs and, if it is larger, the main memory; needs accelerate.",
    )
    audio_set: str = option(
        "ComParE_2016",
        choices=AUDIO_SETS,
        help="openSMILE feature set (functionals).",
        makes=("audio",),
        of=(OPENSMILE,),
    )
    audio_model: str | None = option(
        None,
        metavar="NAME|DIR",
        help="Speech encoder of transformers (wav2vec2, hubert, wavlm, whisper, …) instead of openSMILE: hub name, or "
        "a folder.",
        makes=("audio",),
        of=(SPEECH_MODEL,),
    )
    layers: str = option(
        "last",
        metavar="last|all|I-J|each",
        help="Layers of a speech encoder: the last one, the mean of all or of I to J, or each one, which training can "
        "weigh. Layer 0 is the input of the first.",
        makes=("audio",),
        of=(SPEECH_MODEL,),
    )
    audio_pooling: str = option(
        "mean",
        choices=AUDIO_POOLINGS,
        help="How to pool a speech encoder's frames; attentive weighs them by their likeness to the mean.",
        makes=("audio",),
        of=(SPEECH_MODEL,),
    )
    output: str = option(
        "vectors",
        choices=("vectors", "probs"),
        help="What a fine-tuned text or speech model gives: its vectors, or the probabilities of its classes.",
        makes=("text", "audio"),
        of=(TEXT_MODEL, SPEECH_MODEL),
    )
    visual_model: str = option(
        "densenet121",
        metavar="NAME|DIR",
        help="Network on the face crops: densenet121 (1024 dimensions), denseface (the field's 342), vit, or any image "
        "encoder of transformers: hub name, or a folder.",
        makes=("visual",),
        of=_VISUAL,
    )
    visual_weights: str = option(
        "imagenet",
        metavar="imagenet|random|FILE",
        help="Weights of a DenseNet: torchvision's, untrained with a fixed seed, or a .safetensors or .pt file.",
        makes=("visual",),
        of=(FACE_NETWORK,),
    )
    runtime: str = option(
        TORCH,
        choices=RUNTIMES,
        help="What computes a DenseNet on the CPU: PyTorch, or OpenVINO, with the same values up to rounding; auto is "
        "what is measured to be faster here.",
        makes=("visual",),
        of=(FACE_NETWORK,),
    )
    normalisation: str | None = option(
        None,
        metavar="MEAN,STD",
        help="Mean and standard deviation of the crops' grey levels, 0 to 255, instead of the network's own; for "
        "denseface also ferplus, iemocap, meld.",
        makes=("visual",),
        of=_VISUAL,
    )
    crop: str = option(
        "face",
        choices=("face", "frame"),
        help="What an image encoder sees: the speaker's face, or whole frames.",
        makes=("visual",),
        of=(IMAGE_MODEL,),
    )
    visual_kind: str = option(
        "auto", choices=("auto", "image", "video"), makes=("visual",), of=_VISUAL, on_command_line=False
    )
    name: str | None = option(None, makes=MODALITIES, on_command_line=False)
    features: tuple[str, ...] = option(
        (),
        metavar="KIND[:MODEL][@KEY=VALUE,…]",
        help="A feature to extract, e.g. speech:microsoft/wavlm-large@layers=6-12. May be given repeatedly; each file "
        "is decoded once for all of them. erc-toolkit extractors lists the kinds. Instead of --modalities and the "
        "options that name models.",
    )
    feature_set: Path | None = option(
        None, flag="--features", metavar="FILE.yaml", help="A file with a list of such features."
    )
    extractors: tuple[str, ...] = option(
        (),
        metavar="NAME",
        help="Registered name of another package's extractor, which replaces the built-in one of its modality "
        "(docs/how-to/extractors.md). May be given once per modality.",
    )
    extractor_options: Mapping[str, object] = option(
        {}, metavar="NAME.KEY=VALUE", help="Option of such an extractor. May be given repeatedly."
    )
    sequences: bool = option(
        False,
        help="Also keep the sequence behind each vector: low-level descriptors, the frames of a speech model, one "
        "vector per face crop.",
    )
    audio_track: int | None = option(
        None,
        low=1,
        metavar="N",
        help="Number of the audio track to use, from 1, where files have several. Default: the one that the file marks "
        "as its default, else the first.",
    )
    precision: str = option(
        "float32",
        choices=(*PRECISIONS, "auto"),
        help="Precision of the networks; features are always float32. float32 is exact, the others are faster on "
        "hardware that supports them; tf32 needs CUDA. auto is bfloat16 where it is measured to be faster.",
        makes=MODALITIES,
    )
    face_detector: str = option(
        "yunet",
        choices=("yunet", "haar"),
        help="YuNet also finds landmarks, by which crops are rotated upright.",
        makes=("visual",),
    )
    face_model: Path | None = option(
        None,
        help="Model file of the detector. Default: YuNet's from the hub; Haar's from OpenCV.",
        makes=("visual",),
    )
    face_margin: float = option(
        0.1,
        low=0,
        high=2,
        help="Margin on each side of the face, as a fraction of the face's side.",
        makes=("visual",),
    )
    smallest_face: float | None = option(
        None,
        low=0.02,
        high=1,
        metavar="FRACTION",
        help="Smallest face to be found, as a fraction of the image's height: larger is faster, as each image is "
        "searched at a smaller size. Default: as small as the detector can.",
        makes=("visual",),
    )
    speaker_choice: str = option(
        "auto",
        choices=("auto", "lips", "motion"),
        help="How the speaker is chosen among several faces: LR-ASD's network on lips and audio, or the motion of the "
        "mouth; auto is lips if the weights are there or can be fetched.",
        makes=("visual",),
    )
    lips_model: Path | None = option(
        None,
        help="LR-ASD's weights. Default: its authors' file for AVA, fetched once (3.4 MB).",
        makes=("visual",),
    )
    off_screen: str = option(
        "mask",
        choices=("mask", "keep", "mask-single"),
        help="An utterance with several faces none of which speaks, by lips; mask-single also scores and masks where "
        "there is only one face.",
        makes=("visual",),
    )
    when_unsure: str = option(
        "keep",
        choices=("keep", "mask"),
        help="An utterance whose speaker's face is chosen with less than --least-confidence.",
        makes=("visual",),
    )
    least_confidence: float = option(0.6, low=0, high=1, help="See --when-unsure.", makes=("visual",))
    fps: float = option(5.0, low=0.1, high=60, help="Frames sampled per second of video.", makes=("visual",))
    most_frames: int = option(100, low=1, high=100_000, makes=("visual",), on_command_line=False)
    save_crops: Path | None = option(None, folder=True, help="Write each utterance's face crops to this folder.")
    device: str = option("auto", help="Device of the encoders; auto selects CUDA if available.")
    part_size: int = option(32, low=1, help="Number of utterances that are processed and written together.")
    time_limit: float = option(1800.0, low=1, help="Seconds after which decoding of a file is abandoned.")
    check_content: bool = option(
        False, help="Recognise unchanged media files by their content only, even if size and times are as before."
    )
    log_json: bool = option(False, help="Progress as JSON lines on standard error.")
    workers: int = option(0, low=0, default_text="one per core", help="Number of processes that decode media.")


# The options that a set of features replaces.
NAMING = ("modalities", "text_model", "audio_set", "audio_model", "visual_model", "extractors", "extractor_options")
# The options that each modality's features depend on. The store keeps them, so that other files can be processed in the
# same way.
FEATURE_OPTIONS: dict[str, tuple[str, ...]] = {
    modality: tuple(name for name, spec in option_specs(Options).items() if modality in spec.makes)
    for modality in MODALITIES
}


def built_in_extractor(options: Options, modality: str) -> str:
    """The registered name of the built-in extractor that the options select for a modality."""
    if modality == "text":
        return TEXT_MODEL
    if modality == "audio":
        if options.audio_model is not None:
            return SPEECH_MODEL
        return PROSODY if options.audio_set == PROSODY else OPENSMILE
    if options.visual_kind != "auto":
        return VIDEO_MODEL if options.visual_kind == "video" else IMAGE_MODEL
    return FACE_NETWORK if options.visual_model in DENSENETS else IMAGE_MODEL


def feature_options(options: Options, modality: str) -> dict[str, object]:
    """The options that the features of a modality's built-in extractor depend on, as JSON values."""
    return recordable(options, FEATURE_OPTIONS[modality])


def recordable(options: CheckedOptions, names: Iterable[str]) -> dict[str, object]:
    """Values of options as JSON values; files and folders as absolute paths."""
    specs, found = option_specs(type(options)), {}
    for name in names:
        value = getattr(options, name)
        if name == "name" and value is None:  # most features have the name of their model
            continue
        if name == "runtime" and value == TORCH:  # as before there was a choice
            continue
        may_be_file = isinstance(value, (str, Path)) and not specs[name].choices
        found[name] = str(Path(value).resolve()) if may_be_file and Path(value).exists() else value
        if isinstance(found[name], Path):
            found[name] = str(found[name])
    return found
