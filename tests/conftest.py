"""Shared fixtures: the folder of real corpora next to the checkout, small stores, a tiny text encoder."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path

# Before anything imports torch: at the sizes of tests a second thread waits more than it works, the more so on a busy
# machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test writes to the user's cache folder; models that are there are still found.
os.environ.update(
    {
        name: os.environ.get(name)
        or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), folder)
        for name, folder in (("HF_HOME", "huggingface"), ("TORCH_HOME", "torch"), ("MPLCONFIGDIR", "matplotlib"))
    }
)
# No test depends on what is on a hub; those of the download replace what would be asked.
os.environ["HF_HUB_OFFLINE"] = "1"
# What a script runs in the background ignores Ctrl-C, and so would the processes that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "user")

import numpy as np
import pytest
from filelock import FileLock

from erc_toolkit.toolkit.base.cores import core_count

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


class _Collection:
    """Configuration of pytest for the collection of this checkout."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """The checkout is the package itself; pytest would import it again under the name of the folder."""
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_auto_num_workers(self, config: pytest.Config) -> int:
        """The cores that this process may use; xdist would count all of the machine's."""
        return core_count()


SLOW_TIMEOUT = 1800
LONG = 1000  # tests that one marked `long` counts for


@pytest.hookimpl(trylast=True)  # after others have left out what is not to run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    weights = Counter[Path]()
    for item in items:
        weights[item.path] += LONG if item.get_closest_marker("long") else 1
    items.sort(key=lambda item: -weights[item.path])  # modules are handed out in this order, and the last ones alone
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


def pytest_configure(config: pytest.Config) -> None:
    # As a separate plugin, since the hooks of a conftest do not apply to the folders above it.
    config.pluginmanager.register(_Collection(), "collection of the checkout")


@pytest.fixture(scope="session")
def shared() -> Path:
    """../shared next to the checkout, with real media; tests that need it are skipped if it is absent."""
    if not (SHARED / "corpora" / "meld-mini").is_dir():
        pytest.skip("the folder ../shared with real corpora is missing")
    return SHARED


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory) -> Path:
    """A tiny untrained RoBERTa with a tokenizer, as a folder in the format of transformers."""
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    texts = ["I am so happy to see you!", "What do you want from me?", "This is the worst day of my life."] * 3
    return make_text_encoder(tmp_path_factory.mktemp("encoder"), texts)


@pytest.fixture
def utterances():
    """Nine dialogues of 1 to 9 utterances: two speakers, two labels, some unlabelled, three splits."""
    from erc_toolkit.toolkit.manifest import Utterance

    return [
        Utterance(
            id=f"d{d}_u{i}",
            dialogue=f"d{d}",
            position=i,
            speaker="AB"[i % 2],
            text=f"naïve text {i}",
            label=("joy", None, "sadness")[i % 3],
            split=("train", "val", "test")[d % 3],
            media=f"clips/d{d}_u{i}.mp4",
            start=0.5 * i if i else None,
            end=0.5 * i + 1 if i else None,
        )
        for d in range(9)
        for i in range(d + 1)
    ]


@pytest.fixture
def store_path(tmp_path, utterances) -> Path:
    """A store of these utterances with one audio and one text feature; every fifth utterance has no audio."""
    from erc_toolkit.toolkit.store import StoreWriter

    n = len(utterances)
    rng = np.random.default_rng(0)
    present = np.arange(n) % 5 != 0
    path = tmp_path / "store.h5"
    with StoreWriter(
        path, corpus="small", labels=["joy", "sadness"], utterances=utterances, command="made by a test"
    ) as w:
        w.add_feature(
            "audio",
            "IS10",
            rng.normal(size=(n, 700)),
            present,
            ["" if p else "no audio track" for p in present],
            attrs={"extractor": "random", "parameters": {"seed": 0}},
            details={"seconds": np.arange(n) / 10},
            dimension_names=[f"pcm_{i}" for i in range(700)],
        )
        w.add_feature("text", "org/name", rng.normal(size=(n, 8)), np.ones(n, bool), [""] * n)
    return path


@pytest.fixture(scope="session")
def intact(tmp_path_factory) -> Path:
    """A small demo corpus of four dialogues; do not change it: the processes of pytest-xdist share it."""
    from erc_toolkit.toolkit.demo.corpus import make_corpus

    base = tmp_path_factory.getbasetemp()
    shared_by_all = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared_by_all / "intact.lock"):
        make_corpus(shared_by_all / "intact", seed=3, train=2, dev=1, test=1)  # keeps a finished one
    return shared_by_all / "intact"


@pytest.fixture(scope="session")
def raw(intact, tmp_path_factory) -> Path:
    """The small demo corpus with every kind of defect found in real downloads."""
    from erc_toolkit.toolkit.demo.clips import write_clip

    root = tmp_path_factory.mktemp("raw") / "raw"
    shutil.copytree(intact, root)
    clips = root / "train_splits"
    first = clips / "dia0_utt0.mp4"
    first.write_bytes(first.read_bytes()[:4000])
    (clips / "dia0_utt1.mp4").unlink()
    grey = [np.full((240, 320, 3), 120, np.uint8)] * 15
    black = [np.zeros((240, 320, 3), np.uint8)] * 15
    tone = (0.3 * np.sin(np.arange(48000) / 30)).astype(np.float32)
    write_clip(clips / "dia0_utt2.mp4", grey, None)
    write_clip(clips / "dia0_utt3.mp4", black, np.zeros(48000, np.float32))
    write_clip(clips / "dia0_utt4.mp4", None, tone)
    (clips / "dia1_utt0.mp4").write_bytes(b"")
    (clips / "._dia1_utt1.mp4").write_bytes(b"\0" * 64)
    for path in root.rglob("*.mp4"):  # of a file that was written a moment before, a store does not keep the identity
        os.utime(path, (1_500_000_000, 1_500_000_000))
    return root
