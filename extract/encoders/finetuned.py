"""The folder of a fine-tuning whose class probabilities are a feature, for text and speech models alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.reading.plain_yaml import load_yaml

RECORD = "finetune.yaml"
_NOTE = (
    "the model has seen the labels of the training split, so its probabilities there are better than on utterances "
    "that it has not seen"
)


@dataclass(frozen=True)
class TunedFolder:
    """What the folder of a fine-tuning says about itself.

    Attributes:
        folder: the folder.
        record: the content of finetune.yaml.
        labels: names of the classes, in the order of the model's scores.
    """

    folder: Path
    record: dict[str, Any]
    labels: tuple[str, ...]

    @classmethod
    def read(cls, name_or_dir: str, option: str, command: str) -> TunedFolder:
        """The folder that an option names.

        Args:
            name_or_dir: value of the option.
            option: e.g. "--text-model", for messages.
            command: that writes such folders, for messages.

        Raises:
            UserError: it is none, or its record is damaged.
        """
        path = Path(name_or_dir) / RECORD
        if not path.is_file():
            raise UserError(
                f"{option} {name_or_dir}: has no classification head with classes of a corpus, which probabilities "
                f"need; give a folder that erc-toolkit {command} wrote"
            )
        try:
            record: Any = load_yaml(path.read_text(encoding="utf-8"))
            labels = record["labels"]
            if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(one, str) for one in labels):
                raise ValueError("its labels are not a list of names")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{option} {name_or_dir}: {RECORD} cannot be read ({one_line(error)})") from None
        return cls(Path(name_or_dir), record, tuple(labels))

    @property
    def name(self) -> str:
        """The name of the feature."""
        return f"{self.folder.resolve().name}-probs"

    @property
    def objective(self) -> str:
        """How the classes are told: "classes", by a head, or "label", by the next word."""
        return str(self.record.get("objective", "classes"))

    def damaged(self, error: Exception) -> UserError:
        """The error that a part of the record cannot be used."""
        return UserError(f"{self.folder}: {RECORD} is damaged ({one_line(error)}); fine-tune again")

    def check_head(self, model: Any) -> None:
        """Raises a UserError if a model's head has another number of classes than the record."""
        if int(model.config.num_labels) != len(self.labels):
            raise UserError(
                f"{self.folder}: the model tells {model.config.num_labels} classes, and {RECORD} names "
                f"{len(self.labels)}; they do not belong together"
            )

    def parameters(self) -> dict[str, Any]:
        """What the provenance of the probabilities says about them."""
        return {
            "output": "probabilities of the classes",
            "classes": list(self.labels),
            "objective": self.objective,
            "trained_on": ["train"],
            "selected_on": ["val"],
            "held_out": list(self.record.get("held_out") or ()),
            "notes": [_NOTE],
        }
