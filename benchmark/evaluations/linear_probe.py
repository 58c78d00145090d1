"""Linear probe: a linear classifier on frozen features, in the four ways of the field, each under its own name.

`synclr` (Tian et al., 2023, downstream evaluation; the default): features standardised, logistic regression with the L2
penalty chosen among 45 on a validation split, refit on train + validation, a single pass over test. Departures: equal
validation scores go to the stronger penalty (the original keeps the weaker); a dimension that does not vary is left at
zero, where the original divides by zero; images are normalised as the network wants it, where the original always takes
CLIP's statistics; the optimum is reached, whatever the solver (`solvers.logistic`).

`ssl-transfer` (Ericsson et al., CVPR 2021): the same on raw features with scikit-learn, stopped after 100 iterations,
each start at the last solution, from weak to strong penalty; its numbers are of that solver.

`clip` (Radford et al., 2021): raw features before the projection, scikit-learn, at most 1,000 iterations; seven
penalties from 1e-6 to 1e6, then around the best with the step halved, to eight per decade.

`stablerep` (Tian et al., NeurIPS 2023, ImageNet): ten heads by SGD on random crops (`solvers.sgd_heads`), 90 epochs;
the result is the best of ten heads and nine epochs ON THE TEST SPLIT. `stablerep-clean` chooses on 10 % of train
instead and never fits on them; `-bn` has batch norm in front.

Validation splits are official where the dataset has one, else 20 % of each class of train, drawn by the seed.

Shapes: N images, D dimensions, K classes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit, logsumexp, softmax

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets.catalog import HUB_COPIES, TRANSFER_11
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.evaluations.scoring.classification import (
    ClassificationEvaluation,
    Task,
    open_task,
    predictions,
    scored,
    values,
)
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.evaluations.solvers import logistic
from benchmark.evaluations.solvers.logistic import Solution
from benchmark.evaluations.solvers.sgd_heads import Heads
from benchmark.interfaces import DatasetScores, FrozenModel, Geometry, Scores, Skipped

SCENES = ("scenes-shape", "scenes-colour", "scenes-texture", "scenes-relation-probe")
ALL = ("digits", *SCENES, *TRANSFER_11, *HUB_COPIES, "imagenet", "stl10", "eurosat", "resisc45")


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each dimension; one that does not vary gets scale 1, so it is zero afterwards."""

    mean_D: np.ndarray
    scale_D: np.ndarray

    @classmethod
    def of(cls, x_ND: np.ndarray) -> "Standardizer":
        """The statistics of `x_ND`."""
        mean_D, std_D = x_ND.mean(axis=0, dtype=np.float64), x_ND.std(axis=0, dtype=np.float64)
        return cls(mean_D, np.where(std_D > 1e-6 * np.maximum(np.abs(mean_D), 1e-9), std_D, 1.0))

    def __call__(self, x_ND: np.ndarray) -> np.ndarray:
        """`x_ND` with mean 0 and scale 1 where these statistics come from, float32."""
        return ((x_ND - self.mean_D) / self.scale_D).astype(np.float32)


def split(label_N: np.ndarray, share: float, *key: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and rows to validate on: `share` of each class, rounded down, drawn by `key`.

    Images with several classes (N, K) are drawn as one class.
    """
    if label_N.ndim > 1:
        label_N = np.zeros(len(label_N), dtype=int)
    order = np.argsort(keyed_bits(*key).random_raw(len(label_N)), kind="stable")
    validation = np.zeros(len(label_N), dtype=bool)
    for label in np.unique(label_N):
        rows = order[label_N[order] == label]
        validation[rows[: int(share * len(rows))]] = True
    return np.flatnonzero(~validation), np.flatnonzero(validation)


@dataclass(frozen=True)
class LinearProbe(ClassificationEvaluation):
    """What the protocols share: any encoder, and scores that are made again from predictions."""

    version: ClassVar[int] = 2
    datasets: tuple[str, ...] = ALL

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:
        """The main score of each dataset (catalogue), top-1 and mean per class; `seed` draws what is drawn."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, open_task(name), seed))

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores:
        raise NotImplementedError


@dataclass(frozen=True)
class LogisticProbe(LinearProbe):
    """Logistic regression with a chosen L2 penalty; `inverse_penalties` are scikit-learn's C, in the order tried."""

    preset: str = "synclr"
    inverse_penalties: tuple[float, ...] = tuple(float(c) for c in 1 / np.logspace(5, -6, 45))
    refinements: int = 0
    """Rounds of two more penalties around the best, the first a decade away, the step halved each time."""
    standardise: bool = True
    library: bool = False
    """Whether scikit-learn fits, whose numbers depend on where it stops."""
    warm: bool = True
    tolerance: float = 1e-8
    """Of the optimum's objective; in scikit-learn, of its gradient."""
    max_iterations: int = 1000
    validation: float = 0.2

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores:
        train = (model.features(task.train), task.target(task.train))
        if task.val:
            fit, held = train, (model.features(task.val), task.target(task.val))
            everything = (np.concatenate([fit[0], held[0]]), np.concatenate([fit[1], held[1]]))
            rule, drawn = f"official validation split of {len(held[0]):,} images", {}
        else:
            rows = split(train[1], self.validation, task.train.identity.ids_sha256, str(seed))
            fit, held = ((train[0][part], train[1][part]) for part in rows)
            everything, rule = train, f"{len(rows[1]):,} images held out of train"
            drawn = _drawn(rows[1], seed)
        tried, chosen = self._choose(task, fit, held)
        scale = self._scale(everything[0])
        start = next(solution for solution, _ in tried if solution.c == chosen)
        (final,) = self._fits(scale(everything[0]), everything[1], (chosen,), start, len(task.classes))
        columns = predictions(task, final.logits(scale(model.features(task.test))))
        order = sorted(solution.c for solution, _ in tried)
        details = {
            "train": task.training(),
            **drawn,
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
        return scored(task, columns, details)

    def _choose(
        self, task: Task, fit: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray]
    ) -> tuple[list[tuple[Solution, float]], float]:
        """Every solution with its validation score, in the order tried, and the penalty with the best."""
        scale = self._scale(fit[0])
        x_ND, held_ND = scale(fit[0]), scale(held[0])
        tried: list[tuple[Solution, float]] = []

        def best() -> float:
            return max(tried, key=lambda pair: pair[1])[0].c

        for round_ in range(1 + self.refinements):
            step = 10.0 ** (0.5 ** (round_ - 1))
            cs = (best() / step, best() * step) if round_ else self.inverse_penalties
            for solution in self._fits(x_ND, fit[1], cs, None, len(task.classes)):
                tried.append((solution, _score(task, held[1], solution.logits(held_ND))))
        return tried, best()

    def _scale(self, x_ND: np.ndarray) -> Standardizer:
        d = x_ND.shape[1]
        return Standardizer.of(x_ND) if self.standardise else Standardizer(np.zeros(d), np.ones(d))

    def _fits(
        self, x_ND: np.ndarray, target: np.ndarray, cs: Sequence[float], start: Solution | None, classes: int
    ) -> Iterator[Solution]:
        if self.library:
            return _library_fits(x_ND, target, cs, self.tolerance, self.max_iterations, warm=self.warm)
        return logistic.sweep(
            x_ND,
            target,
            cs,
            link="sigmoid" if target.ndim > 1 else "softmax",
            classes=classes,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            device="cuda" if torch.cuda.is_available() else "cpu",
            start=start,
        )


def _library_fits(
    x_ND: np.ndarray, target: np.ndarray, cs: Sequence[float], tolerance: float, max_iterations: int, *, warm: bool
) -> Iterator[Solution]:
    """scikit-learn's solutions in this order; where an image has several classes, a binary fit of each."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    targets = list(target.T) if target.ndim > 1 else [target]
    settings: dict[str, Any] = {"tol": tolerance, "max_iter": max_iterations, "warm_start": warm, "random_state": 0}
    model = LogisticRegression(**settings)  # one for all classes, so that the start is carried over as in the original
    for c in cs:
        fitted = []
        for labels in targets:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=c).fit(x_ND, labels)
            fitted.append((model.coef_.copy(), model.intercept_.copy(), int(model.n_iter_.max())))
        weights_DK = np.concatenate([weights for weights, _, _ in fitted]).T.astype(np.float64)
        bias_K = np.concatenate([bias for _, bias, _ in fitted]).astype(np.float64)
        if target.ndim == 1 and weights_DK.shape[1] == 1:  # two classes: one set of weights, shared out
            weights_DK, bias_K = np.hstack([-weights_DK, weights_DK]) / 2, np.array([-bias_K[0], bias_K[0]]) / 2
        iterations = sum(steps for _, _, steps in fitted)
        objective, gradient = _objective(x_ND.astype(np.float64), target, c, weights_DK, bias_K)
        stopped = all(steps < max_iterations for _, _, steps in fitted)
        yield Solution(c, weights_DK, bias_K, objective, iterations, gradient, stopped)


def _objective(
    x_ND: np.ndarray, target: np.ndarray, c: float, weights_DK: np.ndarray, bias_K: np.ndarray
) -> tuple[float, float]:
    """Mean loss + ||W||^2 / (2 C N), summed over binary problems, and the largest entry of its gradient."""
    logits_NK = x_ND @ weights_DK + bias_K
    if target.ndim > 1:
        loss = float((np.logaddexp(0, logits_NK) - target * logits_NK).sum() / len(x_ND))
        residual_NK = expit(logits_NK) - target
    else:
        loss = float(logsumexp(logits_NK, axis=1).mean() - np.take_along_axis(logits_NK, target[:, None], 1).mean())
        residual_NK = softmax(logits_NK, axis=1) - np.eye(logits_NK.shape[1])[target]
    gradient_DK = (x_ND.T @ residual_NK + weights_DK / c) / len(x_ND)
    steepest = max(float(np.abs(gradient_DK).max()), float(np.abs(residual_NK.mean(axis=0)).max()))
    return loss + float(np.square(weights_DK).sum()) / (2 * c * len(x_ND)), steepest


def _score(task: Task, target: np.ndarray, logits_NK: np.ndarray) -> float:
    """The dataset's main score on validation images."""
    rows = {"row": np.arange(len(target))}
    if task.multilabel:
        rows |= {f"label_{k}": target[:, k] for k in range(target.shape[1])}
        rows |= {f"score_{k}": logits_NK[:, k] for k in range(target.shape[1])}
    else:
        rows |= {"label": target, "prediction": logits_NK.argmax(axis=1)}
    return values(task.row.name, rows)[task.row.metric]


def _drawn(held: np.ndarray, seed: int) -> dict[str, Any]:
    """What the seed decided: the rows of train that were held out."""
    return {"seed": seed, "held_out_sha256": hashlib.sha256(held.astype("<i8").tobytes()).hexdigest()}


@dataclass(frozen=True)
class SGDProbe(LinearProbe):
    """Ten heads by SGD on random crops; `clean` chooses among them without the test split."""

    preset: str = "stablerep"
    datasets: tuple[str, ...] = ("imagenet", "digits", "scenes-shape")
    rates: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    epochs: int = 90
    batch: int = 1024
    check_every: int = 10
    batch_norm: bool = False
    clean: bool = False
    validation: float = 0.1

    def skip(self, model: FrozenModel) -> Skipped | None:
        """A reason where there is no network."""
        if model.sees_images:
            return None
        return Skipped("stored features only: random crops need the network", SkipCode.NO_NETWORK)

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores:
        label_N, geometry = task.target(task.train), Geometry(256 / 224, "bilinear")
        rows, held = np.arange(len(label_N)), np.arange(0)
        if self.clean:
            rows, held = split(label_N, self.validation, task.train.identity.ids_sha256, str(seed))
        test_ND = model.features(task.test, geometry)
        judged_ND = model.features(task.train, geometry)[held] if self.clean else test_ND
        judged_N = label_N[held] if self.clean else task.target(task.test)
        batch = min(self.batch, len(rows))
        steps = self.epochs * (len(rows) // batch)
        size = (test_ND.shape[1], len(task.classes))
        heads = Heads(self.rates, *size, normalise=self.batch_norm, steps=steps, seed=seed)
        best, checks = (-1.0, 0, 0, test_ND), []
        for epoch in range(1, self.epochs + 1):
            order = rows[np.argsort(keyed_bits("epoch", str(epoch), str(seed)).random_raw(len(rows)), kind="stable")]
            for start in range(0, len(order) - batch + 1, batch):  # as the original, the rest of an epoch is left out
                drawn = order[start : start + batch]
                heads.step(model.random_views(task.train, drawn, epoch, seed), label_N[drawn])
            if epoch % self.check_every and epoch < self.epochs:
                continue
            accuracy_H = (heads.logits(judged_ND).argmax(axis=2) == judged_N).mean(axis=1)
            checks.append({"epoch": epoch, "accuracies": accuracy_H.tolist()})
            if accuracy_H.max() > best[0]:
                at = int(accuracy_H.argmax())
                best = (float(accuracy_H[at]), at, epoch, heads.logits(test_ND)[at])
        judged = f"{len(held):,} images held out of train" if self.clean else "the test split, as the original"
        details = {
            "train": task.training(),
            **_drawn(held, seed),
            "test_images": asdict(geometry),
            "random_views": "crop of 8 to 100 % of the area, ratio 3/4 to 4/3, bilinear, flipped half of the time",
            "selected_on": "validation" if self.clean else "test",
            "selection": f"best head and epoch on {judged}; equal: the lower rate, the earlier epoch",
            "chosen": {"rate": self.rates[best[1]], "epoch": best[2]},
            "at_edge": best[1] in (0, len(self.rates) - 1),
            "checks": checks,
            "solver": "SGD, momentum 0.9, half a cosine",
            "batch": batch,
        }
        return scored(task, predictions(task, best[3]), details)


EVALUATIONS = (
    LogisticProbe(),
    LogisticProbe(
        preset="ssl-transfer",
        inverse_penalties=tuple(float(c) for c in 1 / np.logspace(-6, 5, 45)),
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
