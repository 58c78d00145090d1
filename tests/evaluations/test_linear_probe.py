import dataclasses
import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmark.errors import SkipCode
from benchmark.evaluations import linear_probe
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.linear_probe import EVALUATIONS, stratified_split
from benchmark.evaluations.solvers import chunks
from benchmark.evaluations.solvers.logistic import Solution
from benchmark.evaluations.solvers.standardizer import Standardizer
from benchmark.interfaces import DatasetIdentity, DatasetScores, LabeledImages, Skipped
from tests.fixtures.doubles import Double, by_label, constant, noise, write_scenes

KINDS = ["a", "b", "c", "d"]
PRESETS = {one.preset: one for one in EVALUATIONS}
TOY = {name: dataclasses.replace(one, datasets=("toy",)) for name, one in PRESETS.items()}
PROBE = TOY["synclr"]
LOGISTIC, SGD = (
    ("synclr", "ssl-transfer", "clip"),
    ("stablerep", "stablerep-bn", "stablerep-clean", "stablerep-bn-clean"),
)


@pytest.fixture
def toy(mirror, monkeypatch):
    """240 training and 120 test images of four kinds, the test kinds are not balanced."""
    row = catalog.Dataset("toy", "synrep-bench/scenes-toy", "mit", labels=("kind",), classes=4)
    monkeypatch.setitem(catalog.DATASETS, "toy", row)
    generator = np.random.default_rng(0)
    kinds = {"train": [KINDS[at % 4] for at in range(240)], "test": [KINDS[min(at % 5, 3)] for at in range(120)]}
    columns = {name: {"kind": list(generator.permutation(values).tolist())} for name, values in kinds.items()}
    write_scenes(mirror, "scenes-toy", **columns)


def measure(subject, probe=PROBE, seed=0) -> DatasetScores:
    scores = probe(subject, seed)["toy"]
    assert isinstance(scores, DatasetScores)
    return scores


def noisy_labels(dimensions=24, strength=1.2):
    generator = np.random.default_rng(1)
    return Double(
        lambda images, row: (
            strength * np.eye(dimensions)[KINDS.index(images.columns["label"][row])]
            + generator.standard_normal(dimensions)
        )
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_perfect_encoder_scores_one(toy, preset):
    scores = measure(by_label(KINDS), TOY[preset])
    assert scores.scores["top1"].value == 1.0
    assert scores.scores["top1"].n == 120
    assert {name: score.value for name, score in scores.per_class.items()} == dict.fromkeys(KINDS, 1.0)
    assert [score.n for score in scores.per_class.values()] == [24, 24, 24, 48]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_constant_encoder_is_never_above_chance(toy, preset):
    scores = measure(constant(), TOY[preset])
    assert scores.scores["top1"].value <= scores.chance == 48 / 120
    assert np.isfinite(scores.details.get("gradient", [0])).all()


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_noise_is_at_chance_although_it_can_be_memorized(toy, preset):
    """256 dimensions can fit any labels of 360 images: a test row that leaks into training would be always correct."""
    scores = measure(noise(256), dataclasses.replace(TOY[preset], **({"epochs": 20} if preset in SGD else {})))
    assert scores.scores["top1"].value < 0.45


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_predictions_give_the_scores(toy, preset):
    scores = measure(noisy_labels(), TOY[preset])
    columns, test = scores.predictions, open_split("toy", "test")
    assert TOY[preset].values("toy", columns) == {name: score.value for name, score in scores.scores.items()}
    assert (columns["label"] == columns["prediction"]).mean() == scores.scores["top1"].value
    assert [scores.details["classes"][at] for at in columns["label"]] == test.columns["label"]
    assert scores.dataset == test.identity.including([open_split("toy", "train").identity])
    assert 0.4 < scores.scores["top1"].value < 0.98


# Presets


def test_presets_match_their_papers():
    synclr, transfer, clip = (PRESETS[name] for name in LOGISTIC)
    penalties = np.logspace(-6, 5, 45)
    assert [1 / c for c in synclr.inverse_penalties] == pytest.approx(sorted(penalties, reverse=True))
    assert [1 / c for c in transfer.inverse_penalties] == pytest.approx(sorted(penalties))
    assert clip.inverse_penalties == pytest.approx([1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
    assert (synclr.standardise, transfer.standardise, clip.standardise) == (True, False, False)
    assert (synclr.library, transfer.library, clip.library) == (False, True, True)
    assert (transfer.max_iterations, clip.max_iterations, transfer.warm, clip.warm) == (100, 1000, True, False)
    for name in SGD:
        heads = PRESETS[name]
        assert heads.rates == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
        assert (heads.epochs, heads.batch, heads.check_every) == (90, 1024, 10)
        assert (heads.batch_norm, heads.clean) == ("bn" in name, "clean" in name)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["synclr", "ssl-transfer", "stablerep-clean"])
def test_chunks_give_the_same_scores(toy, monkeypatch, preset):
    """As at ImageNet's size: 240 images of four classes in chunks of about 25 rows, the last one smaller."""
    fewer = {"epochs": 10} if preset in SGD else {"inverse_penalties": (1e-3, 0.1, 1.0)}
    few = dataclasses.replace(TOY[preset], **fewer)
    whole = measure(noisy_labels(), few)
    monkeypatch.setattr(chunks, "WHOLE", 0)
    monkeypatch.setattr(chunks, "CHUNK", {"cpu": 100})
    found = measure(noisy_labels(), few)
    assert found.predictions["prediction"].tolist() == whole.predictions["prediction"].tolist()
    for name in ("chosen", "selection", "validation_scores", "checks", "converged"):
        assert found.details.get(name) == whole.details.get(name)
    if preset == "ssl-transfer":  # scikit-learn's fits are the same
        assert found.details["gradient"] == pytest.approx(whole.details["gradient"], rel=1e-9)


@pytest.mark.parametrize("dimensions", [1, 2, 16, 17, 33, 50])
@pytest.mark.parametrize("rows", [slice(None), np.arange(1, 90, 3)])
def test_standardized_features_are_those_of_one_array(monkeypatch, dimensions, rows):
    """Bit by bit, for any number of dimensions and size of chunks."""
    x_ND = (7 + 3 * np.random.default_rng(0).standard_normal((90, dimensions))).astype(np.float32)
    monkeypatch.setattr(chunks, "WHOLE", 0)
    monkeypatch.setattr(chunks, "CHUNK", {"cpu": 100})
    part_ND = x_ND[rows]
    mean_D, std_D = part_ND.mean(axis=0, dtype=np.float64), part_ND.std(axis=0, dtype=np.float64)
    scale = Standardizer.fit(x_ND, rows)
    assert scale.mean_D.tobytes() == mean_D.tobytes() and scale.scale_D.tobytes() == std_D.tobytes()
    assert scale(x_ND, rows).tobytes() == ((part_ND - mean_D) / std_D).astype(np.float32).tobytes()
    assert scale(x_ND).tobytes() == ((x_ND - mean_D) / std_D).astype(np.float32).tobytes()


def test_no_step_around_the_solver_holds_all_logits_or_all_features_in_float64(monkeypatch):
    """80,000 features and 500,000 logits, of which float32 takes 0.32 MB and float64 4 MB."""
    rng = np.random.default_rng(0)
    x_ND, target = rng.standard_normal((5000, 16), np.float32), np.arange(5000) % 100
    solution = Solution(1.0, rng.standard_normal((16, 100)), rng.standard_normal(100), 0.0, 0, 0.0, True)
    task = linear_probe.Task(catalog.DATASETS["imagenet"], *[None] * 3)
    wide_ND, rows = rng.standard_normal((5000, 160), np.float32), np.arange(0, 5000, 5)
    scale = Standardizer.fit(wide_ND)
    monkeypatch.setattr(chunks, "WHOLE", 0)
    monkeypatch.setattr(chunks, "CHUNK", {"cpu": 10_000})
    for work, limit in (
        (lambda: linear_probe._objective(x_ND, target, 1.0, solution.weights_DK, solution.bias_K), 1.0),
        (lambda: linear_probe._validation_score(task, target, solution, x_ND), 1.0),
        (lambda: Standardizer.fit(wide_ND), 2.0),
        (lambda: Standardizer.fit(wide_ND, rows), 0.6),
        (lambda: scale(wide_ND, rows), 1.1),
    ):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit * 2**20


def arrays(subject):
    train, test = open_split("toy", "train"), open_split("toy", "test")
    x, x_test = subject.features(train).astype(float), subject.features(test).astype(float)
    y, y_test = (np.array([KINDS.index(label) for label in part.columns["label"]]) for part in (train, test))
    return x, y, x_test, y_test, stratified_split(y, 0.2, train.identity.ids_sha256, "0")


def test_synclr_matches_scikit_learn_end_to_end(toy):
    """Reimplements sweep, selection, refit and test with scikit-learn, run to convergence."""
    few = dataclasses.replace(PROBE, inverse_penalties=tuple(10.0**power for power in range(-4, 4)))
    scores = measure(noisy_labels(), few)
    x, y, x_test, y_test, (fit, held) = arrays(noisy_labels())
    accuracies = []
    for c in few.inverse_penalties:
        scale = StandardScaler().fit(x[fit])
        model = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(scale.transform(x[fit]), y[fit])
        accuracies.append(model.score(scale.transform(x[held]), y[held]))
    assert scores.details["validation_scores"] == pytest.approx(accuracies)
    best = few.inverse_penalties[int(np.argmax(accuracies))]
    assert scores.details["chosen"] == best
    scale = StandardScaler().fit(x)
    model = LogisticRegression(C=best, tol=1e-9, max_iter=10_000).fit(scale.transform(x), y)
    assert scores.predictions["prediction"].tolist() == model.predict(scale.transform(x_test)).tolist()
    assert scores.scores["top1"].value == (model.predict(scale.transform(x_test)) == y_test).mean()


@pytest.mark.slow
def test_ssl_transfer_matches_the_loop_of_the_paper(toy):
    """Raw features, scikit-learn's defaults, one warm-started model; the first best penalty is selected."""
    scores = measure(noisy_labels(), TOY["ssl-transfer"])
    x, y, x_test, _, (fit, held) = arrays(noisy_labels())
    x, x_test = x.astype(np.float32), x_test.astype(np.float32)
    best, best_accuracy, model = 0.0, -1.0, LogisticRegression(warm_start=True, random_state=0)
    for penalty in np.logspace(-6, 5, 45):
        model.set_params(C=1 / penalty).fit(x[fit], y[fit])
        accuracy = model.score(x[held], y[held])
        if accuracy > best_accuracy:
            best, best_accuracy = 1 / penalty, accuracy
    assert scores.details["chosen"] == pytest.approx(best)
    final = LogisticRegression(C=best, random_state=0).fit(x, y)
    assert (scores.predictions["prediction"] == final.predict(x_test)).mean() > 0.98


def test_clip_refines_to_eight_penalties_per_decade(toy):
    scores = measure(noisy_labels(), TOY["clip"])
    tried, accuracies = (scores.details[name] for name in ("inverse_penalties", "validation_scores"))
    assert len(tried) == 7 + 2 * 4
    for round_, step in enumerate((10.0, 10**0.5, 10**0.25, 10**0.125)):
        known = 7 + 2 * round_
        center = tried[int(np.argmax(accuracies[:known]))]
        assert tried[known : known + 2] == pytest.approx([center / step, center * step])
    assert scores.details["chosen"] == tried[int(np.argmax(accuracies))]


def test_an_official_validation_split_is_used_for_selection_and_refit(toy, monkeypatch, mirror):
    row = catalog.Dataset("toy", "synrep-bench/scenes-toy", "mit", labels=("kind",), classes=4, val="val")
    monkeypatch.setitem(catalog.DATASETS, "toy", row)
    kinds = {name: {"kind": KINDS * n} for name, n in (("train", 40), ("val", 10), ("test", 20))}
    write_scenes(mirror, "scenes-toy", **kinds)
    seen = []
    sweep = linear_probe.logistic.sweep
    monkeypatch.setattr(
        linear_probe.logistic,
        "sweep",
        lambda x, target, *more, **knobs: seen.append(len(x)) or sweep(x, target, *more, **knobs),
    )
    scores = measure(noisy_labels())
    assert seen == [160, 200]
    assert scores.details["train"]["n"] == 200
    assert "official validation split of 40 images" in scores.details["selection"]


@pytest.mark.slow
def test_selection_never_sees_the_test_split(toy, monkeypatch):
    """Changing the test labels changes neither the selection nor the predictions."""
    for preset in ("synclr", "ssl-transfer", "clip", "stablerep-clean"):
        before = measure(noisy_labels(), TOY[preset])
        with monkeypatch.context() as patch:
            target = linear_probe.Task.target
            patch.setattr(
                linear_probe.Task,
                "target",
                lambda self, images, target=target: np.roll(target(self, images), images is self.test),
            )
            after = measure(noisy_labels(), TOY[preset])
        assert before.details["chosen"] == after.details["chosen"]
        assert (before.predictions["prediction"] == after.predictions["prediction"]).all()


def test_validation_is_a_fifth_of_each_class_and_disjoint_from_training():
    labels = np.repeat([0, 1, 2], [100, 50, 4])
    fit, held_out = stratified_split(labels, 0.2, "ids", "0")
    assert not set(fit) & set(held_out)
    assert sorted([*fit, *held_out]) == list(range(154))
    assert np.bincount(labels[held_out], minlength=3).tolist() == [20, 10, 0]
    assert (stratified_split(labels, 0.2, "ids", "0")[1] == held_out).all()
    assert set(stratified_split(labels, 0.2, "ids", "1")[1]) != set(held_out)
    assert len(stratified_split(np.ones((50, 3), bool), 0.2, "ids", "0")[1]) == 10


def test_ties_select_the_stronger_penalty(toy):
    scores = measure(by_label(KINDS))
    ones = [
        c for c, share in zip(scores.details["inverse_penalties"], scores.details["validation_scores"]) if share == 1.0
    ]
    assert len(ones) > 1
    assert scores.details["chosen"] == min(ones)


@pytest.mark.slow
def test_a_constant_dimension_does_not_change_the_score(toy):
    alive, dead = noisy_labels(), noisy_labels()
    image = dead._image
    dead._image = lambda images, row: np.append(image(images, row), 0.1)
    assert measure(dead).scores["top1"].value == measure(alive).scores["top1"].value
    x_ND = np.full((5, 2), 0.1, np.float32)
    assert (Standardizer.fit(x_ND)(x_ND) == 0).all()


@pytest.mark.slow
def test_the_scale_of_the_features_does_not_change_predictions(toy):
    plain, scaled = noisy_labels(), noisy_labels()
    image = scaled._image
    scaled._image = lambda images, row: 1000 * image(images, row) + 5
    assert (measure(plain).predictions["prediction"] == measure(scaled).predictions["prediction"]).mean() > 0.99


@pytest.mark.slow
def test_details_document_the_solver(toy):
    details = measure(noisy_labels()).details
    assert len(details["iterations"]) == len(details["gradient"]) == len(details["converged"]) == 46
    assert all(details["converged"])
    assert max(details["gradient"]) < 2e-3
    assert details["tolerance"] == PROBE.tolerance
    one = dataclasses.replace(PROBE, inverse_penalties=(1.0,), max_iterations=1)
    assert measure(noisy_labels(), one).details["at_edge"]
    assert measure(noisy_labels(), one).details["converged"] == [False, False]
    stopped = measure(noisy_labels(), dataclasses.replace(TOY["ssl-transfer"], max_iterations=2)).details
    assert not any(stopped["converged"])
    assert max(stopped["iterations"]) <= 2


# StableRep's heads


@pytest.mark.slow
def test_stablerep_selects_head_and_epoch_on_the_test_split_and_records_it(toy):
    scores = measure(noisy_labels(), TOY["stablerep"])
    checks = scores.details["checks"]
    assert [check["epoch"] for check in checks] == list(range(10, 91, 10))
    best = max(max(check["accuracies"]) for check in checks)
    assert scores.scores["top1"].value == best
    assert scores.details["selected_on"] == "test"
    first = next(check for check in checks if max(check["accuracies"]) == best)
    rate = TOY["stablerep"].rates[int(np.argmax(first["accuracies"]))]
    assert scores.details["chosen"] == {"rate": rate, "epoch": first["epoch"]}


@pytest.mark.slow
def test_the_clean_variant_never_trains_on_validation_images(toy, monkeypatch):
    fitted = set()
    subject = noisy_labels()
    views = subject.random_views
    monkeypatch.setattr(
        subject,
        "random_views",
        lambda images, batches, *more: (
            fitted.update(*(rows.tolist() for rows in batches)) or views(images, batches, *more)
        ),
    )
    scores = measure(subject, TOY["stablerep-clean"])
    train = open_split("toy", "train")
    labels = np.array([KINDS.index(label) for label in train.columns["label"]])
    fit, held = stratified_split(labels, 0.1, train.identity.ids_sha256, "0")
    assert fitted == set(fit.tolist())
    assert f"{len(held)} images held out of train" in scores.details["selection"]
    best = max(max(check["accuracies"]) for check in scores.details["checks"])
    assert best * len(held) == pytest.approx(round(best * len(held)))


def test_every_epoch_shuffles_and_drops_the_incomplete_batch(toy, monkeypatch):
    subject, seen = noisy_labels(), []
    views = subject.random_views

    def watched(images, batches, epoch, seed):
        seen.extend((epoch, rows.tolist()) for rows in batches)
        return views(images, batches, epoch, seed)

    monkeypatch.setattr(subject, "random_views", watched)
    measure(subject, dataclasses.replace(TOY["stablerep"], epochs=2, batch=100))
    assert [epoch for epoch, _ in seen] == [1, 1, 2, 2]
    first, second = ([row for epoch, rows in seen for row in rows if epoch == which] for which in (1, 2))
    assert len(set(first)) == len(first) == 200
    assert first != second


def test_test_images_are_zoomed_as_in_the_original(toy, monkeypatch):
    subject, seen = noisy_labels(), []
    features = subject.features
    monkeypatch.setattr(subject, "features", lambda images, geometry=None: seen.append(geometry) or features(images))
    measure(subject, dataclasses.replace(TOY["stablerep"], epochs=1))
    assert {(geometry.zoom, geometry.interpolation) for geometry in seen} == {(256 / 224, "bilinear")}


def test_skip_without_a_network(toy):
    subject = noisy_labels()
    assert PRESETS["stablerep"].skip(subject) is None
    subject.sees_images = False
    assert PRESETS["stablerep"].skip(subject).code == SkipCode.NO_NETWORK
    assert PRESETS["synclr"].skip(subject) is None


# Several classes per image


@pytest.mark.slow
@pytest.mark.parametrize("preset", LOGISTIC)
def test_multi_label_images_are_fitted_per_class(monkeypatch, preset):
    generator = np.random.default_rng(0)
    target = generator.random((300, 3)) < 0.4
    target[~target.any(1), 0] = True
    x = generator.standard_normal((300, 8)) + 0.8 * np.hstack([target, np.zeros((300, 5))])
    row = catalog.Dataset("several", "o/s", "mit", labels=("classes",), metric="map11")
    monkeypatch.setitem(catalog.DATASETS, "several", row)
    names = [[f"c{k}" for k in np.flatnonzero(labels)] for labels in target]
    parts = {"train": slice(0, 200), "test": slice(200, 300)}
    images = {
        name: LabeledImages(
            "several",
            DatasetIdentity("o/s", "r", name, len(names[part]), name),
            lambda row: np.zeros((1, 1, 3), np.uint8),
            {"label": names[part], "x": list(x[part])},
        )
        for name, part in parts.items()
    }
    monkeypatch.setattr("benchmark.evaluations.scoring.classification.open_split", lambda name, split: images[split])
    subject = Double(lambda images, row: images.columns["x"][row])
    found = dataclasses.replace(PRESETS[preset], datasets=("several",))(subject)["several"]
    assert found.scores["map11"].value > found.chance + 0.1
    assert len(found.details["iterations"]) == len(found.details["inverse_penalties"]) + 1
    if preset == "synclr":
        scale = StandardScaler().fit(x[:200])
        c = found.details["chosen"]
        for k in range(3):
            model = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(scale.transform(x[:200]), target[:200, k])
            expected = model.decision_function(scale.transform(x[200:]))
            assert found.predictions[f"score_{k}"] == pytest.approx(expected, abs=5e-3)


def test_missing_datasets_are_skipped_with_a_hint(mirror):
    probe = dataclasses.replace(PRESETS["synclr"], datasets=("scenes-shape", "cifar10"))
    scores = probe(noise(4))
    assert all(isinstance(part, Skipped) for part in scores.values())
    assert "synrep data download" in scores["cifar10"].reason
