"""The description of a paper's reproduction: a YAML file in manifests/reproductions/.

title: AMB-DSGDN
corpora: {iemocap: IEMOCAP}          # names of readers of raw corpora, and for display
preset: paper                        # of the features
budgets:
  quick:                             # every key may be omitted
    seeds: 1
    recipe: demo                     # instead of the one named after the corpus
    settings: {train.epochs: 4}      # of every study
        leave_out: [cost]                # studies that are not run
    finetune-text: {epochs: 1}       # options of these commands
    train-face: {epochs: 1}
studies:
  window: {}                         # a study of the toolkit, in the order of training
  heads: {quick: {grid: {...}}}      # keys of the study file that a budget replaces
figures: {Fig. 4: heads}             # what the page shows of which study
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

FULL = "full"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is trained.

    Attributes:
        name: "full" or "quick".
        seeds: runs of each variant, unless the user asks for another number.
        recipe: of every study; None for the one named after the corpus.
        settings: "section.key" to value, for every study.
        leave_out: names of studies.
        options: command to its options.
    """

    name: str
    seeds: int
    recipe: str | None
    settings: dict[str, object]
    leave_out: list[str]
    options: dict[str, dict[str, object]]

    def arguments(self, command: str) -> list[str]:
        """The options of a command as they are typed."""
        return [text for key, value in self.options.get(command, {}).items() for text in (f"--{key}", str(value))]


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper whose tables can be made again.

    Attributes:
        name: of its file.
        title: for display.
        corpora: name of a corpus's reader to its name for display.
        preset: the features' preset.
        studies: study to budget to the keys of the study file that this budget replaces.
        figures: figure of the paper to the study that shows it.
    """

    name: str
    title: str
    corpora: dict[str, str]
    preset: str
    studies: dict[str, dict[str, dict[str, Any]]]
    figures: dict[str, str]
    _budgets: dict[str, dict[str, Any]]

    def budget(self, name: str) -> Budget:
        """One of the budgets."""
        given = dict(self._budgets[name])
        return Budget(
            name,
            given.pop("seeds", 1),
            given.pop("recipe", None),
            given.pop("settings", {}),
            given.pop("leave_out", []),
            given,
        )


def paper_names() -> list[str]:
    """Names of the papers that can be reproduced."""
    folder = resources.files("erc_toolkit.manifests") / "reproductions"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_paper(name: str) -> Paper:
    """Loads a description that comes with the toolkit: one of `paper_names`."""
    file = resources.files("erc_toolkit.manifests") / "reproductions" / f"{name}.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return Paper(
        name,
        content["title"],
        content["corpora"],
        content["preset"],
        content["studies"],
        content["figures"],
        content["budgets"],
    )
