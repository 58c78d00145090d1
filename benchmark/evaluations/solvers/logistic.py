"""Logistic regression along a path of L2 penalties: fast, and each fit bounds its distance from the optimum.

The problem is that of scikit-learn's `LogisticRegression(C)`: mean cross-entropy plus ||W||^2 / (2 C N), the bias free.
The link `softmax` has one class per row; `sigmoid` has any set of labels per row, K binary problems solved as a batch.
(To scikit-learn two classes are one sigmoid; its optimum at C is that of `softmax` at C / 2.)

The method is truncated Newton (Lin, Weng and Keerthi, 2008), conjugate gradients inside, with four additions:

- The features are centred and turned into their principal axes, where N < D in the span of the rows. The problem stays
  the same; the Hessian comes near its diagonal (half the covariance bounds it: Böhning, 1992), the preconditioner.
- A fit starts at the best linear combination of the last solutions, found on their logits. Solutions grow with C while
  the penalty is strong and with log C once the rows are separated; combinations follow both.
- The line search needs no pass over the features: logits are linear in the step.
- Steps are in float32, gradients and objectives in float64: the next step corrects a coarse one. All is relative to
  the logit of the label, so a loss of 1e-12 keeps its digits.

A fit stops when its gap to the optimum is at most `tolerance` times the objective. Strong convexity bounds the gap by
||gradient by W||^2 C N / 2, which is also the duality gap. The bias, which has no penalty, adds its own decrement
(gradient^2 / 2 curvature, to first order). Nothing is random. Work is in large tensor operations, on any device.

Shapes: N rows, D dimensions, K classes or labels, R principal axes and one more for the bias, M remembered solutions,
P problems: 1 with `softmax`, K with `sigmoid`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

_REMEMBERED = 3  # solutions that a fit starts from
_INNER = 1e-3  # a Newton step may leave this share of the gap's bound: what float32 can reach
_ARMIJO = 1e-4  # share of the expected decrease that a step must bring
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Solution:
    """A fitted classifier. A class that no row has gets weights 0 and bias -inf, a label that all rows have inf."""

    c: float
    weights_DK: np.ndarray
    bias_K: np.ndarray
    objective: float
    """Mean loss + ||W||^2 / (2 C N) in float64; with `sigmoid` summed over labels."""
    iterations: int
    """Gradients and Hessian products. Each is a product with the features and one with their transpose."""
    gradient: float
    """Largest absolute entry of the gradient of the objective by `weights_DK` and `bias_K`."""
    converged: bool
    """The gap to the optimum is at most `tolerance` times the objective, with `sigmoid` for every label."""

    def logits(self, x_ND: np.ndarray) -> np.ndarray:
        """Logits (N, K): `x_ND @ weights_DK + bias_K`."""
        return x_ND @ self.weights_DK + self.bias_K


class _Softmax:
    """From logits to loss and residual, its derivative by the logits. One class per row: one problem."""

    def __init__(self, target_KN: Tensor) -> None:
        self._label_1N = target_KN.to(torch.uint8).argmax(dim=0, keepdim=True)
        share_K = target_KN.double().mean(dim=1)
        self.prior_K = share_K.log() - share_K.log().mean()  # the best bias while the weights are zero

    def loss(self, logits_KN: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses (P, 1) and residual_KN."""
        margin_KN = (logits_KN - logits_KN.gather(0, self._label_1N)).scatter_(0, self._label_1N, -torch.inf)
        against_1N = margin_KN.logsumexp(dim=0, keepdim=True)
        loss_1N = torch.logaddexp(against_1N, torch.zeros_like(against_1N))
        residual_KN = margin_KN.sub_(loss_1N).exp_().scatter_(0, self._label_1N, -against_1N.sigmoid())
        return loss_1N.sum(dim=1, keepdim=True), residual_KN

    def curve(self, residual_KN: Tensor, change_KN: Tensor) -> Tensor:
        """Change of the residual by a small change of the logits, which is overwritten."""
        change_KN -= change_KN.gather(0, self._label_1N)
        mean_1N = (residual_KN * change_KN).sum(dim=0, keepdim=True)
        return change_KN.sub_(mean_1N).mul_(residual_KN).scatter_add_(0, self._label_1N, -mean_1N)

    def balance(self, step_KR: Tensor) -> Tensor:
        """The step without the part that no loss depends on."""
        return step_KR - step_KR.mean(dim=0)

    def problems(self, entries_MKR: Tensor) -> Tensor:
        """The entries by problem, (P, M, K * R / P)."""
        return entries_MKR.flatten(1)[None]


class _Sigmoid:
    """The same with any labels per row: each label is a problem of its own."""

    def __init__(self, target_KN: Tensor) -> None:
        self._sign_KN = 2 * target_KN.double() - 1
        self.prior_K = target_KN.double().mean(dim=1).logit()

    def loss(self, logits_KN: Tensor) -> tuple[Tensor, Tensor]:
        against_KN = -self._sign_KN * logits_KN
        loss_KN = torch.logaddexp(against_KN, torch.zeros_like(against_KN))
        return loss_KN.sum(dim=1, keepdim=True), -self._sign_KN * against_KN.sigmoid()

    def curve(self, residual_KN: Tensor, change_KN: Tensor) -> Tensor:
        return change_KN.mul_(_variance(residual_KN))

    def balance(self, step_KR: Tensor) -> Tensor:
        return step_KR

    def problems(self, entries_MKR: Tensor) -> Tensor:
        return entries_MKR.transpose(0, 1)


def _variance(residual_KN: Tensor) -> Tensor:
    """p (1 - p), the diagonal of the curvature by the logits; a residual is p, p - 1 or 1 - p in size."""
    size_KN = residual_KN.abs()
    return size_KN * (1 - size_KN)


class _Rows:
    """Centred features in their principal axes, and a column of ones for the bias."""

    def __init__(self, x_ND: Tensor) -> None:
        self.mean_D = x_ND.mean(dim=0)
        rows_NR = x_ND - self.mean_D
        span_DR = torch.eye(x_ND.shape[1], dtype=x_ND.dtype, device=x_ND.device)
        if x_ND.shape[0] < x_ND.shape[1]:
            span_DR, triangle_RN = torch.linalg.qr(rows_NR.T)
            rows_NR = triangle_RN.T
        axes_RR = torch.linalg.eigh(rows_NR.T @ rows_NR)[1]
        self.basis_DR = span_DR @ axes_RR
        self.x_NR = torch.cat([rows_NR @ axes_RR, torch.ones_like(rows_NR[:, :1])], dim=1)
        self.half_NR = self.x_NR.float()

    def inward(self, weights_DK: Tensor, bias_K: Tensor) -> Tensor:
        """Parameters (K, R) of a classifier of the features."""
        return torch.cat([weights_DK.T @ self.basis_DR, (bias_K + self.mean_D @ weights_DK)[:, None]], dim=1)

    def outward(self, parameters_KR: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier of the features, weights_DK and bias_K, with these parameters."""
        weights_DK = self.basis_DR @ parameters_KR[:, :-1].T
        return weights_DK, parameters_KR[:, -1] - self.mean_D @ weights_DK

    def steepest(self, gradient_KR: Tensor) -> float:
        """Largest entry of the gradient by weights_DK and bias_K, given the one by the parameters."""
        bias_K = gradient_KR[:, -1]
        slope_DK = self.basis_DR @ gradient_KR[:, :-1].T + self.mean_D[:, None] * bias_K
        return float(torch.cat([slope_DK, bias_K[None]]).abs().max()) if len(bias_K) else 0.0


@dataclass(frozen=True)
class _Point:
    """Trial parameters, weights along the principal axes and the bias last, and what follows from them."""

    parameters_KR: Tensor
    logits_KN: Tensor
    residual_KN: Tensor
    objective_P1: Tensor


class _Fit:
    """The problem at one penalty."""

    def __init__(self, rows: _Rows, link: _Softmax | _Sigmoid, c: float) -> None:
        self.rows, self.link, self.n = rows, link, len(rows.x_NR)
        self.penalty_1R = torch.full_like(rows.x_NR[:1], 1 / (c * self.n))
        self.penalty_1R[:, -1] = 0

    def total(self, entries_KR: Tensor) -> Tensor:
        """Sum of the entries by problem (P, 1)."""
        return self.link.problems(entries_KR[None]).sum(dim=2)

    def at(self, parameters_KR: Tensor, logits_KN: Tensor) -> _Point:
        """The point with these parameters and their logits."""
        loss_P1, residual_KN = self.link.loss(logits_KN)
        objective_P1 = loss_P1 / self.n + self.total(self.penalty_1R * parameters_KR.square()) / 2
        return _Point(parameters_KR, logits_KN, residual_KN, objective_P1)

    def combine(self, solutions: Iterable[tuple[Tensor, Tensor]]) -> _Point:
        """The best linear combination of parameters and their logits: Newton's method on M coefficients per problem."""
        problems, curve = self.link.problems, self.link.curve
        parameters_MKR, logits_MKN = (torch.stack(parts) for parts in zip(*solutions))
        scores_PME = problems(logits_MKN) / self.n
        penalty_PME = problems(self.penalty_1R * parameters_MKR)
        penalty_PMM = penalty_PME @ problems(parameters_MKR).mT
        point = self.at(parameters_MKR[-1], logits_MKN[-1])
        for _ in range(5):
            gradient_PM1 = scores_PME @ problems(point.residual_KN[None]).mT
            gradient_PM1 += penalty_PME @ problems(point.parameters_KR[None]).mT
            curved_MKN = torch.stack([curve(point.residual_KN, logits_KN.clone()) for logits_KN in logits_MKN])
            hessian_PMM = scores_PME @ problems(curved_MKN).mT + penalty_PMM
            step_PM1 = -torch.linalg.pinv(hessian_PMM, hermitian=True) @ gradient_PM1
            slope_P1 = (step_PM1 * gradient_PM1).sum(dim=1)
            moves = [(step_PM1.transpose(0, 1) * part).sum(dim=0) for part in (parameters_MKR, logits_MKN)]
            point = self.search(point, moves[0], moves[1], slope_P1)
            if (-slope_P1 <= 1e-4 * point.objective_P1).all():
                break
        return point

    def search(self, point: _Point, step_KR: Tensor, shift_KN: Tensor, slope_P1: Tensor) -> _Point:
        """Halve the step, of each problem, until the objective falls enough."""
        length_P1 = torch.ones_like(slope_P1)
        ceiling_P1 = point.objective_P1 * (1 + 4 * torch.finfo(slope_P1.dtype).eps)
        for _ in range(40):
            moved = self.at(point.parameters_KR + length_P1 * step_KR, point.logits_KN + length_P1 * shift_KN)
            enough_P1 = moved.objective_P1 <= ceiling_P1 + _ARMIJO * length_P1 * slope_P1
            if enough_P1.all():
                return moved
            length_P1 = torch.where(enough_P1, length_P1, length_P1 / 2)
        return point

    def minimise(self, point: _Point, tolerance: float, max_iterations: int) -> tuple[_Point, Tensor, int, bool]:
        """The optimum from `point`; with its gradient, the iterations, and whether the gap is within `tolerance`."""
        iterations = 0
        while True:
            gradient_KR = point.residual_KN @ self.rows.x_NR / self.n + self.penalty_1R * point.parameters_KR
            iterations += 1
            # No curvature is below the penalty; for the bias, which has none, it is taken at this point.
            floor_KR = self.penalty_1R.repeat(len(gradient_KR), 1)
            floor_KR[:, -1] = _variance(point.residual_KN).mean(dim=1) + _TINY
            gap_P1 = self.total(gradient_KR.square() / floor_KR) / 2
            goal_P1 = tolerance * point.objective_P1
            converged = bool((gap_P1 <= goal_P1).all())
            if converged or iterations + 2 > max_iterations:
                return point, gradient_KR, iterations, converged
            goal_P1 = torch.maximum(0.5 * goal_P1, _INNER * gap_P1)
            step_KR, products = self.newton(point, gradient_KR, floor_KR, goal_P1, max_iterations - iterations - 1)
            iterations += products
            point = self.search(point, step_KR, step_KR @ self.rows.x_NR.T, self.total(gradient_KR * step_KR))

    def newton(
        self, point: _Point, gradient_KR: Tensor, floor_KR: Tensor, goal_P1: Tensor, limit: int
    ) -> tuple[Tensor, int]:
        """Newton's step, by conjugate gradients until `goal_P1` bounds the gap left; and the Hessian products."""
        x_NR, total = self.rows.half_NR, self.total
        scale_P1 = total(gradient_KR.square()).sqrt() + _TINY
        rest_KR, goal_P1 = (-gradient_KR / scale_P1).float(), (goal_P1 / scale_P1**2).float()
        residual_KN, penalty_1R, floor_KR = point.residual_KN.float(), self.penalty_1R.float(), floor_KR.float()
        diagonal_KR = _variance(residual_KN) @ x_NR.square() / self.n + penalty_1R + _TINY
        step_KR = torch.zeros_like(rest_KR)
        along_KR = ahead_KR = self.link.balance(rest_KR / diagonal_KR)
        power_P1 = total(rest_KR * ahead_KR)
        open_P1 = total(rest_KR.square() / floor_KR) / 2 > goal_P1
        products = 0
        while products < limit and open_P1.any():
            products += 1
            curved_KR = self.link.curve(residual_KN, along_KR @ x_NR.T) @ x_NR / self.n + penalty_1R * along_KR
            length_P1 = torch.where(open_P1, power_P1 / total(along_KR * curved_KR), 0.0)
            step_KR += length_P1 * along_KR
            rest_KR -= length_P1 * curved_KR
            open_P1 = total(rest_KR.square() / floor_KR) / 2 > goal_P1
            ahead_KR = self.link.balance(rest_KR / diagonal_KR)
            last_P1, power_P1 = power_P1, total(rest_KR * ahead_KR)
            along_KR = ahead_KR + power_P1 / (last_P1 + _TINY) * along_KR
        return self.link.balance(step_KR.double() * scale_P1), products


def sweep(
    x_ND: np.ndarray,
    target: np.ndarray,
    cs: Iterable[float],
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
    classes: int | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
    device: str = "cpu",
    start: Solution | None = None,
) -> Iterator[Solution]:
    """The optimum at each inverse penalty of `cs`, from strong to weak, as fast as the last solutions predict the next.

    `target` holds a class (N,) of `classes` with `softmax`, booleans (N, K) with `sigmoid`. The first fit begins at
    `start`, or with weights of zero. A fit that `max_iterations` ends early says so in `converged`.
    Raises ValueError for features that are not finite.
    """
    if not np.isfinite(x_ND).all():
        raise ValueError("features must be finite")
    if link == "softmax":
        target = np.arange(classes or target.max() + 1) == target[:, None]
    target_KN = torch.as_tensor(np.ascontiguousarray(target.T), device=device)
    share_K = target_KN.double().mean(dim=1)
    varies_K = (share_K > 0) & ((share_K < 1) | (link == "softmax"))
    chosen = (_Softmax if link == "softmax" else _Sigmoid)(target_KN[varies_K])
    rows = _Rows(torch.as_tensor(x_ND, dtype=torch.float64, device=device))
    weights_DK = rows.x_NR.new_zeros(len(rows.mean_D), len(share_K))
    bias_K = torch.where(share_K > 0, torch.inf, -torch.inf).double()
    first_KR = rows.inward(weights_DK[:, varies_K], chosen.prior_K)
    if start:
        began = [torch.as_tensor(part, device=device)[..., varies_K] for part in (start.weights_DK, start.bias_K)]
        first_KR = chosen.balance(rows.inward(began[0], began[1].where(began[1].isfinite(), chosen.prior_K)))
    solutions = deque([(first_KR, first_KR @ rows.x_NR.T)], maxlen=_REMEMBERED)
    for c in cs:
        fit = _Fit(rows, chosen, c)
        point, gradient_KR, iterations, converged = fit.minimise(fit.combine(solutions), tolerance, max_iterations)
        solutions.append((point.parameters_KR, point.logits_KN))
        weights_DK[:, varies_K], bias_K[varies_K] = rows.outward(point.parameters_KR)
        weights, bias = weights_DK.cpu().numpy().copy(), bias_K.cpu().numpy().copy()
        objective = float(point.objective_P1.sum())
        yield Solution(c, weights, bias, objective, iterations, rows.steepest(gradient_KR), converged)
