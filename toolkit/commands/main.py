"""The top level of `erc-toolkit`: the table of commands, which are imported only when they are called.

Shell completion is click's own: `eval "$(_ERC_TOOLKIT_COMPLETE=bash_source erc-toolkit)"` (or zsh_source,
fish_source).
"""

from __future__ import annotations

from importlib import import_module

import click

from ..base.version import __version__
from .command import ToolkitGroup

# Command -> (module:attribute, one line of help). The help is here so that `--help` imports no command.
COMMANDS = {
    "demo": (
        "erc_toolkit.toolkit.commands.demo:demo_command",
        "Generate a small corpus, then extract, train and evaluate.",
    ),
    "extract": (
        "erc_toolkit.extract.commands.extract:extract_group",
        "Extract features of a raw corpus into a feature store.",
    ),
    "extractors": (
        "erc_toolkit.extract.commands.extractors:extractors_command",
        "List the kinds of features, what each needs, its extra, its licence.",
    ),
    "merge": ("erc_toolkit.extract.commands.merge:merge_command", "Merge the shards of an extraction into one store."),
    "manifest": (
        "erc_toolkit.extract.commands.manifest:manifest_group",
        "Create, validate and summarise manifests, the input of extraction.",
    ),
    "transcribe": (
        "erc_toolkit.extract.commands.transcribe:transcribe_command",
        "Find the turns of a recording: who speaks when, and what they say.",
    ),
    "realign": (
        "erc_toolkit.extract.commands.realign:realign_group",
        "Find the words of a corpus in its audio: an overlay of corrected spans.",
    ),
    "info": (
        "erc_toolkit.toolkit.commands.info:info_command",
        "Show a feature store's contents, provenance and missing features.",
    ),
    "convert": (
        "erc_toolkit.toolkit.commands.convert:convert_command",
        "Convert other projects' feature files to a feature store.",
    ),
    "export": (
        "erc_toolkit.toolkit.commands.export:export_command",
        "Write a store as files that other projects' loaders read.",
    ),
    "card": (
        "erc_toolkit.toolkit.commands.card:card_command",
        "Write a store's dataset card: contents, provenance, licences.",
    ),
    "reduce": (
        "erc_toolkit.extract.commands.reduce:reduce_command",
        "Add a feature with fewer dimensions, fitted on the training split.",
    ),
    "finetune-text": (
        "erc_toolkit.extract.commands.finetune_text:finetune_text_command",
        "Fine-tune a text model on a corpus's utterances.",
    ),
    "finetune-speech": (
        "erc_toolkit.extract.commands.finetune_speech:finetune_speech_command",
        "Fine-tune a speech model on a corpus's utterances.",
    ),
    "train-face": (
        "erc_toolkit.extract.commands.train_face:train_face_command",
        "Train the 342-dimensional face network on labelled faces.",
    ),
    "train": ("erc_toolkit.train.commands.train:train_command", "Train a model on a feature store."),
    "models": (
        "erc_toolkit.train.commands.models:models_command",
        "List the models: papers, parameters, how completely they are specified.",
    ),
    "eval": ("erc_toolkit.train.commands.eval:eval_command", "Evaluate a trained model: a table of scores, or JSON."),
    "predict": (
        "erc_toolkit.toolkit.commands.predict:predict_command",
        "Classify the emotion of every turn of a new recording.",
    ),
    "package": (
        "erc_toolkit.train.commands.package:package_command",
        "Package a trained run in a folder that works on other machines.",
    ),
    "leaderboard": (
        "erc_toolkit.train.commands.leaderboard:leaderboard_command",
        "Rank every model on the same features by the same rules.",
    ),
    "study": (
        "erc_toolkit.train.commands.study:study_command",
        "Train variants of a recipe for a paper's tables and figures.",
    ),
    "reproduce": (
        "erc_toolkit.toolkit.commands.reproduce:reproduce_command",
        "Make a paper's tables and figures again, from raw corpora to one page.",
    ),
    "report": (
        "erc_toolkit.train.commands.report:report_command",
        "Write an HTML report on a run or a study: tables, figures, dialogues.",
    ),
    "compare": (
        "erc_toolkit.train.commands.compare:compare_command",
        "Show differences between runs and whether they are significant.",
    ),
}


class LazyGroup(ToolkitGroup):
    """A group whose commands are imported on first use."""

    def __init__(self, *args, lazy: dict[str, tuple[str, str]] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self._lazy:
            return super().get_command(ctx, name)
        module, attribute = self._lazy[name][0].split(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="erc-toolkit")
def main() -> None:
    """Multimodal emotion recognition in conversations, from raw video, audio and transcripts to a trained model."""


if __name__ == "__main__":
    main()
