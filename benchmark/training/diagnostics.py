"""Training diagnostics: spikes of the loss, and the health of the features.

Rank: Garrido et al., RankMe, arXiv 2210.02885. Alignment and uniformity: Wang & Isola, arXiv 2005.10242. Spread: Chen &
He, SimSiam, arXiv 2011.10566.

Shapes: B rows of a batch, D features, P pairs of rows.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.errors import UserError

WINDOW = 100
"""Losses that the next one is compared with: enough for a median and a deviation that single values do not
move, few against a schedule, over which the loss falls."""
FEWEST = 20
"""Losses before anything is called a spike: the first ones fall too fast to be a course."""
DEVIATIONS = 10.0
"""Median absolute deviations above the median from which on a loss is a spike: 6.7 standard deviations of Gaussian
noise, which by chance happens once in 1e11 losses."""
FLOOR = 0.01
"""Least deviation, as a share of the median: on a plateau without noise a spike is still 10 % above it."""

ROWS = 512
"""Most rows of a batch that are looked at: the pairs of more take longer than a step."""
COLLAPSED = 2.0
"""Effective rank below which features have collapsed: they say less than two directions can. All equal, it is 1."""

KEPT = ("health", "spikes", "worst_spike")
"""What of a run's card goes into its records."""


class NonFiniteLoss(UserError):
    """Loss or gradient are not finite: all processes say so at the same step."""


class SpikeDetector:
    """A guard over losses: stops at one that is not finite, counts those far above the ones before.

    A spike is no error, since training mostly recovers; how many there were belongs to what a run is worth.
    """

    def __init__(self, run: str, state: Mapping[str, Any] | None = None) -> None:
        """`run` is how errors name it; `state` what `state()` gave before, so that a resumed run counts the same."""
        state = state or {}
        self._run = run
        self._losses: deque[float] = deque(map(float, state.get("losses", ())), maxlen=WINDOW)
        self.count = int(state.get("count", 0))
        self._height = float(state.get("height", 0.0))
        self._worst = int(state.get("worst", 0))

    def check(self, step: int, loss: float, gradient_norm: float | None, lr: float) -> None:
        """Look at a step; `gradient_norm` is None where it was not computed.

        Raises:
            Diverged: loss or gradient are not finite.
        """
        for what, value in (("loss", loss), ("gradient's norm", gradient_norm)):
            if value is not None and not math.isfinite(value):
                raise NonFiniteLoss(
                    f"{self._run}: the {what} is {value} at step {step} (learning rate {lr:.2g}); "
                    "lower the learning rate or lengthen the warm-up"
                )
        if len(self._losses) >= FEWEST and (height := _height(loss, self._losses)) > DEVIATIONS:
            self.count += 1
            if height > self._height:
                self._height, self._worst = height, step
        self._losses.append(loss)

    def state(self) -> dict[str, Any]:
        """What it takes to go on: plain numbers, equal again after JSON."""
        return {"losses": list(self._losses), "count": self.count, "height": self._height, "worst": self._worst}

    def card(self) -> dict[str, int]:
        """For a run's card: how many, and the step of the highest if there were any."""
        return {"spikes": self.count} | ({"worst_spike": self._worst} if self.count else {})

    @property
    def note(self) -> str:
        """For people; empty without a spike."""
        if not self.count:
            return ""
        return f"{self.count} spike{'s' if self.count > 1 else ''} of the loss, the highest at step {self._worst}"


def _height(loss: float, before: deque[float]) -> float:
    """How far a loss is above the median of those before it, in their median absolute deviations."""
    median = statistics.median(before)
    deviation = statistics.median(abs(value - median) for value in before)
    return (loss - median) / max(deviation, FLOOR * abs(median), 1e-12)


@torch.no_grad()
def health(features_BD: Tensor, labels_B: Tensor) -> dict[str, float]:
    """How much the features of a batch can tell, by name; of its first `ROWS` rows.

    `rank`, `spread`; with two rows or more `uniformity`; with two rows of one label (a caption's views) `alignment`.
    Empty where a feature is not finite.
    """
    features_BD, labels_B = features_BD[:ROWS].detach(), labels_B[:ROWS].to(features_BD.device)
    if features_BD.dtype not in (torch.float32, torch.float64):
        features_BD = features_BD.float()
    if not len(features_BD) or not bool(features_BD.isfinite().all()):
        return {}
    unit_BD = F.normalize(features_BD, dim=1)
    found = {"rank": effective_rank(features_BD), "spread": spread(unit_BD)}
    if len(unit_BD) > 1:
        distances_P, same_P = _pairs(unit_BD, labels_B)
        found["uniformity"] = uniformity(distances_P)
        if bool(same_P.any()):
            found["alignment"] = alignment(distances_P, same_P)
    return {name: float(value) for name, value in found.items()}


def effective_rank(features_BD: Tensor) -> Tensor:
    """RankMe: exp of the entropy of the singular values as shares of their sum; from 1 to min(B, D)."""
    values = torch.linalg.svdvals(features_BD)
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


def alignment(distances_P: Tensor, same_P: Tensor) -> Tensor:
    """Mean squared distance of pairs with the same label; 0 is perfect."""
    return distances_P[same_P].mean()


def uniformity(distances_P: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of all pairs: 0 where all rows are one, lower where they spread out."""
    return (-t * distances_P).exp().mean().log()


def spread(unit_BD: Tensor) -> Tensor:
    """Standard deviation of a dimension of unit vectors, mean over dimensions: 0 collapsed, 1/sqrt(D) isotropic."""
    return unit_BD.std(dim=0, correction=0).mean()


def _pairs(unit_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of every two different rows, each pair once, and whether they share a label."""
    first_P, second_P = torch.triu_indices(len(unit_BD), len(unit_BD), offset=1, device=labels_B.device)
    return torch.pdist(unit_BD).square(), labels_B[first_P] == labels_B[second_P]


def collapse_warning(found: Mapping[str, float]) -> str:
    """What to tell people of `health`: that the features have collapsed, or nothing."""
    rank = found.get("rank", math.inf)
    return f"features have collapsed, their effective rank is {rank:.1f}" if rank < COLLAPSED else ""


def record_fields(card: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's card goes into its records; an older card has none of it."""
    return {name: card[name] for name in KEPT if name in card}
