"""`extract` and `merge`, disturbed."""

from __future__ import annotations

import shutil

import pytest
from chaos_support import Child, Command, attempt, tries

pytestmark = pytest.mark.slow
SMALL = ["--modalities", "text,audio", "--audio-set", "eGeMAPSv02", "--part-size", "3", "--workers", "2"]


@pytest.fixture(scope="module")
def extraction(raw, text_encoder, tmp_path_factory):
    return Command(
        "extract",
        lambda root: ["extract", "meld", raw, "--out", root / "s.h5", "--text-model", text_encoder, *SMALL],
        locks=True,
    ).learn(tmp_path_factory.mktemp("extract"))


@tries(kill=2, stop=1, worker=1, fill=2, twice=1)
def test_extract(extraction, kind, place, tmp_path, record_property):
    attempt(extraction, kind, place, tmp_path, record_property)


@pytest.fixture(scope="module")
def merging(raw, text_encoder, tmp_path_factory):
    """The folders of two shards, which `merge` removes."""
    made = tmp_path_factory.mktemp("shards")
    for i in (1, 2):
        arguments = ["extract", "meld", raw, "--out", made / f"{i}.h5", "--text-model", text_encoder, *SMALL]
        shard = Child([*arguments, "--shard", f"{i}/2"], made)
        assert shard.wait() == 0, shard.output()

    def prepare(root):
        for i in (1, 2):
            shutil.copytree(made / f"{i}.h5.parts", root / f"{i}.h5.parts")

    return Command(
        "merge",
        lambda root: ["merge", root / "s.h5", root / "1.h5.parts", root / "2.h5.parts"],
        prepare=prepare,
    ).learn(tmp_path_factory.mktemp("merge"))


@tries(kill=2, stop=1, fill=2, twice=1)
def test_merge(merging, kind, place, tmp_path, record_property):
    attempt(merging, kind, place, tmp_path, record_property)
