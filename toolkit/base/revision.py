"""The commit that the toolkit was installed from."""

from __future__ import annotations

import functools
import json
import subprocess
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def revision() -> str | None:
    """The commit of the code that runs, followed by "+changes" if files differ from it; None for a release.

    It is that of the repository, if the code runs from one, or what pip recorded when it installed from one.
    """
    if (_ROOT / ".git").exists():
        head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
        return None if not head else head + ("+changes" if changes else "")
    try:
        text = metadata.distribution("erc-toolkit").read_text("direct_url.json")
        found = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
