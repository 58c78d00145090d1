"""Training diagnostics: loss spikes, and metrics of feature health that reveal collapse.

Effective rank: Garrido et al., RankMe, arXiv 2210.02885. Alignment and uniformity: Wang & Isola, arXiv 2005.10242.
Spread: Chen & He, SimSiam, arXiv 2011.10566.

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
"""Number of previous losses that a loss is compared with.

Enough for a robust median and deviation, and few compared with a schedule, over which the loss falls.
"""
MIN_LOSSES = 20
"""Losses before the first spike can be detected: the loss falls too fast at the start."""
SPIKE_DEVIATIONS = 10.0
"""Spike threshold, in median absolute deviations above the median.

For Gaussian noise it is 6.7 standard deviations, a false alarm once in 1e11 losses.
"""
MIN_RELATIVE_DEVIATION = 0.01
"""Lower bound of the deviation, as a fraction of the median: without noise, a spike is still 10 % above the median."""

MAX_ROWS = 512
"""Maximum rows of a batch that `health` uses; the pairs of more rows would take longer than a step."""
COLLAPSE_RANK = 2.0
"""Effective rank below which features count as collapsed. The rank of identical features is 1."""

RECORD_FIELDS = ("health", "spikes", "worst_spike")
"""Fields of a run's card that go into its records."""


class NonFiniteLoss(UserError):
    """The loss or the gradient norm is not finite. All processes raise it at the same step."""


class SpikeDetector:
    """Counter of loss spikes, which also raises if the loss or the gradient norm is not finite.

    A spike is not an error, since training mostly recovers; the count is recorded with the run's results.
    """

    def __init__(self, run: str, state: Mapping[str, Any] | None = None) -> None:
        """Create a detector for `run`, its name in errors; with an earlier `state()`, continue counting from there."""
        state = state or {}
        self._run = run
        self._losses: deque[float] = deque(map(float, state.get("losses", ())), maxlen=WINDOW)
        self.count = int(state.get("count", 0))
        self._height = float(state.get("height", 0.0))
        self._worst = int(state.get("worst", 0))

    def check(self, step: int, loss: float, gradient_norm: float | None, lr: float) -> None:
        """Add the loss of a step; `gradient_norm` is None if it was not computed.

        Raises:
            NonFiniteLoss: the loss or the gradient norm is not finite.
        """
        for name, value in (("loss", loss), ("gradient norm", gradient_norm)):
            if value is not None and not math.isfinite(value):
                raise NonFiniteLoss(
                    f"{self._run}: the {name} is {value} at step {step} (learning rate {lr:.2g}); "
                    "lower the learning rate or lengthen the warm-up"
                )
        if len(self._losses) >= MIN_LOSSES and (height := _spike_height(loss, self._losses)) > SPIKE_DEVIATIONS:
            self.count += 1
            if height > self._height:
                self._height, self._worst = height, step
        self._losses.append(loss)

    def state(self) -> dict[str, Any]:
        """Return the state for resuming, as JSON values that survive a round trip unchanged."""
        return {"losses": list(self._losses), "count": self.count, "height": self._height, "worst": self._worst}

    def card(self) -> dict[str, int]:
        """Return the fields of a run's card: the number of spikes and the step of the highest, if any."""
        return {"spikes": self.count} | ({"worst_spike": self._worst} if self.count else {})

    @property
    def note(self) -> str:
        """Human-readable summary. Empty without a spike."""
        if not self.count:
            return ""
        return f"{self.count} spike{'s' if self.count > 1 else ''} of the loss, the highest at step {self._worst}"


def _spike_height(loss: float, previous: deque[float]) -> float:
    """Return the distance of `loss` above the median of previous losses, in their median absolute deviations."""
    median = statistics.median(previous)
    deviation = statistics.median(abs(value - median) for value in previous)
    return (loss - median) / max(deviation, MIN_RELATIVE_DEVIATION * abs(median), 1e-12)


@torch.no_grad()
def health(features_BD: Tensor, labels_B: Tensor) -> dict[str, float]:
    """Compute feature-health metrics of the first `MAX_ROWS` rows of a batch.

    Returns:
        `rank` and `spread`; with two or more rows `uniformity`; with two or more rows of one label (views of one
        caption) `alignment`. Empty if a feature is not finite.
    """
    features_BD, labels_B = features_BD[:MAX_ROWS].detach(), labels_B[:MAX_ROWS].to(features_BD.device)
    if features_BD.dtype not in (torch.float32, torch.float64):
        features_BD = features_BD.float()
    if not len(features_BD) or not bool(features_BD.isfinite().all()):
        return {}
    unit_BD = F.normalize(features_BD, dim=1)
    metrics = {"rank": effective_rank(features_BD), "spread": spread(unit_BD)}
    if len(unit_BD) > 1:
        distances_P, same_label_P = _pairs(unit_BD, labels_B)
        metrics["uniformity"] = uniformity(distances_P)
        if bool(same_label_P.any()):
            metrics["alignment"] = alignment(distances_P, same_label_P)
    return {name: float(value) for name, value in metrics.items()}


def effective_rank(features_BD: Tensor) -> Tensor:
    """Compute RankMe, the exponential of the entropy of the normalized singular values, from 1 to min(B, D)."""
    values = torch.linalg.svdvals(features_BD)
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


def alignment(distances_P: Tensor, same_label_P: Tensor) -> Tensor:
    """Compute the mean squared distance of pairs with the same label; 0 is perfect."""
    return distances_P[same_label_P].mean()


def uniformity(distances_P: Tensor, t: float = 2.0) -> Tensor:
    """Compute the log of the mean Gaussian potential of all pairs: 0 if all rows are equal, lower if spread out."""
    return (-t * distances_P).exp().mean().log()


def spread(unit_BD: Tensor) -> Tensor:
    """Compute the mean standard deviation per dimension of unit vectors: 0 collapsed, 1/sqrt(D) isotropic."""
    return unit_BD.std(dim=0, correction=0).mean()


def _pairs(unit_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distance of each pair of different rows, and whether they share a label."""
    first_P, second_P = torch.triu_indices(len(unit_BD), len(unit_BD), offset=1, device=labels_B.device)
    return torch.pdist(unit_BD).square(), labels_B[first_P] == labels_B[second_P]


def collapse_warning(metrics: Mapping[str, float]) -> str:
    """Return a warning if the metrics of `health` show collapsed features, else an empty string."""
    rank = metrics.get("rank", math.inf)
    return f"features have collapsed, their effective rank is {rank:.1f}" if rank < COLLAPSE_RANK else ""


def record_fields(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the diagnostics in a run's card that go into its records; empty for cards of older versions."""
    return {name: card[name] for name in RECORD_FIELDS if name in card}
