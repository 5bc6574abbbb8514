"""`reduce`: which rows it is fitted on, that the fit is correct, and that the store stays intact."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from store_support import replace_values
from test_train_support import write_store

from erc_toolkit.extract.reduce import fit, utterances_of
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter

METHODS = ("anova", "pca", "pls")
LABELS = ["anger", "joy", "neutral"]
ROOT_NOTES = '["a clip is odd"]'


def make(path, change=lambda values, utterances: None, labels=LABELS):
    """160 utterances with 12 columns, of which 4, 7 and 9 depend on the class; some rows absent or unlabelled."""
    from erc_toolkit.toolkit.manifest import Utterance

    rng = np.random.default_rng(1)
    n = 160
    classes = rng.integers(3, size=n)
    utterances = [
        Utterance(
            id=f"u{i}",
            dialogue=f"d{i // 4}",
            position=i % 4,
            speaker="BA"[i % 2],
            text=f"naïve {i}",
            split=("train", "val", "test")[i // 4 % 3],
            label=None if i % 7 == 0 else LABELS[classes[i]],
            media="x.mp4" if i % 3 else None,
            start=0.5 if i % 3 else None,
        )
        for i in range(n)
    ]
    values = rng.normal(size=(n, 12)).astype(np.float32) * np.logspace(-3, 3, 12, dtype=np.float32)
    for column in (4, 7, 9):
        values[:, column] += 2 * classes * values[:, column].std()
    values[:, 11] = 0.1  # constant
    present = np.arange(n) % 9 != 0
    change(values, utterances)
    with StoreWriter(
        path,
        corpus="small",
        labels=labels,
        utterances=utterances,
        command="made by a test",
        attrs={"notes": ROOT_NOTES, "corpus_fingerprint": "abc"},
    ) as writer:
        writer.add_feature(
            "audio",
            "x",
            values,
            present,
            ["" if p else "silent" for p in present],
            attrs={"fingerprint": "f00", "licence": "free"},
            dimension_names=[f"pcm_{i}" for i in range(12)],
        )
        writer.add_feature("text", "y", values[:, :3], np.ones(n, bool), [""] * n, details={"tokens": np.arange(n)})
    return path


def reduce(path, *arguments):
    return CliRunner().invoke(main, ["reduce", str(path), "--feature", "audio/x", *map(str, arguments)])


def reduced(path, method, to=3):
    result = reduce(path, "--to", to, "--method", method)
    assert result.exit_code == 0, (result.output, result.exception)
    with FeatureStore.open(path) as store:
        feature = store.feature(f"audio/x-{method}{to}")
        return feature.values(), feature.reduction(), feature.attrs


def used(utterances, i):
    return utterances[i].split == "train" and utterances[i].label is not None and i % 9 != 0


def spoil_unused(values, utterances):
    for i in range(len(values)):
        if not used(utterances, i):
            values[i] = values[i] * -50 + 3
            if utterances[i].split != "train":
                utterances[i] = replace(utterances[i], label=LABELS[i % 3] if i % 4 else None)


def spoil_one_training_row(values, utterances):
    row = next(i for i in range(len(values)) if used(utterances, i))
    values[row] *= -4


def spoil_one_training_label(values, utterances):
    row = next(i for i in range(len(values)) if used(utterances, i) and utterances[i].label == "joy")
    utterances[row] = replace(utterances[row], label="anger")


@pytest.mark.parametrize("method", METHODS)
def test_the_fit_uses_labelled_training_rows_only(tmp_path, method):
    _, plain, attrs = reduced(make(tmp_path / "a.h5"), method)
    _, again, same = reduced(make(tmp_path / "b.h5", spoil_unused), method)
    assert plain.keys() == again.keys() and all(plain[k].tobytes() == again[k].tobytes() for k in plain)
    assert (
        attrs["fitted_sha256"] == same["fitted_sha256"]
        and attrs["source_values_sha256"] != same["source_values_sha256"]
    )
    changes = [spoil_one_training_row] + [spoil_one_training_label] * (method != "pca")  # PCA knows no labels
    for i, change in enumerate(changes):
        _, other, differs = reduced(make(tmp_path / f"c{i}.h5", change), method)
        assert (
            any(plain[k].tobytes() != other[k].tobytes() for k in plain)
            and attrs["fitted_sha256"] != differs["fitted_sha256"]
        )


def slow_f(x, labels):
    """One-way ANOVA's F of each column by its definition, in float64 loops."""
    found = []
    for column in x.astype(np.float64).T:
        groups = [column[labels == c] for c in np.unique(labels)]
        between = sum(len(g) * (g.mean() - column.mean()) ** 2 for g in groups) / (len(groups) - 1)
        within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (len(column) - len(groups))
        found.append(between / within if np.ptp(column) else -np.inf)
    return np.array(found)


def training_rows(path):
    with FeatureStore.open(path) as store:
        feature, labels = store.feature("audio/x"), store.column("label")
        rows = feature.present() & (labels >= 0) & (store.column("split") == "train")
        return feature.values()[rows], labels[rows]


@pytest.mark.parametrize("to", [1, 3, 6])
def test_anova_agrees_with_its_definition(tmp_path, to):
    path = make(tmp_path / "s.h5")
    x, labels = training_rows(path)
    f = slow_f(x, labels)
    best = np.sort(np.argsort(-f)[:to])
    values, fitted, attrs = reduced(path, "anova", to)
    assert fitted["columns"].tolist() == best.tolist() and attrs["fitted_rows"] == len(x)
    assert to != 3 or best.tolist() == [4, 7, 9]
    np.testing.assert_allclose(fitted["f_values"], f[best], rtol=1e-6)
    with FeatureStore.open(path) as store:
        full = store.feature("audio/x")
        assert np.array_equal(values, full.values()[:, best])
        assert store.feature(f"audio/x-anova{to}").dimension_names() == [f"pcm_{i}" for i in best]


def test_pca_agrees_with_singular_vectors(tmp_path):
    path = make(tmp_path / "s.h5")
    x, _ = training_rows(path)
    mean, std = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
    std[11] = 1
    z = (x - mean) / std
    z[:, 11] = 0
    right = np.linalg.svd(z, full_matrices=False)[2][:3]
    values, fitted, _ = reduced(path, "pca")
    signs = np.sign((right.T * fitted["components"]).sum(0))
    np.testing.assert_allclose(fitted["components"], right.T * signs, atol=1e-6)
    with FeatureStore.open(path) as store:
        present, full = store.feature("audio/x").present(), store.feature("audio/x").values()
        assert store.feature("audio/x-pca3").dimension_names() == ["pca-1", "pca-2", "pca-3"]
    expected = (full - fitted["mean"]) / fitted["scale"] @ fitted["components"]
    np.testing.assert_allclose(values[present], expected[present], rtol=1e-4, atol=1e-5)
    assert not values[~present].any()


def test_first_pls_direction_is_that_of_greatest_covariance(tmp_path):
    path = make(tmp_path / "s.h5")
    x, labels = training_rows(path)
    _, fitted, attrs = reduced(path, "pls")
    z = (x - fitted["mean"]) / fitted["scale"]
    one_hot = np.eye(3)[labels]
    left = np.linalg.svd(z.T @ (one_hot - one_hot.mean(0)))[0][:, 0]
    np.testing.assert_allclose(np.abs(fitted["components"][:, 0]), np.abs(left), atol=1e-3)
    scores = z @ fitted["components"]
    np.testing.assert_allclose(np.corrcoef(scores.T), np.eye(3), atol=1e-6)  # PLS scores are orthogonal
    assert '"unconverged_components": 0' in attrs["parameters"]


@pytest.mark.parametrize("method", METHODS)
def test_the_store_stays_intact_and_the_result_is_reproducible(tmp_path, method):
    path, other = make(tmp_path / "s.h5"), make(tmp_path / "t.h5")
    with FeatureStore.open(path) as store:
        before = {
            name: store.column(name)
            for name in ("id", "label", "split", "media", "start_s", "end_s", "speaker", "position", "text")
        }
        full, notes, speakers = store.feature("audio/x").values(), store.attrs["notes"], store.speaker_names
        rows = utterances_of(store)
    reduced(path, method), reduced(other, method)
    with FeatureStore.open(path) as store, FeatureStore.open(other) as twin:
        store.verify()
        assert store.content_hash == twin.content_hash
        assert store.feature_names() == ["audio/x", f"audio/x-{method}3", "text/y"] and store.speaker_names == speakers
        for name, column in before.items():
            np.testing.assert_array_equal(store.column(name), column)
        assert utterances_of(store) == rows
        assert np.array_equal(store.feature("audio/x").values(), full)
        assert store.feature("text/y").details()["tokens"].tolist() == list(range(160))
        new, source = store.feature(f"audio/x-{method}3"), store.feature("audio/x")
        assert np.array_equal(new.present(), source.present()) and np.array_equal(new.reasons(), source.reasons())
        assert (store.attrs["notes"], store.attrs["corpus_fingerprint"]) == (notes, "abc") and notes == ROOT_NOTES
        assert store.attrs["command"].startswith("made by a test && erc-toolkit")
        wanted = {
            "method": method,
            "source": "audio/x",
            "source_fingerprint": "f00",
            "fitted_split": "train",
            "licence": "free",
        }
        assert {k: new.attrs[k] for k in wanted} == wanted and "scikit-learn" in new.attrs["versions"]
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name or "space" in p.name] == []


def test_mistakes_are_one_line_and_leave_the_store_unchanged(tmp_path):
    def all_joy(values, utterances):
        utterances[:] = [replace(u, label="joy" if u.label else None) for u in utterances]

    def unlabelled(values, utterances):
        utterances[:] = [replace(u, label=None) if u.split == "train" else u for u in utterances]

    def three(values, utterances):
        keep = [
            next(i for i, u in enumerate(utterances) if used(utterances, i) and u.label == label) for label in LABELS
        ]
        utterances[:] = [
            u if i in keep or u.split != "train" else replace(u, label=None) for i, u in enumerate(utterances)
        ]

    path = make(tmp_path / "s.h5")
    assert reduce(path, "--to", 3, "--name", "small").exit_code == 0
    cases = [
        (path, ["--feature", "audio/none"], ["'audio/none'"]),
        (path, ["--feature", "audio"], ["'audio'"]),
        (path, ["--to", 13], ["--to 13", "12 columns"]),
        (path, ["--to", 12], ["--to 12", "11 varying columns"]),
        (path, ["--to", 12, "--method", "pca"], ["--to 12", "11 pca directions"]),
        (path, ["--to", 3, "--name", "small"], ["audio/small", "--name"]),
        (path, ["--to", 3, "--name", "audio/small"], ["audio/small", "--name"]),
        (path, ["--to", 3, "--name", "../small"], ["--name '../small'"]),
        (make(tmp_path / "joy.h5", all_joy), ["--to", 3], ["single class"]),
        (make(tmp_path / "none.h5", unlabelled), ["--to", 3], ["no training row"]),
        (make(tmp_path / "three.h5", three), ["--to", 3], ["3 labelled training rows", "3 classes"]),
        (tmp_path / "missing.h5", [], ["missing.h5"]),
    ]
    for store, arguments, facts in cases:
        before = store.read_bytes() if store.exists() else b""
        result = reduce(store, *arguments)
        assert result.exit_code == 1 and all(fact in result.stderr for fact in [*facts, str(store)]), (
            arguments,
            result.output,
            result.exception,
        )
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
        assert not before or store.read_bytes() == before


def test_damage_is_not_given_a_new_hash(tmp_path):
    path = make(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        values = file["features/text/y/values"][:]
        values[3, 1] += 1
        replace_values(file["features/text/y"], values)  # the checksums fit, the content hash does not
    before = path.read_bytes()
    result = reduce(path, "--to", 3)
    assert result.exit_code == 1 and f"{path}: content hash" in result.stderr and result.stderr.count("\n") == 1
    assert path.read_bytes() == before


def test_more_dimensions_than_rows_are_refused():
    from erc_toolkit.toolkit.base.errors import UserError

    x = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
    labels = np.array([0, 1] * 3)
    for method in METHODS:
        with pytest.raises(UserError, match="--to 7 .* 6 labelled training rows"):
            fit(x, labels, 7, method)
    with pytest.raises(UserError, match="--to 6 .* 5 pca directions"):
        fit(x, labels, 6, "pca")  # six centred rows span five


@pytest.mark.parametrize("method", ["pca", "pls"])
def test_directions_that_are_only_rounding_are_refused(method):
    from erc_toolkit.toolkit.base.errors import UserError

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)[:, [0, 0, 1, 1, 2]]
    labels = rng.integers(3, size=60)
    assert fit(x, labels, 3, method).apply(x).shape == (60, 3)
    with pytest.raises(UserError, match=f"--to 4 .* 3 {method} directions"):
        fit(x, labels, 4, method)


def test_pls_reports_how_many_directions_explain_the_labels():
    from erc_toolkit.toolkit.base.errors import UserError

    labels = np.arange(40) % 2
    x = np.stack([labels, np.arange(40) // 2 % 2, np.arange(40) // 4 % 2], 1).astype(
        np.float32
    )  # only the first is informative
    with pytest.raises(UserError, match="--to 2 .* 1 pls direction "):
        fit(x, labels, 2, "pls")


def test_a_projection_beyond_float32_is_refused(tmp_path):
    def huge(values, utterances):
        values[:, 0] *= 1e-30
        values[next(i for i, u in enumerate(utterances) if u.split == "test" and i % 9), 0] = 3e38

    result = reduce(make(tmp_path / "s.h5", huge), "--to", 3, "--method", "pca")
    assert result.exit_code == 1 and "float32" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("damage", ["shape", "name", "group"])
def test_a_foreign_reduction_is_checked(tmp_path, damage):
    from erc_toolkit.toolkit.base.errors import UserError

    path = make(tmp_path / "s.h5")
    reduced(path, "pca")
    with h5py.File(path, "r+") as file:
        group = file["features/audio/x-pca3/reduction"]
        if damage == "name":
            group["more"] = np.zeros(3)
        else:
            del group["mean"]
            group["mean"] = np.zeros(5)
            if damage == "group":
                del group["mean"]
                group.create_group("mean")
    with FeatureStore.open(path) as store:
        for use in (lambda: store.feature("audio/x-pca3").reduction(), store.check, store.verify):
            with pytest.raises(UserError):
                use()


def test_training_takes_it_by_name(tmp_path):
    path = write_store(tmp_path / "s.h5")
    assert CliRunner().invoke(main, ["reduce", str(path), "--feature", "audio/audio_x", "--to", "4"]).exit_code == 0
    settings = ["model.hidden=16", "model.heads=2", "train.epochs=1", "model.dropout_warm_up=0"]
    options = [part for s in settings for part in ("--set", s)]
    arguments = ["train", str(path), "--device", "cpu", *options]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "source")])  # what it was reduced from
    assert result.exit_code == 0 and "audio/audio_x " in result.output and "audio_x-anova4" in result.output
    result = CliRunner().invoke(
        main, [*arguments, "--out", str(tmp_path / "run"), "--set", "data.audio=audio_x-anova4"]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert "audio_x-anova4" in (tmp_path / "run" / "config.yaml").read_text()
