"""Data, not code: label sets, official splits, known defects of the corpora, and training recipes, as YAML."""

from importlib.resources import files


def load(name: str) -> dict:
    """Returns the content of one of this package's YAML files, e.g. load("meld.yaml")."""
    import yaml

    return yaml.safe_load((files(__name__) / name).read_text(encoding="utf-8"))
