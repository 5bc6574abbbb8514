"""examples/face-analysis-plugin through a whole extraction, with a module of py-feat's interface in its place."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from test_extractor_packages import clip, corpus, values_of_run  # noqa: F401 (clip is a fixture)

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.toolkit.store.summary import unpacked

PLUGIN = Path(__file__).parents[1] / "examples" / "face-analysis-plugin"

# What `Detectorv2.detect` documents for tensors: a row per face with the number of its image, and a row without numbers
# for an image in which there is none.
STAND_IN = """
import numpy as np
import pandas as pd
import torch

UNITS = "AU01 AU02 AU04 AU05 AU06 AU07 AU09 AU10 AU11 AU12 AU14 AU15 AU17 AU20 AU23 AU24 AU25 AU26 AU28 AU43".split()


class Detectorv2:
    faces = 2  # in each image; 0 for none

    def __init__(self, device="cpu", face_detection_threshold=0.5, identity_model="arcface"):
        assert device == "cpu" and identity_model is None

    def detect(self, inputs, data_type="image", batch_size=1, num_workers=0, progress_bar=True):
        assert data_type == "tensor" and inputs.dtype == torch.uint8 and inputs.shape[1:] == (3, 224, 224)
        rows = []
        for number, image in enumerate(inputs):
            shade = float(image.float().mean())
            missing = self.faces == 0 or number % 3 == 1
            for face in range(1 if missing else self.faces):
                values = np.full(23, np.nan) if missing else (shade + np.arange(23)) * (1 if face else -1)
                row = dict(zip([*UNITS, "Pitch", "Roll", "Yaw"], values), valence=0.5)
                rows.append({**row, "FaceScore": 0.0 if missing else 0.5 + face / 4, "frame": number, "input": "x"})
        return pd.DataFrame(rows)
"""


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder on the path in which the example and the stand-in are as if installed."""
    folder = tmp_path / "site"
    (folder / "feat").mkdir(parents=True)
    (folder / "feat/__init__.py").write_text(STAND_IN)
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    ((group, entries),) = project["entry-points"].items()
    for name, number, points in (
        (project["name"], project["version"], "".join(f"{key} = {value}\n" for key, value in entries.items())),
        ("py-feat", "2.1.5", None),
    ):
        info = folder / f"{name.replace('-', '_')}-{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        if points:
            (info / "entry_points.txt").write_text(f"[{group}]\n{points}")
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("feat", "erc_toolkit_face_analysis")]:
        del sys.modules[name]


def test_action_units_are_the_best_faces_mean(site, clip, tmp_path):  # noqa: F811
    values_of_run(tmp_path / "s.h5", clip, "action-units", "visual", sequences=True, fps=8.0)
    with FeatureStore.open(tmp_path / "s.h5") as store:
        feature = store.feature("visual/action-units")
        assert feature.dimension_names()[:2] == ["AU01", "AU02"] and feature.dimension_names()[-1] == "yaw"
        assert feature.dim == 23 and feature.present().all()
        frames, times = feature.sequence(0)
        # Of eight crops, numbers 1, 4 and 7 have no face; the face with the higher score has positive numbers.
        assert len(frames) == feature.details()["measured"][0] == 5 and (frames > 0).all()
        assert times == pytest.approx(times[0] + np.array([0, 2, 3, 5, 6]) / 8, abs=0.02)
        np.testing.assert_allclose(np.diff(frames, axis=1), 1, atol=1e-4)
        np.testing.assert_allclose(feature.values()[0], frames.mean(0), rtol=1e-5)
        assert unpacked(feature.attrs["versions"])["py-feat"] == "2.1.5"
        parameters = unpacked(feature.attrs["parameters"])
        assert parameters["crop_pixels"] == 224 and "options" not in parameters


def test_utterances_without_a_face_are_absent(site, clip, tmp_path):  # noqa: F811
    import feat

    feat.Detectorv2.faces = 0
    with pytest.raises(UserError) as error:
        values_of_run(tmp_path / "s.h5", clip, "action-units", "visual")
    assert "no face for py-feat" in error.value.message


def test_without_py_feat_the_remedy_is_named(site, clip, tmp_path):  # noqa: F811
    (site / "feat/__init__.py").unlink()
    (site / "feat").rmdir()
    with pytest.raises(UserError, match="action-units: needs py-feat; pip install py-feat") as error:
        values_of_run(tmp_path / "s.h5", clip, "action-units", "visual")
    assert "\n" not in error.value.message
