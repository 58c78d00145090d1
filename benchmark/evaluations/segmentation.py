"""Semantic segmentation: a class for each pixel, from the patch tokens of a frozen network.

`capi-logreg`, the default, and `capi-knn` are the frozen protocols of CAPI (Darcet et al., 2025; `eval_segmentation`):
whole images, squashed to a square; tokens standardized on train; a patch has the class of most of its pixels, and is no
example if most do not count. Hyperparameters have the highest mIoU on 10 % of the training images, or on the official
validation split; then all of these images are used. Masks are squashed to the nearest pixel, and scores are those of
the square.

- `capi-logreg`: logistic regression with an L2 penalty selected among eight; all pixels of a patch have one class.
- `capi-knn`: a pixel has the most frequent class at its place in the k most similar patches; k is 1, 3, 10 or 30, by
  cosine or distance. A pixel that does not count has no vote.

`dinov3-linear` and `synclr-upernet` train a decoder on random crops; see `segmenters.protocols`.

Departures from CAPI: a fit stops after 200 passes over the examples, which weak penalties reach (1,000 passes
move mIoU by less than 0.1 points); at most 64 patches of an image are examples, drawn by seed and image, to bound the
memory; `scenes-masks` is seen at its own 64 x 64 pixels, not at 224; equal neighbors, classes and hyperparameters are
taken in their order.

Shapes: N images, M images of a batch, SS pixels of the square, T patches of an image, A pixels of a patch, P examples,
Q patches to predict, D dimensions, K classes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets.masks import IGNORED, resize_mask
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.evaluations.scoring.classification import Task
from benchmark.evaluations.scoring.contact_sheet import SHOWN, contact_sheet
from benchmark.evaluations.scoring.segmentation import (
    MIOU,
    SegmentationEvaluation,
    areas,
    prediction_columns,
    score_areas,
)
from benchmark.evaluations.segmenters.protocols import DinoV3Linear, SynClrUperNet
from benchmark.evaluations.solvers import logistic
from benchmark.evaluations.solvers.chunks import row_chunks
from benchmark.evaluations.solvers.device import compute_device
from benchmark.evaluations.solvers.logistic import Solution
from benchmark.evaluations.solvers.nearest import nearest
from benchmark.evaluations.solvers.patches import majority, to_image, to_patches
from benchmark.evaluations.solvers.standardizer import Standardizer
from benchmark.interfaces import DatasetScores, FrozenModel, LabeledImages, Skipped

INVERSE_PENALTIES = (
    1e-06, 3.727593720314938e-05, 0.0013894954943731374, 0.05179474679231213, 1.9306977288832496, 71.96856730011514,
    2682.6957952797275, 100000.0,
)  # fmt: skip
"""Eight values from 1e-6 to 1e5, equally spaced on a log scale; written out, as powers differ between processors."""


@dataclass(frozen=True)
class Examples:
    """Patches to learn from, of all images but the test images, and all patches of the images to select on."""

    x_PD: np.ndarray
    pixels_PA: np.ndarray
    is_held_out_P: np.ndarray
    """True for the patches of images to select on; the selected classifier learns from them, too."""
    held_out_QD: np.ndarray
    held_out_QA: np.ndarray
    classes: int
    grid: tuple[int, int]


class Classifier(Protocol):
    """A classifier of patch tokens."""

    @property
    def choice(self) -> dict[str, Any]:
        """Its hyperparameters."""
        ...

    def predict(self, x_QD: np.ndarray) -> np.ndarray:
        """Return the class of each patch (Q, 1), or of each of its pixels (Q, A)."""
        ...


@dataclass(frozen=True)
class CapiEvaluation(SegmentationEvaluation):
    """Base class of CAPI's protocols."""

    validation: float = 0.1
    """Share of the training images to select on if there is no official validation split."""
    patches: int = 64
    """Maximum number of examples from an image."""

    def _candidates(self, examples: Examples) -> Iterator[tuple[Classifier, np.ndarray]]:
        """Yield classifiers that did not see the held-out images, and their predictions for these (Q, 1) or (Q, A)."""
        raise NotImplementedError

    def _refit(self, examples: Examples, chosen: Classifier) -> tuple[Classifier, dict[str, Any]]:
        """Return the chosen classifier with all examples, and `details` of its fit."""
        raise NotImplementedError

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores | Skipped:
        if reason := model.lacks_patches(task.row.name, task.row.side):
            return Skipped(reason, SkipCode.NO_PATCHES)
        classes, held_out = len(task.row.mask_classes), self._held_out(task, seed)
        examples = self._read(model, task, set(held_out.tolist()), seed)
        tried: list[dict[str, Any]] = []
        best: tuple[float, Classifier] | None = None
        for candidate, predicted_QX in self._candidates(examples):
            areas_3K = areas(examples.held_out_QA, predicted_QX, classes)
            miou = self.values(task.row.name, prediction_columns(areas_3K[None]))[MIOU]
            tried.append({**candidate.choice, "miou": miou})
            if best is None or miou > best[0]:
                best = miou, candidate
        assert best
        classifier, fit_details = self._refit(examples, best[1])
        areas_N3K: list[np.ndarray] = []
        pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for grid, tokens_MTD, pixels_MTA in _batches(model, task.test, task.row.side):
            _require_grid(grid, examples.grid, task.test)
            predicted_QX = classifier.predict(tokens_MTD.reshape(-1, tokens_MTD.shape[2]))
            for pixels_TA, predicted_TX in zip(pixels_MTA, np.split(predicted_QX, len(pixels_MTA))):
                areas_N3K.append(areas(pixels_TA, predicted_TX, classes))
                if (row := len(pictures)) < SHOWN:
                    predicted_TA = np.broadcast_to(predicted_TX, pixels_TA.shape)
                    pictures.append((task.test.read(row), to_image(pixels_TA, grid), to_image(predicted_TA, grid)))
        details = {
            "seed": seed,
            "held_out_sha256": hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest(),
            "selected_on": "validation",
            "selection": f"highest mIoU on {self._rule(task, held_out)}; equal: the first in the order tried",
            "tried": tried,
            "chosen": best[1].choice,
            **fit_details,
            "images": f"squashed to {task.row.side} x {task.row.side} pixels, masks to the nearest pixel",
            "tokens": {"grid": list(examples.grid), "dimensions": examples.x_PD.shape[1]},
            "examples": len(examples.x_PD),
        }
        scores = score_areas(self, task, np.stack(areas_N3K), details)
        return replace(scores, picture=contact_sheet(pictures, task.row.mask_classes))

    def _held_out(self, task: Task, seed: int) -> np.ndarray:
        """Return the images to select on, as rows of the training images, then of the official validation split."""
        count = len(task.train)
        if task.val:
            return np.arange(count, count + len(task.val))
        order = np.argsort(keyed_bits("held out", task.train.identity.ids_sha256, str(seed)).random_raw(count))
        return np.sort(order[: max(1, int(self.validation * count))])

    def _rule(self, task: Task, held_out: np.ndarray) -> str:
        split = "of the official validation split" if task.val else "held out of train"
        return f"{len(held_out):,} images {split}"

    def _read(self, model: FrozenModel, task: Task, held_out: set[int], seed: int) -> Examples:
        """Read the tokens of the training and validation images, each image once.

        Raises:
            UserError: no patch can be learned from, or no pixel selected on.
        """
        parts: list[tuple[np.ndarray, np.ndarray, bool]] = []
        whole: list[tuple[np.ndarray, np.ndarray]] = []
        row, first = 0, None
        for images in (task.train, *([task.val] if task.val else [])):
            for grid, tokens_MTD, pixels_MTA in _batches(model, images, task.row.side):
                first = first or grid
                _require_grid(grid, first, images)
                for tokens_TD, pixels_TA in zip(tokens_MTD, pixels_MTA):
                    drawn = self._draw(majority(pixels_TA) != IGNORED, images.identity.ids_sha256, seed, row)
                    parts.append((tokens_TD[drawn], pixels_TA[drawn], row in held_out))
                    if row in held_out:
                        whole.append((tokens_TD.copy(), pixels_TA))  # a view would keep its batch
                    row += 1
        x_PD, pixels_PA = (np.concatenate([part[at] for part in parts]) for at in range(2))
        is_held_out_P = np.repeat([part[2] for part in parts], [len(part[0]) for part in parts])
        held_out_QD, held_out_QA = (np.concatenate([part[at] for part in whole]) for at in range(2))
        if is_held_out_P.all() or (held_out_QA == IGNORED).all():
            raise UserError(
                f"expected labeled pixels in the training images of {task.row.name}, and in those held out of them, "
                "found none in one part; download the dataset again"
            )
        assert first
        return Examples(x_PD, pixels_PA, is_held_out_P, held_out_QD, held_out_QA, len(task.row.mask_classes), first)

    def _draw(self, may_be_T: np.ndarray, ids_sha256: str, seed: int, row: int) -> np.ndarray:
        """Return the examples from an image, in their order: equally many from each image that has them."""
        order = np.flatnonzero(may_be_T)
        if len(order) <= self.patches:
            return order
        key_T = keyed_bits("patches", ids_sha256, str(seed), str(row)).random_raw(len(order))
        return np.sort(order[np.argsort(key_T, kind="stable")[: self.patches]])


def _require_grid(found: tuple[int, int], expected: tuple[int, int], images: LabeledImages) -> None:
    """Raise a UserError if the images have another grid than those before."""
    if found != expected:
        wanted, other = (f"{rows} x {columns}" for rows, columns in (expected, found))
        raise UserError(
            f"expected {wanted} patches in {images.identity.split} of {images.name} as in train, found {other}; "
            "compute the tokens of all splits with the same network"
        )


def _batches(
    model: FrozenModel, images: LabeledImages, side: int
) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
    """Yield the grid, the tokens (M, T, D) and the pixels of the patches (M, T, A) of M images at a time.

    Raises:
        UserError: there is no image, or the grid does not divide the image.
    """
    assert images.read_mask
    if not len(images):
        split = images.identity.split
        raise UserError(f"expected images in {split} of {images.name}, found none; build or download the dataset again")
    row = 0
    for tokens_MhwD in model.patch_tokens(images, side):
        count, height, width, dimensions = tokens_MhwD.shape
        if side % height or side % width:
            raise UserError(
                f"expected a grid of patches that divides {side} x {side} pixels, found {height} x {width}; "
                "choose another model"
            )
        masks = (resize_mask(images.read_mask(row + at), (side, side)) for at in range(count))
        pixels_MTA = np.stack([to_patches(mask_SS, (height, width)) for mask_SS in masks])
        yield (height, width), tokens_MhwD.reshape(count, -1, dimensions), pixels_MTA
        row += count


@dataclass(frozen=True)
class LogisticClassifier:
    """Logistic regression on standardized tokens."""

    scale: Standardizer
    solution: Solution

    @property
    def choice(self) -> dict[str, Any]:
        """The inverse penalty."""
        return {"inverse_penalty": self.solution.c}

    def predict(self, x_QD: np.ndarray) -> np.ndarray:
        """Return the class of each patch (Q, 1)."""
        found_Q1 = np.empty((len(x_QD), 1), np.uint8)
        for rows in row_chunks(*x_QD.shape):
            found_Q1[rows, 0] = self.solution.logits(self.scale(x_QD, rows)).argmax(axis=1)
        return found_Q1


@dataclass(frozen=True)
class CapiLogistic(CapiEvaluation):
    """Logistic regression with an L2 penalty that is selected on held-out images."""

    preset: str = "capi-logreg"
    inverse_penalties: tuple[float, ...] = INVERSE_PENALTIES
    """Values of scikit-learn's C, in the order tried."""
    tolerance: float = 1e-6
    """Tolerance of the objective relative to its optimum."""
    max_iterations: int = 200
    """Maximum number of gradients and Hessian products of a fit."""

    def _candidates(self, examples: Examples) -> Iterator[tuple[Classifier, np.ndarray]]:
        rows = np.flatnonzero(~examples.is_held_out_P)
        scale = Standardizer.fit(examples.x_PD, rows)
        label_P = _labels(examples)
        for solution in self._fits(scale(examples.x_PD, rows), label_P[rows], self.inverse_penalties, examples.classes):
            classifier = LogisticClassifier(scale, solution)
            yield classifier, classifier.predict(examples.held_out_QD)

    def _refit(self, examples: Examples, chosen: Classifier) -> tuple[Classifier, dict[str, Any]]:
        assert isinstance(chosen, LogisticClassifier)
        scale, c = Standardizer.fit(examples.x_PD), chosen.solution.c
        (solution,) = self._fits(scale(examples.x_PD), _labels(examples), (c,), examples.classes, chosen.solution)
        details = {
            "at_edge": c in (min(self.inverse_penalties), max(self.inverse_penalties)),
            "solver": "truncated Newton, float64",
            "tolerance": self.tolerance,
            "iterations": solution.iterations,
            "converged": solution.converged,
        }
        return LogisticClassifier(scale, solution), details

    def _fits(
        self, x_PD: np.ndarray, label_P: np.ndarray, cs: Sequence[float], classes: int, start: Solution | None = None
    ) -> Iterator[Solution]:
        """Return the solution at each inverse penalty.

        Args:
            x_PD: Standardized tokens.
            label_P: Class of each patch.
            cs: Inverse penalties, in the order to fit.
            classes: Number of classes.
            start: Solution that the first fit starts from.
        """
        return logistic.sweep(
            x_PD,
            label_P,
            cs,
            classes=classes,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            device=compute_device(),
            start=start,
        )


def _labels(examples: Examples) -> np.ndarray:
    """Return the class of most pixels of each example (P,)."""
    chunks = row_chunks(len(examples.pixels_PA), 256)
    return np.concatenate([majority(examples.pixels_PA[rows]) for rows in chunks]).astype(np.int64)


@dataclass(frozen=True)
class NearestPatches:
    """The vote of the pixels of the most similar patches."""

    scale: Standardizer
    cosine: bool
    k: int
    gallery_PD: np.ndarray
    pixels_PA: np.ndarray
    classes: int

    @property
    def choice(self) -> dict[str, Any]:
        """The number of neighbors and their similarity."""
        return {"k": self.k, "similarity": "cosine" if self.cosine else "distance"}

    def predict(self, x_QD: np.ndarray) -> np.ndarray:
        """Return the class of each pixel (Q, A)."""
        return self.vote(nearest(self.gallery_PD, _vectors(self.scale, x_QD, self.cosine), self.k))

    def vote(self, row_QC: np.ndarray) -> np.ndarray:
        """Return the class of each pixel (Q, A), given the nearest patches of each patch.

        A place where no pixel has a vote takes the class with most votes in the patch.
        """
        found_QA = np.empty((len(row_QC), self.pixels_PA.shape[1]), np.uint8)
        bins = self.classes + 1  # the last is for pixels that do not count
        for rows in row_chunks(len(row_QC), found_QA.shape[1] * bins):
            pixels_BCA = np.minimum(self.pixels_PA[row_QC[rows, : self.k]], self.classes)
            count, _, area = pixels_BCA.shape
            bin_BCA = np.arange(count * area).reshape(count, 1, area) * bins + pixels_BCA
            votes_BAK = np.bincount(bin_BCA.ravel(), minlength=count * area * bins).reshape(count, area, bins)
            votes_BAK = votes_BAK[..., : self.classes]
            whole_B1K = votes_BAK.sum(axis=1, keepdims=True)
            found_QA[rows] = np.where(votes_BAK.any(axis=2, keepdims=True), votes_BAK, whole_B1K).argmax(axis=2)
        return found_QA


@dataclass(frozen=True)
class CapiKnn(CapiEvaluation):
    """The vote of the nearest patches for each pixel."""

    preset: str = "capi-knn"
    neighbors: tuple[int, ...] = (1, 3, 10, 30)
    """Values of k, in the order tried."""

    def _candidates(self, examples: Examples) -> Iterator[tuple[Classifier, np.ndarray]]:
        rows = np.flatnonzero(~examples.is_held_out_P)
        ks = [k for k in self.neighbors if k <= len(rows)]
        scale, pixels_PA = Standardizer.fit(examples.x_PD, rows), examples.pixels_PA[rows]
        for cosine in (True, False):
            gallery_PD = _vectors(scale, examples.x_PD[rows], cosine)
            row_QC = nearest(gallery_PD, _vectors(scale, examples.held_out_QD, cosine), max(ks))
            for k in ks:
                classifier = NearestPatches(scale, cosine, k, gallery_PD, pixels_PA, examples.classes)
                yield classifier, classifier.vote(row_QC)

    def _refit(self, examples: Examples, chosen: Classifier) -> tuple[Classifier, dict[str, Any]]:
        assert isinstance(chosen, NearestPatches)
        scale = Standardizer.fit(examples.x_PD)
        gallery_PD = _vectors(scale, examples.x_PD, chosen.cosine)
        return replace(chosen, scale=scale, gallery_PD=gallery_PD, pixels_PA=examples.pixels_PA), {}


def _vectors(scale: Standardizer, x_QD: np.ndarray, cosine: bool) -> np.ndarray:
    """Return standardized tokens, float32, of unit length for the similarity by cosine."""
    scaled_QD = scale(x_QD)
    if cosine:
        scaled_QD /= np.maximum(np.linalg.norm(scaled_QD, axis=1, keepdims=True), 1e-12)
    return scaled_QD


EVALUATIONS = (CapiLogistic(), CapiKnn(), DinoV3Linear(), SynClrUperNet())
