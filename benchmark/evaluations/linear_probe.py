"""Linear probe: a linear classifier on frozen features, with the four common protocols as presets.

`synclr` (Tian et al., 2023, downstream evaluation; the default): standardized features, logistic regression with the L2
penalty selected among 45 on a validation split, refit on train + validation, a single pass over test. Departures: ties
of validation scores select the stronger penalty (the original: the weaker); a constant dimension is set to zero (the
original divides by zero); images are normalized with the statistics of the network (the original always uses CLIP's);
the solver converges to the optimum (`solvers.logistic`).

`ssl-transfer` (Ericsson et al., CVPR 2021): the same on raw features with scikit-learn, stopped after 100 iterations,
each fit warm-started from the last solution, from weak to strong penalty; the scores depend on that solver. Departure:
on VOC 2007, a class is a binary fit at C; the original fits two classes as a multinomial, which equals a binary fit at
2 C.

`clip` (Radford et al., 2021): raw features before the projection, scikit-learn, at most 1,000 iterations; seven inverse
penalties from 1e-6 to 1e6, then refined around the best with the step halved, to eight per decade.

`stablerep` (Tian et al., NeurIPS 2023, ImageNet): ten heads trained by SGD on random crops (`solvers.sgd_heads`), 90
epochs; the score is the best of ten heads and nine epochs, selected ON THE TEST SPLIT. `stablerep-clean` selects on
10 % of train instead, which are excluded from training; `-bn` adds a batch norm before the heads.

Validation splits are official if the dataset has one, else a random 20 % of each class of train, determined by the
seed.

Shapes: N images, D dimensions, K classes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, logsumexp, softmax

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets.catalog import HUB_COPIES, TRANSFER_11
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.evaluations.scoring.classification import (
    ClassificationEvaluation,
    Task,
    open_task,
    prediction_columns,
    score_predictions,
    values,
)
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.evaluations.solvers import logistic
from benchmark.evaluations.solvers.chunks import row_chunks
from benchmark.evaluations.solvers.device import compute_device
from benchmark.evaluations.solvers.logistic import Solution
from benchmark.evaluations.solvers.penalties import INVERSE_PENALTIES
from benchmark.evaluations.solvers.sgd_heads import Heads
from benchmark.evaluations.solvers.standardizer import Rows, Standardizer
from benchmark.interfaces import DatasetScores, FrozenModel, Geometry, Scores, Skipped

SCENES = ("scenes-shape", "scenes-colour", "scenes-texture", "scenes-relation-probe")
ALL_DATASETS = ("digits", *SCENES, *TRANSFER_11, *HUB_COPIES, "imagenet", "stl10", "eurosat", "resisc45")


def _raw(x_ND: np.ndarray, rows: Rows = slice(None)) -> np.ndarray:
    return x_ND[rows].astype(np.float32, copy=False)


def stratified_split(label_N: np.ndarray, share: float, *key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the training and the validation rows: `share` of each class, rounded down, at random by `key`.

    Multi-label images (N, K) are treated as one class.
    """
    if label_N.ndim > 1:
        label_N = np.zeros(len(label_N), dtype=int)
    order = np.argsort(keyed_bits(*key).random_raw(len(label_N)), kind="stable")
    shuffled_N, validation = label_N[order], np.zeros(len(label_N), dtype=bool)
    for label in np.unique(label_N):
        rows = order[shuffled_N == label]
        validation[rows[: int(share * len(rows))]] = True
    return np.flatnonzero(~validation), np.flatnonzero(validation)


@dataclass(frozen=True)
class LinearProbe(ClassificationEvaluation):
    """Base class of the linear probe protocols."""

    version: ClassVar[int] = 2
    datasets: tuple[str, ...] = ALL_DATASETS

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:
        """Measure top-1 and mean per class, or mAP; `seed` determines random splits, crops and initial weights."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, open_task(name), seed))

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores:
        raise NotImplementedError


@dataclass(frozen=True)
class LogisticProbe(LinearProbe):
    """Logistic regression with an L2 penalty that is selected on a validation split."""

    preset: str = "synclr"
    inverse_penalties: tuple[float, ...] = INVERSE_PENALTIES
    """Values of scikit-learn's C, in the order tried."""
    refinements: int = 0
    """Number of rounds that try two more penalties around the best: first a decade away, then half the log step."""
    standardise: bool = True
    """Standardize the features to mean 0 and standard deviation 1."""
    library: bool = False
    """Fit with scikit-learn, whose result depends on where it stops."""
    warm: bool = True
    """Start each scikit-learn fit from the last solution."""
    tolerance: float = 1e-8
    """Tolerance of the objective relative to its optimum; with scikit-learn, of the gradient."""
    max_iterations: int = 1000
    validation: float = 0.2
    """Share of train that is held out if there is no official validation split."""

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores:
        x_ND, target = model.features(task.train), task.target(task.train)
        if task.val:
            rows = (np.arange(len(task.train)), len(task.train) + np.arange(len(task.val)))
            x_ND = np.concatenate([x_ND, model.features(task.val)])
            target = np.concatenate([target, task.target(task.val)])
            rule, seed_details = f"official validation split of {len(task.val):,} images", {}
        else:
            rows = stratified_split(target, self.validation, task.train.identity.ids_sha256, str(seed))
            rule = f"{len(rows[1]):,} images held out of train"
            seed_details = _seed_details(rows[1], seed)
        tried, chosen = self._choose(task, x_ND, target, *rows)
        scale = self._scale(x_ND)
        start = next(solution for solution, _ in tried if solution.c == chosen)
        (final,) = self._fits(scale(x_ND), target, (chosen,), start, len(task.classes))
        columns = prediction_columns(task, final.logits(scale(model.features(task.test))))
        order = sorted(solution.c for solution, _ in tried)
        details = {
            "train": task.training_details(),
            **seed_details,
            "selected_on": "validation",
            "selection": f"highest {task.row.metric} on {rule}; equal: the first in the order tried",
            "inverse_penalties": [solution.c for solution, _ in tried],
            "validation_scores": [score for _, score in tried],
            "chosen": chosen,
            "at_edge": chosen in (order[0], order[-1]),
            "solver": "scikit-learn L-BFGS, float32" if self.library else "truncated Newton, float64",
            "tolerance": self.tolerance,
            "iterations": [*(solution.iterations for solution, _ in tried), final.iterations],
            "gradient": [*(solution.gradient for solution, _ in tried), final.gradient],
            "converged": [*(solution.converged for solution, _ in tried), final.converged],
        }
        return score_predictions(task, columns, details)

    def _choose(
        self, task: Task, x_ND: np.ndarray, target: np.ndarray, fit: np.ndarray, held_out: np.ndarray
    ) -> tuple[list[tuple[Solution, float]], float]:
        """Return all solutions with their validation scores, in the order tried, and the best inverse penalty.

        Args:
            task: Dataset.
            x_ND: Features of the training and validation images.
            target: Class index (N,), or booleans (N, K) for multi-label images.
            fit: Rows to fit.
            held_out: Rows to select on.
        """
        scale = self._scale(x_ND, fit)
        fit_ND, held_out_ND = scale(x_ND, fit), scale(x_ND, held_out)
        tried: list[tuple[Solution, float]] = []

        def best() -> float:
            return max(tried, key=lambda pair: pair[1])[0].c

        for refinement in range(1 + self.refinements):
            step = 10.0 ** (0.5 ** (refinement - 1))
            cs = (best() / step, best() * step) if refinement else self.inverse_penalties
            for solution in self._fits(fit_ND, target[fit], cs, None, len(task.classes)):
                tried.append((solution, _validation_score(task, target[held_out], solution, held_out_ND)))
        return tried, best()

    def _scale(self, x_ND: np.ndarray, rows: Rows = slice(None)) -> Callable[..., np.ndarray]:
        return Standardizer.fit(x_ND, rows) if self.standardise else _raw

    def _fits(
        self, x_ND: np.ndarray, target: np.ndarray, cs: Sequence[float], start: Solution | None, classes: int
    ) -> Iterator[Solution]:
        """Return the solution at each inverse penalty.

        Args:
            x_ND: Features.
            target: Class index (N,), or booleans (N, K) for multi-label images.
            cs: Inverse penalties, in the order to fit.
            start: Solution that the first fit starts from; unused with scikit-learn.
            classes: Number of classes.
        """
        if self.library:
            return _sklearn_fits(x_ND, target, cs, self.tolerance, self.max_iterations, warm=self.warm)
        return logistic.sweep(
            x_ND,
            target,
            cs,
            link="sigmoid" if target.ndim > 1 else "softmax",
            classes=classes,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            device=compute_device(),
            start=start,
        )


def _sklearn_fits(
    x_ND: np.ndarray, target: np.ndarray, cs: Sequence[float], tolerance: float, max_iterations: int, *, warm: bool
) -> Iterator[Solution]:
    """Yield scikit-learn's solution at each inverse penalty; multi-label images have a binary fit per class.

    Args:
        x_ND: Features.
        target: Class index (N,), or booleans (N, K) for multi-label images.
        cs: Values of C, in the order to fit.
        tolerance: Tolerance of the gradient.
        max_iterations: Maximum number of iterations of a fit.
        warm: Start each fit from the last solution.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    targets = list(target.T) if target.ndim > 1 else [target]
    settings: dict[str, Any] = {"tol": tolerance, "max_iter": max_iterations, "warm_start": warm, "random_state": 0}
    model = LogisticRegression(**settings)  # one model for all classes, whose start is carried over as in the original
    for c in cs:
        fitted = []
        for labels in targets:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=c).fit(x_ND, labels)
            fitted.append((model.coef_.copy(), model.intercept_.copy(), int(model.n_iter_.max())))
        weights_DK = np.concatenate([weights for weights, _, _ in fitted]).T.astype(np.float64)
        bias_K = np.concatenate([bias for _, bias, _ in fitted]).astype(np.float64)
        if target.ndim == 1 and weights_DK.shape[1] == 1:  # two classes: scikit-learn has one set of weights
            weights_DK, bias_K = np.hstack([-weights_DK, weights_DK]) / 2, np.array([-bias_K[0], bias_K[0]]) / 2
        iterations = sum(steps for _, _, steps in fitted)
        objective, gradient = _objective(x_ND, target, c, weights_DK, bias_K)
        converged = all(steps < max_iterations for _, _, steps in fitted)
        yield Solution(c, weights_DK, bias_K, objective, iterations, gradient, converged)


def _objective(
    x_ND: np.ndarray, target: np.ndarray, c: float, weights_DK: np.ndarray, bias_K: np.ndarray
) -> tuple[float, float]:
    """Return mean loss + ||W||^2 / (2 C N), summed over binary problems, and its gradient's largest absolute entry.

    Args:
        x_ND: Features.
        target: Class index (N,), or booleans (N, K) for multi-label images.
        c: Inverse penalty.
        weights_DK: Weights of the classifier.
        bias_K: Biases of the classifier.
    """
    loss, slope_DK, slope_K = 0.0, np.zeros(weights_DK.shape), np.zeros(bias_K.shape)
    for rows in row_chunks(len(x_ND), len(bias_K)):
        x_BD, target_B = x_ND[rows].astype(np.float64), target[rows]
        logits_BK = x_BD @ weights_DK + bias_K
        if target.ndim > 1:
            loss += float((np.logaddexp(0, logits_BK) - target_B * logits_BK).sum())
            residual_BK = expit(logits_BK) - target_B
        else:
            loss += float((logsumexp(logits_BK, axis=1) - logits_BK[np.arange(len(x_BD)), target_B]).sum())
            residual_BK = softmax(logits_BK, axis=1)
            residual_BK[np.arange(len(x_BD)), target_B] -= 1
        slope_DK += x_BD.T @ residual_BK
        slope_K += residual_BK.sum(axis=0)
    gradient_DK = (slope_DK + weights_DK / c) / len(x_ND)
    largest = max(float(np.abs(gradient_DK).max()), float(np.abs(slope_K / len(x_ND)).max()))
    return loss / len(x_ND) + float(np.square(weights_DK).sum()) / (2 * c * len(x_ND)), largest


def _validation_score(task: Task, target: np.ndarray, solution: Solution, x_ND: np.ndarray) -> float:
    """Return the dataset's main score of a solution on validation images."""
    rows = {"row": np.arange(len(target))}
    if task.multilabel:
        logits_NK = solution.logits(x_ND)
        rows |= {f"label_{k}": target[:, k] for k in range(target.shape[1])}
        rows |= {f"score_{k}": logits_NK[:, k] for k in range(target.shape[1])}
    else:
        prediction_N = np.empty(len(x_ND), int)
        for chunk in row_chunks(len(x_ND), len(solution.bias_K)):
            prediction_N[chunk] = solution.logits(x_ND[chunk]).argmax(axis=1)
        rows |= {"label": target, "prediction": prediction_N}
    return values(task.row.name, rows)[task.row.metric]


def _seed_details(held_out: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the seed and a hash of the training rows that it held out, for `details`."""
    return {"seed": seed, "held_out_sha256": hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest()}


@dataclass(frozen=True)
class SGDProbe(LinearProbe):
    """Linear heads with different learning rates, trained by SGD on random crops, of which the best is selected."""

    preset: str = "stablerep"
    datasets: tuple[str, ...] = ("imagenet", "digits", "scenes-shape")
    rates: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    """Base learning rate of each head, for 256 images per batch."""
    epochs: int = 90
    batch: int = 1024
    check_every: int = 10
    """Epochs between evaluations of all heads."""
    batch_norm: bool = False
    """Normalize the features by a batch norm before the heads."""
    clean: bool = False
    """True: select head and epoch on held-out training images. False: on the test split, as the original."""
    validation: float = 0.1
    """Share of train that is held out if `clean`."""

    def skip(self, model: FrozenModel) -> Skipped | None:
        """Return a reason if the model has no network, only stored features."""
        if model.sees_images:
            return None
        return Skipped("stored features only: random crops need the network", SkipCode.NO_NETWORK)

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores:
        label_N, geometry = task.target(task.train), Geometry(256 / 224, "bilinear")
        rows, held_out = np.arange(len(label_N)), np.arange(0)
        if self.clean:
            rows, held_out = stratified_split(label_N, self.validation, task.train.identity.ids_sha256, str(seed))
        test_ND = model.features(task.test, geometry)
        selection_ND = model.features(task.train, geometry)[held_out] if self.clean else test_ND
        selection_N = label_N[held_out] if self.clean else task.target(task.test)
        batch = min(self.batch, len(rows))
        steps = self.epochs * (len(rows) // batch)
        size = (test_ND.shape[1], len(task.classes))
        heads = Heads(self.rates, *size, batch_norm=self.batch_norm, steps=steps, seed=seed)
        best, checks = (-1.0, 0, 0, test_ND), []
        for epoch in range(1, self.epochs + 1):
            order = rows[np.argsort(keyed_bits("epoch", str(epoch), str(seed)).random_raw(len(rows)), kind="stable")]
            # An incomplete last batch is dropped, as in the original.
            batches = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)]
            for rows_B, x_BD in zip(batches, model.random_views(task.train, batches, epoch, seed), strict=True):
                heads.step(x_BD, label_N[rows_B])
            if epoch % self.check_every and epoch < self.epochs:
                continue
            accuracy_H = heads.accuracies(selection_ND, selection_N)
            checks.append({"epoch": epoch, "accuracies": accuracy_H.tolist()})
            if accuracy_H.max() > best[0]:
                at = int(accuracy_H.argmax())
                best = (float(accuracy_H[at]), at, epoch, heads.logits(test_ND, at))
        images_used = f"{len(held_out):,} images held out of train" if self.clean else "the test split, as the original"
        details = {
            "train": task.training_details(),
            **_seed_details(held_out, seed),
            "test_images": asdict(geometry),
            "random_views": "crop of 8 to 100 % of the area, ratio 3/4 to 4/3, bilinear, flipped half of the time",
            "selected_on": "validation" if self.clean else "test",
            "selection": f"best head and epoch on {images_used}; equal: the lower rate, the earlier epoch",
            "chosen": {"rate": self.rates[best[1]], "epoch": best[2]},
            "at_edge": best[1] in (0, len(self.rates) - 1),
            "checks": checks,
            "solver": "SGD, momentum 0.9, half a cosine",
            "batch": batch,
        }
        return score_predictions(task, prediction_columns(task, best[3]), details)


EVALUATIONS = (
    LogisticProbe(),
    LogisticProbe(
        preset="ssl-transfer",
        inverse_penalties=INVERSE_PENALTIES[::-1],
        standardise=False,
        library=True,
        tolerance=1e-4,
        max_iterations=100,
    ),
    LogisticProbe(
        preset="clip",
        inverse_penalties=tuple(10.0**power for power in range(-6, 7, 2)),
        refinements=4,
        standardise=False,
        library=True,
        warm=False,
        tolerance=1e-4,
    ),
    SGDProbe(),
    SGDProbe(preset="stablerep-bn", batch_norm=True),
    SGDProbe(preset="stablerep-clean", clean=True),
    SGDProbe(preset="stablerep-bn-clean", batch_norm=True, clean=True),
)
