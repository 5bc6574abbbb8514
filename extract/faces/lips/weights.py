"""LR-ASD's released weights: a given file, or the authors' file, fetched once and checked."""

from __future__ import annotations

from pathlib import Path

from ....toolkit.base.errors import UserError, first_line
from ....toolkit.base.hashes import file_sha256

# Trained on AVA-ActiveSpeaker, in the authors' repository at the commit that was checked; 3.4 MB, MIT licence.
URL = "https://github.com/Junhua-Liao/LR-ASD/raw/1b6dcd2d8fc2895683de6508ec6294ec47d388ca/weight/pretrain_AVA.model"
SHA256 = "85e6c77fc981595234790d1e128ebb60352d37726b2445e0ef8891e2512fe9e3"
_NAME = "lr_asd_ava.pt"  # in torch's folder of downloaded weights


def lips_model(given: Path | None) -> tuple[Path, str]:
    """The file of the weights and its SHA-256: the given file, or the released one, from the cache or fetched.

    Raises:
        UserError: a missing file, or the released weights are neither in the cache nor available.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"--lips-model {given}: no such file")
        return given, file_sha256(given)
    import torch.hub

    from ...encoders.hub import hub_unreachable

    path = Path(torch.hub.get_dir()) / "checkpoints" / _NAME
    if not path.is_file():
        if hub_unreachable():  # one quick question whether there is a network; the download itself would wait long
            raise _absent("no network")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256, progress=False)
        except Exception as error:  # offline, refused, full disk, another file: the remedy is the same
            raise _absent(f"{type(error).__name__}: {first_line(error)[:80]}") from None
    if (found := file_sha256(path)) != SHA256:
        raise UserError(f"{path}: SHA-256 {found[:12]}… is not LR-ASD's {SHA256[:12]}…; delete it and try again")
    return path, SHA256


def _absent(reason: str) -> UserError:
    return UserError(
        f"LR-ASD's weights are not on this machine: connect to the network, or pass its authors' "
        f"weight/pretrain_AVA.model with --lips-model FILE; --speaker-choice motion needs none ({reason})"
    )
