"""Finished runs of other studies, taken over where a study needs exactly the same run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ...toolkit.base.hashes import json_sha256
from ..loop.run_folder import FILES, RESULT, read_result, write_result


class KnownRuns:
    """The finished runs below some folders, by their fingerprint: settings with the seed, features, store, device type.

    Args:
        folders: of runs or studies; those that do not exist have none.

    Attributes:
        taken: number of runs that have been copied.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._found: dict[str, Path] = {}
        self.taken = 0
        for folder in folders:
            for path in sorted(folder.rglob(RESULT)):
                if (result := read_result(path.parent)) is not None and isinstance(result.get("fingerprint"), dict):
                    self._found.setdefault(json_sha256(result["fingerprint"]), path.parent)

    def take(self, fingerprint: dict[str, str], folder: Path) -> Path | None:
        """Copies the run with this fingerprint to the folder of a run that is not finished.

        Returns:
            The folder that it was copied from, or None if there is no such run.
        """
        source = self._found.get(json_sha256(fingerprint))
        result = None if source is None else read_result(source)
        if source is None or result is None or source.resolve() == folder.resolve():
            return None
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if name != RESULT and (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        result["result"]["run"] = str(folder)
        write_result(folder, result)  # last: its presence means that the run is finished
        self.taken += 1
        return source
