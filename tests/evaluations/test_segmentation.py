"""Tests of the frozen protocols of segmentation: pairing, selection, what is scored, and what is refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations import presets
from benchmark.evaluations import segmentation as module
from benchmark.evaluations.datasets.masks import resize_mask
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.scoring import segmentation
from benchmark.evaluations.segmentation import CapiKnn, CapiLogistic
from benchmark.evaluations.solvers import logistic
from benchmark.images import decode_image
from benchmark.interfaces import DatasetScores, LabeledImages, Scores
from benchmark.models import load
from tests.fixtures import evaluation_sets

SIDE, GRID = 64, 8


class Seen:
    """A model whose tokens are a function of the squashed mask of the image: what a perfect encoder would know."""

    def __init__(self, tokens: Callable[[np.ndarray, int], np.ndarray], batch: int = 5) -> None:
        self.tokens, self.batch = tokens, batch
        self.passes: list[str] = []

    def lacks_patches(self, dataset: str, side: int) -> str:
        return ""

    def patch_tokens(self, images: LabeledImages, side: int) -> Iterator[np.ndarray]:
        self.passes.append(images.identity.split)
        for start in range(0, len(images), self.batch):
            rows = range(start, min(start + self.batch, len(images)))
            yield np.stack([self.tokens(resize_mask(images.read_mask(row), (side, side)), row) for row in rows])


def shares(mask: np.ndarray, row: int) -> np.ndarray:
    """The share of each class in each patch, with some noise: tokens (8, 8, 16)."""
    parts = mask.reshape(GRID, len(mask) // GRID, GRID, len(mask) // GRID)
    share = np.stack([(parts == k).mean(axis=(1, 3)) for k in range(16)], axis=-1)
    noise = np.random.default_rng([row, int(mask.sum())]).normal(0, 0.05, share.shape)
    return (share + noise).astype(np.float16)


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation_sets.mirror_of(["scenes-masks"], monkeypatch, tmp_path)


def measured(evaluation: CapiLogistic | CapiKnn, model: object, name: str = "scenes-masks", seed: int = 0) -> Scores:
    return replace(evaluation, datasets=(name,))(model, seed)


def scored(*arguments: object, **more: object) -> DatasetScores:
    (found,) = measured(*arguments, **more).values()
    assert isinstance(found, DatasetScores)
    return found


@pytest.mark.parametrize("evaluation", [CapiLogistic(), CapiKnn()])
def test_what_a_perfect_encoder_knows_is_found(scenes: None, evaluation: CapiLogistic | CapiKnn) -> None:
    found = scored(evaluation, Seen(shares))
    assert found.scores["miou"].value > 0.6 > 5 * found.chance
    assert found.scores["pixel_accuracy"].value > 0.9
    shuffled = scored(evaluation, Seen(lambda mask, row: shares(mask, row)[::-1]))
    assert shuffled.scores["miou"].value < 0.7 * found.scores["miou"].value, "tokens in another place"


def test_logistic_scores_are_those_of_scikit_learn(scenes: None) -> None:
    """The whole protocol by other means: majority by hand, scikit-learn's solver, painted maps, its Jaccard score."""
    c = 0.05179474679231213
    found = scored(CapiLogistic(inverse_penalties=(c,)), Seen(shares))
    train, test = open_split("scenes-masks", "train"), open_split("scenes-masks", "test")

    def cut(mask: np.ndarray) -> list[np.ndarray]:
        return [mask[8 * r : 8 * r + 8, 8 * c : 8 * c + 8] for r in range(8) for c in range(8)]

    x, y = [], []
    for row in range(len(train)):
        mask = resize_mask(train.read_mask(row), (SIDE, SIDE))
        for patch, token in zip(cut(mask), shares(mask, row).reshape(64, -1), strict=True):
            label = int(np.bincount(patch.ravel()).argmax())
            if label != 255:
                x.append(token.astype(np.float64))
                y.append(label)
    mean, std = np.mean(x, axis=0), np.std(x, axis=0)
    std[std < 1e-6] = 1
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit((np.array(x) - mean) / std, y)
    truth, answer = [], []
    for row in range(len(test)):
        mask = resize_mask(test.read_mask(row), (SIDE, SIDE))
        predicted = model.predict((shares(mask, row).reshape(64, -1).astype(np.float64) - mean) / std)
        painted = np.kron(predicted.reshape(8, 8), np.ones((8, 8), int))
        truth.append(mask[mask != 255])
        answer.append(painted[mask != 255])
    expected = jaccard_score(np.concatenate(truth), np.concatenate(answer), average="macro")
    assert found.scores["miou"].value == pytest.approx(expected, abs=1e-3)
    assert found.details["examples"] == len(x)


def test_each_neighbor_votes_for_the_pixels_at_its_place() -> None:
    scale = module.Standardizer(np.zeros(1), np.ones(1))
    gallery = np.array([[0.0], [1.0], [2.0], [9.0]], np.float32)
    pixels = np.array([[1, 1, 255, 0], [2, 1, 255, 0], [2, 0, 255, 255], [0, 0, 0, 0]], np.uint8)

    def predict(k: int) -> list[int]:
        return module.NearestPatches(scale, False, k, gallery, pixels, 3).predict(np.array([[-1.0]]))[0].tolist()

    assert predict(1) == [1, 1, 1, 0], "a place without a vote takes the class of most of the patch"
    assert predict(2) == [1, 1, 1, 0], "of equally many votes the lowest class"
    assert predict(3) == [2, 1, 0, 0]


def test_the_rows_that_select_are_not_those_that_are_fitted(scenes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that tells the image apart is of no use on images that were not seen."""
    seen: list[np.ndarray] = []

    class Noting(CapiLogistic):
        def _candidates(self, examples):
            seen.append(examples.is_held_out_P)
            images = examples.x_PD[:, 0]
            held_out = set(examples.held_out_QD[:, 0].tolist())
            assert held_out == set(images[examples.is_held_out_P].tolist())
            assert not held_out & set(images[~examples.is_held_out_P].tolist())
            return super()._candidates(examples)

    def numbered(mask: np.ndarray, row: int) -> np.ndarray:
        return np.full((GRID, GRID, 3), row, np.float16)

    fits: list[int] = []
    sweep = logistic.sweep
    monkeypatch.setattr(logistic, "sweep", lambda x, *more, **named: (fits.append(len(x)), sweep(x, *more, **named))[1])
    model = Seen(numbered)
    scored(Noting(), model)
    assert fits == [(~seen[0]).sum(), len(seen[0])], "without the held-out images, then with all"
    assert seen[0].any() and model.passes == ["train", "test"], "each image is read once"


def test_selection_takes_the_first_of_equals_and_the_best_miou(scenes: None) -> None:
    found = scored(CapiLogistic(), Seen(shares)).details
    tried = [entry["miou"] for entry in found["tried"]]
    assert (
        len(tried) == 8
        and found["chosen"]["inverse_penalty"] == found["tried"][int(np.argmax(tried))]["inverse_penalty"]
    )
    constant = scored(CapiLogistic(), Seen(lambda mask, row: np.ones((GRID, GRID, 2), np.float16))).details
    assert constant["chosen"] == {"inverse_penalty": 1e-6} and constant["at_edge"]


def test_the_seed_draws_held_out_images_and_examples(scenes: None) -> None:
    few = CapiLogistic(patches=5)
    found = [scored(few, Seen(shares), seed=seed) for seed in (0, 0, 1)]
    assert found[0].details == found[1].details
    assert found[0].details["held_out_sha256"] != found[2].details["held_out_sha256"]
    train = open_split("scenes-masks", "train")
    assert found[0].details["examples"] == 5 * len(train)
    batches = scored(few, Seen(shares, batch=100))
    assert batches.scores == found[0].scores, "the size of a batch changes nothing"


def test_official_validation_images_select(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation_sets.mirror_of(["camvid"], monkeypatch, tmp_path)
    model = Seen(shares)
    found = scored(CapiLogistic(), model, "camvid")
    assert model.passes == ["train", "val", "test"]
    assert found.details["selection"].startswith(
        f"highest mIoU on {len(open_split('camvid', 'val'))} images of the off"
    )


def test_scores_are_made_again_from_predictions(scenes: None) -> None:
    for evaluation in (CapiLogistic(), CapiKnn()):
        found = scored(evaluation, Seen(shares))
        assert evaluation.values("scenes-masks", found.predictions) == {
            name: score.value for name, score in found.scores.items()
        }
        assert evaluation.intervals("scenes-masks", found.predictions) == found.scores
        assert evaluation.chance("scenes-masks", found.predictions) == found.chance
        assert list(found.scores) == ["miou", "object_miou", "pixel_accuracy", "mean_class_accuracy"]


def test_the_default_is_the_cheap_protocol() -> None:
    assert next(iter(presets("segmentation"))) == "capi-logreg"


def test_a_model_without_patch_tokens_is_skipped_with_its_layers(scenes: None, tmp_path: Path) -> None:
    (tmp_path / "f/scenes-masks").mkdir(parents=True)
    np.save(tmp_path / "f/scenes-masks/test.npy", np.ones((3, 2), np.float32))
    (tmp_path / "f/features.json").write_text(
        '{"name": "mine", "layer": "cls", "transform": {"zoom": 1.0, "interpolation": "bicubic"}}'
    )
    (found,) = measured(CapiLogistic(), load(str(tmp_path / "f")).model).values()
    assert found.code == SkipCode.NO_PATCHES and found.reason.endswith("features.json, only layer cls")


def test_pixels_are_measured_from_the_catalog(scenes: None) -> None:
    found = scored(CapiLogistic(), load("pixels").model)
    assert found.details["tokens"] == {"grid": [8, 8], "dimensions": 192}
    sheet = decode_image(found.picture)
    assert sheet[4 + 132 + 64, 4 + 64].any(), "the second row is the truth"


def test_a_grid_that_does_not_divide_the_image_is_refused(scenes: None) -> None:
    with pytest.raises(UserError, match="expected a grid of patches that divides 64 x 64 pixels, found 7 x 8"):
        measured(CapiLogistic(), Seen(lambda mask, row: np.ones((7, 8, 2), np.float16)))


def test_masks_without_labels_are_refused(scenes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "resize_mask", lambda mask, size: np.full(size, 255, np.uint8))
    with pytest.raises(UserError, match="expected labeled pixels in the training images of scenes-masks"):
        measured(CapiLogistic(), Seen(shares))


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_refused(scenes: None, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    opened = segmentation.open_task("scenes-masks")
    images = getattr(opened, split)
    empty = replace(images, identity=replace(images.identity, n=0))
    monkeypatch.setattr(segmentation, "open_task", lambda name: replace(opened, **{split: empty}))
    with pytest.raises(UserError, match=f"^expected images in {split} of scenes-masks, found none; build or download"):
        measured(CapiLogistic(), Seen(shares))


@pytest.mark.parametrize("evaluation", [CapiLogistic(), CapiKnn()])
def test_another_grid_in_test_than_in_train_is_refused(scenes: None, evaluation: CapiLogistic | CapiKnn) -> None:
    class Changed(Seen):
        def patch_tokens(self, images: LabeledImages, side: int) -> Iterator[np.ndarray]:
            for tokens in super().patch_tokens(images, side):
                yield tokens if images.identity.split == "train" else tokens[:, ::2, ::2]

    said = r"^expected 8 x 8 patches in test of scenes-masks as in train, found 4 x 4; compute"
    with pytest.raises(UserError, match=said):
        measured(evaluation, Changed(shares))
