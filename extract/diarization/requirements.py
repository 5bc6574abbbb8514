"""What transcribing needs: the models that it uses by default, and its optional packages. Nothing heavy is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from ...toolkit.base.extras import require_extra

ASR_MODEL, SPEAKER_MODEL = "small", "microsoft/wavlm-base-plus-sv"
_PACKAGES = {"silero_vad": "silero-vad", "faster_whisper": "faster-whisper", "onnxruntime": "onnxruntime"}


def require_packages() -> None:
    """Checks that the packages of the extra are installed, without importing them.

    Raises:
        UserError: one is not; names it and the command that installs it.
    """
    for module, package in _PACKAGES.items():
        require_extra("finding the turns of a recording", package, "recordings", module)


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of packages, for provenance; "unknown" where a package has no metadata."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
