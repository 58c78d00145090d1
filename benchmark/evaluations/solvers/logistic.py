"""Logistic regression along a path of L2 penalties, with a bound on the distance of each fit from its optimum.

The problem is that of scikit-learn's `LogisticRegression(C)`: mean cross-entropy plus ||W||^2 / (2 C N); the bias is
not penalized. The link `softmax` has one class per row; `sigmoid` has any set of labels per row, as a batch of K binary
problems. (scikit-learn fits two classes by one sigmoid; its optimum at C is that of `softmax` at C / 2.)

The method is truncated Newton (Lin, Weng and Keerthi, 2008) with inner conjugate gradients, and four additions:

- The features are centered and rotated to their principal axes, within the span of the rows if N < D. The problem is
  equivalent, and its Hessian is closer to its diagonal (half the covariance bounds it: Böhning, 1992), which is the
  preconditioner.
- A fit starts at the best linear combination of the last solutions, found from their logits. Solutions grow with C
  while the penalty is strong and with log C once the rows are separated; linear combinations extrapolate both.
- Logits are linear in the parameters: if one chunk holds those of all rows, the line search needs no pass over the
  features.
- Steps are in float32, gradients and objectives in float64: the next step corrects rounding errors of the last. Logits
  are relative to that of the label, so that a loss of 1e-12 keeps its precision.

Of N x K numbers, only those of a chunk of rows exist at a time (`solvers.chunks`); a pass over several chunks computes
their logits again from the parameters. The size of a chunk changes sums by rounding errors, and so a solution within
`tolerance`.

A fit stops when its gap to the optimum is at most `tolerance` times the objective. Strong convexity bounds the gap by
||gradient by W||^2 C N / 2, which is also the duality gap. The bias, which has no penalty, adds its own decrement
(gradient^2 / 2 curvature, to first order). The solver is deterministic and runs on any device.

Shapes: N rows, B rows of a chunk, D dimensions, K classes or labels, R principal axes and one more for the bias,
M previous solutions, P problems: 1 with `softmax`, K with `sigmoid`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.evaluations.solvers.chunks import row_chunks
from benchmark.evaluations.solvers.links import Sigmoid, Softmax, variance

_HISTORY = 3  # number of previous solutions that a fit starts from
_NEWTON_GAP_SHARE = 1e-3  # share of the gap's bound that a Newton step may leave, within the precision of float32
_ARMIJO = 1e-4  # minimum decrease of a step, as a share of the expected decrease
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Solution:
    """A fitted classifier. A class without rows has weights 0 and bias -inf; a label of all rows has bias inf."""

    c: float
    weights_DK: np.ndarray
    bias_K: np.ndarray
    objective: float
    """Mean loss + ||W||^2 / (2 C N) in float64; summed over labels with `sigmoid`."""
    iterations: int
    """Number of gradients and Hessian products, each of which multiplies by the features and by their transpose."""
    gradient: float
    """Largest absolute entry of the gradient of the objective with respect to `weights_DK` and `bias_K`."""
    converged: bool
    """True if the gap to the optimum is at most `tolerance` times the objective, for every label with `sigmoid`."""

    def logits(self, x_ND: np.ndarray) -> np.ndarray:
        """Return the logits (N, K): `x_ND @ weights_DK + bias_K`."""
        return x_ND @ self.weights_DK + self.bias_K


_Classifier = tuple[Tensor, ...]
"""Parameters (K, R): weights along the principal axes, then the bias. If there is one chunk, also the logits (K, N)."""


class _PrincipalAxes:
    """Centered features along their principal axes, and a column of ones for the bias."""

    def __init__(self, x_ND: np.ndarray, classes: int, device: str | torch.device) -> None:
        self.chunks = row_chunks(len(x_ND), classes, torch.device(device).type)
        rows_NR = torch.tensor(x_ND, dtype=torch.float64, device=device)
        self.mean_D = rows_NR.mean(dim=0)
        if not self.mean_D.isfinite().all():
            raise ValueError("features must be finite")
        rows_NR -= self.mean_D
        span_DR = torch.eye(x_ND.shape[1], dtype=rows_NR.dtype, device=device)
        if x_ND.shape[0] < x_ND.shape[1]:
            span_DR, triangle_RN = torch.linalg.qr(rows_NR.T)
            rows_NR = triangle_RN.T
        axes_RR = torch.linalg.eigh(rows_NR.T @ rows_NR)[1]
        self.basis_DR = span_DR @ axes_RR
        self.x_NR = rows_NR.new_ones(len(x_ND), len(axes_RR) + 1)
        for rows in self.chunks:
            self.x_NR[rows, :-1] = rows_NR[rows] @ axes_RR
        self.float32_NR = self.x_NR.float()

    def classifier(self, parameters_KR: Tensor) -> _Classifier:
        """Return the classifier with these parameters."""
        return (parameters_KR, parameters_KR @ self.x_NR.T) if len(self.chunks) == 1 else (parameters_KR,)

    def logits(self, classifier: _Classifier, rows: slice) -> Tensor:
        """Return the logits (K, B) of a chunk of rows, in the precision of the parameters."""
        parameters_KR, *kept = classifier
        x_NR = self.x_NR if parameters_KR.dtype == torch.float64 else self.float32_NR
        return kept[0] if kept else parameters_KR @ x_NR[rows].T

    def to_axes(self, weights_DK: Tensor, bias_K: Tensor) -> Tensor:
        """Return the parameters (K, R) along the principal axes of a classifier of the original features."""
        return torch.cat([weights_DK.T @ self.basis_DR, (bias_K + self.mean_D @ weights_DK)[:, None]], dim=1)

    def from_axes(self, parameters_KR: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classifier of the original features, weights_DK and bias_K, with these parameters."""
        weights_DK = self.basis_DR @ parameters_KR[:, :-1].T
        return weights_DK, parameters_KR[:, -1] - self.mean_D @ weights_DK

    def max_gradient(self, gradient_KR: Tensor) -> float:
        """Return the largest entry of the gradient by weights_DK and bias_K, given that by the parameters."""
        bias_K = gradient_KR[:, -1]
        slope_DK = self.basis_DR @ gradient_KR[:, :-1].T + self.mean_D[:, None] * bias_K
        return float(torch.cat([slope_DK, bias_K[None]]).abs().max()) if len(bias_K) else 0.0


@dataclass(frozen=True)
class _Point:
    """A trial classifier with its objective, and its residual if one chunk holds all rows."""

    classifier: _Classifier
    residual_KN: Tensor | None
    objective_P1: Tensor

    @property
    def parameters_KR(self) -> Tensor:
        return self.classifier[0]

    def float(self) -> "_Point":
        """Return the parameters and the residual in float32."""
        residual_KN = None if self.residual_KN is None else self.residual_KN.float()
        return _Point((self.parameters_KR.float(),), residual_KN, self.objective_P1)


class _Fit:
    """The optimization problem at one penalty."""

    def __init__(self, axes: _PrincipalAxes, link: Softmax | Sigmoid, c: float) -> None:
        self.axes, self.link, self.n = axes, link, len(axes.x_NR)
        self.penalty_1R = torch.full_like(axes.x_NR[:1], 1 / (c * self.n))
        self.penalty_1R[:, -1] = 0

    def sum_by_problem(self, entries_KR: Tensor) -> Tensor:
        """Return the sum of the entries of each problem (P, 1)."""
        return self.link.split_by_problem(entries_KR[None]).sum(dim=2)

    def evaluate(self, classifier: _Classifier) -> _Point:
        """Compute the objective of a classifier, and its residual if one chunk holds all rows."""
        penalty_P1 = self.sum_by_problem(self.penalty_1R * classifier[0].square()) / 2
        loss_P1 = torch.zeros_like(penalty_P1)
        for rows in self.axes.chunks:
            chunk_P1, residual_KB = self.link.loss(self.axes.logits(classifier, rows), rows)
            loss_P1 += chunk_P1
        kept_KN = residual_KB if len(self.axes.chunks) == 1 else None
        return _Point(classifier, kept_KN, loss_P1 / self.n + penalty_P1)

    def sum_over_rows(self, point: _Point, term: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Return the sum over chunks of `term(residual_KB, rows)`, with the residual of `point` in these rows."""

        def residual(rows: slice) -> Tensor:
            kept_KN = point.residual_KN
            return kept_KN if kept_KN is not None else self.link.loss(self.axes.logits(point.classifier, rows), rows)[1]

        return reduce(torch.add, (term(residual(rows), rows) for rows in self.axes.chunks))

    def combine(self, solutions: Sequence[_Classifier]) -> _Point:
        """Return the best linear combination of solutions, by Newton's method on M coefficients per problem."""
        split_by_problem, m = self.link.split_by_problem, len(solutions)
        parameters_MKR = torch.stack([solution[0] for solution in solutions])
        penalty_PME = split_by_problem(self.penalty_1R * parameters_MKR)
        penalty_PMM = penalty_PME @ split_by_problem(parameters_MKR).mT

        def derivatives(residual_KB: Tensor, rows: slice) -> Tensor:
            """Return the Hessian by the coefficients and, as its last column, the gradient (P, M, M + 1)."""
            logits_MKB = torch.stack([self.axes.logits(solution, rows) for solution in solutions])
            scores_PME = split_by_problem(logits_MKB) / self.n
            gradient_PM1 = scores_PME @ split_by_problem(residual_KB[None]).mT
            for change_KB in logits_MKB:
                self.link.residual_change(residual_KB, change_KB, rows)
            return torch.cat([scores_PME @ split_by_problem(logits_MKB).mT, gradient_PM1], dim=2)

        # The stacked copy, since the last bit of a product depends on where its factors are in memory.
        point = self.evaluate((parameters_MKR[-1], *solutions[-1][1:]))
        for _ in range(5):
            hessian_PMM, gradient_PM1 = self.sum_over_rows(point, derivatives).split([m, 1], dim=2)
            gradient_PM1 = gradient_PM1 + penalty_PME @ split_by_problem(point.parameters_KR[None]).mT
            step_PM1 = -torch.linalg.pinv(hessian_PMM + penalty_PMM, hermitian=True) @ gradient_PM1
            slope_P1 = (step_PM1 * gradient_PM1).sum(dim=1)
            coefficient_MP1 = step_PM1.transpose(0, 1)
            step = tuple((coefficient_MP1 * torch.stack(parts)).sum(dim=0) for parts in zip(*solutions))
            point = self.line_search(point, step, slope_P1)
            if (-slope_P1 <= 1e-4 * point.objective_P1).all():
                break
        return point

    def line_search(self, point: _Point, step: _Classifier, slope_P1: Tensor) -> _Point:
        """Halve the step of each problem until its objective decreases enough (Armijo's rule)."""
        length_P1 = torch.ones_like(slope_P1)
        ceiling_P1 = point.objective_P1 * (1 + 4 * torch.finfo(slope_P1.dtype).eps)
        for _ in range(40):
            moved = self.evaluate(tuple(part + length_P1 * shift for part, shift in zip(point.classifier, step)))
            enough_P1 = moved.objective_P1 <= ceiling_P1 + _ARMIJO * length_P1 * slope_P1
            if enough_P1.all():
                return moved
            length_P1 = torch.where(enough_P1, length_P1, length_P1 / 2)
        return point

    def minimize(self, point: _Point, tolerance: float, max_iterations: int) -> tuple[_Point, Tensor, int, bool]:
        """Return the optimum from `point`, its gradient, the iterations, and True if the gap is within `tolerance`."""
        iterations = 0
        while True:
            gradient_KR, curvature_K = self.gradient(point)
            iterations += 1
            # Lower bound of the curvature: the penalty; for the bias, which has none, the curvature at this point.
            floor_KR = self.penalty_1R.repeat(len(gradient_KR), 1)
            floor_KR[:, -1] = curvature_K + _TINY
            gap_P1 = self.sum_by_problem(gradient_KR.square() / floor_KR) / 2
            goal_P1 = tolerance * point.objective_P1
            converged = bool((gap_P1 <= goal_P1).all())
            if converged or iterations + 2 > max_iterations:
                return point, gradient_KR, iterations, converged
            goal_P1 = torch.maximum(0.5 * goal_P1, _NEWTON_GAP_SHARE * gap_P1)
            step_KR, products = self.newton_step(point, gradient_KR, floor_KR, goal_P1, max_iterations - iterations - 1)
            iterations += products
            slope_P1 = self.sum_by_problem(gradient_KR * step_KR)
            point = self.line_search(point, self.axes.classifier(step_KR), slope_P1)

    def gradient(self, point: _Point) -> tuple[Tensor, Tensor]:
        """Return the gradient (K, R) by the parameters, and the curvature by the bias (K,)."""

        def terms(residual_KB: Tensor, rows: slice) -> Tensor:
            curvature_K1 = variance(residual_KB).sum(dim=1, keepdim=True)
            return torch.cat([residual_KB @ self.axes.x_NR[rows], curvature_K1], dim=1)

        sum_KR, curvature_K1 = (self.sum_over_rows(point, terms) / self.n).split([len(self.penalty_1R[0]), 1], dim=1)
        return sum_KR + self.penalty_1R * point.parameters_KR, curvature_K1[:, 0]

    def newton_step(
        self, point: _Point, gradient_KR: Tensor, floor_KR: Tensor, goal_P1: Tensor, limit: int
    ) -> tuple[Tensor, int]:
        """Return Newton's step, by conjugate gradients, and the number of Hessian products.

        Args:
            point: Current parameters.
            gradient_KR: Gradient of the objective at `point`.
            floor_KR: Lower bound of the curvature of each parameter.
            goal_P1: Bound on the remaining gap of each problem at which the conjugate gradients stop.
            limit: Maximum number of Hessian products.
        """
        x_NR, sum_by_problem = self.axes.float32_NR, self.sum_by_problem
        scale_P1 = sum_by_problem(gradient_KR.square()).sqrt() + _TINY
        rest_KR, goal_P1 = (-gradient_KR / scale_P1).float(), (goal_P1 / scale_P1**2).float()  # rest: CG's residual
        point, penalty_1R, floor_KR = point.float(), self.penalty_1R.float(), floor_KR.float()
        curvature_KR = self.sum_over_rows(point, lambda residual_KB, rows: variance(residual_KB) @ x_NR[rows].square())
        diagonal_KR = curvature_KR / self.n + penalty_1R + _TINY

        def hessian_product(direction_KR: Tensor) -> Tensor:
            def term(residual_KB: Tensor, rows: slice) -> Tensor:
                x_BR = x_NR[rows]
                return self.link.residual_change(residual_KB, direction_KR @ x_BR.T, rows) @ x_BR

            return self.sum_over_rows(point, term) / self.n + penalty_1R * direction_KR

        step_KR = torch.zeros_like(rest_KR)
        direction_KR = preconditioned_KR = self.link.center_step(rest_KR / diagonal_KR)
        power_P1 = sum_by_problem(rest_KR * preconditioned_KR)
        unfinished_P1 = sum_by_problem(rest_KR.square() / floor_KR) / 2 > goal_P1
        products = 0
        while products < limit and unfinished_P1.any():
            products += 1
            curved_KR = hessian_product(direction_KR)
            length_P1 = torch.where(unfinished_P1, power_P1 / sum_by_problem(direction_KR * curved_KR), 0.0)
            step_KR += length_P1 * direction_KR
            rest_KR -= length_P1 * curved_KR
            unfinished_P1 = sum_by_problem(rest_KR.square() / floor_KR) / 2 > goal_P1
            preconditioned_KR = self.link.center_step(rest_KR / diagonal_KR)
            last_P1, power_P1 = power_P1, sum_by_problem(rest_KR * preconditioned_KR)
            direction_KR = preconditioned_KR + power_P1 / (last_P1 + _TINY) * direction_KR
        return self.link.center_step(step_KR.double() * scale_P1), products


def sweep(
    x_ND: np.ndarray,
    target: np.ndarray,
    cs: Iterable[float],
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
    classes: int | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
    device: str | torch.device = "cpu",
    start: Solution | None = None,
) -> Iterator[Solution]:
    """Yield the optimum at each inverse penalty, starting each fit from a combination of the last solutions.

    Args:
        x_ND: Features.
        target: Class index (N,) with `softmax`, booleans (N, K) with `sigmoid`.
        cs: Inverse penalties (scikit-learn's C), fastest in ascending order.
        link: `softmax` for one class per row, `sigmoid` for any set of labels per row.
        classes: Number of classes with `softmax`. None: one more than the largest class index.
        tolerance: Maximum gap to the optimum, relative to the objective.
        max_iterations: Maximum number of gradients and Hessian products; if it is reached, `converged` is False.
        device: Device of the computation.
        start: Solution that the first fit starts from. None: weights of zero.

    Raises:
        ValueError: features are not finite.
    """
    count_K = np.bincount(target, minlength=classes or 0) if link == "softmax" else target.sum(axis=0)
    share_K = torch.as_tensor(count_K, device=device).double() / len(target)
    varies_K = (share_K > 0) & ((share_K < 1) | (link == "softmax"))
    link_function: Softmax | Sigmoid
    if link == "softmax":
        label_N = torch.as_tensor(target, device=device)
        link_function = Softmax((varies_K.cumsum(0) - 1)[label_N], share_K[varies_K])
    else:
        target_KN = torch.as_tensor(np.ascontiguousarray(target.T), device=device)
        link_function = Sigmoid(target_KN[varies_K], share_K[varies_K])
    axes = _PrincipalAxes(x_ND, int(varies_K.sum()), device)
    weights_DK = axes.x_NR.new_zeros(len(axes.mean_D), len(share_K))
    bias_K = torch.where(share_K > 0, torch.inf, -torch.inf).double()
    first_KR = axes.to_axes(weights_DK[:, varies_K], link_function.prior_K)
    if start:
        first_DK, first_K = (torch.as_tensor(p, device=device)[..., varies_K] for p in (start.weights_DK, start.bias_K))
        first_K = first_K.where(first_K.isfinite(), link_function.prior_K)
        first_KR = link_function.center_step(axes.to_axes(first_DK, first_K))
    solutions = deque([axes.classifier(first_KR)], maxlen=_HISTORY)
    for c in cs:
        fit = _Fit(axes, link_function, c)
        point, gradient_KR, iterations, converged = fit.minimize(fit.combine(solutions), tolerance, max_iterations)
        solutions.append(point.classifier)
        weights_DK[:, varies_K], bias_K[varies_K] = axes.from_axes(point.parameters_KR)
        weights, bias = weights_DK.cpu().numpy().copy(), bias_K.cpu().numpy().copy()
        objective = float(point.objective_P1.sum())
        yield Solution(c, weights, bias, objective, iterations, axes.max_gradient(gradient_KR), converged)
