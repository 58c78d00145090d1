"""The links of logistic regression: losses of logits, and their first and second derivatives, by chunks of rows.

Shapes: N rows, B rows of a chunk, K classes or labels, R parameters of a class, M classifiers, P problems: 1 with
`Softmax`, K with `Sigmoid`.
"""

import torch
from torch import Tensor


class Softmax:
    """The softmax link: cross-entropy of one class per row, which is one problem (P = 1)."""

    def __init__(self, label_N: Tensor, share_K: Tensor) -> None:
        self._label_1N = label_N[None]
        self.prior_K = share_K.log() - share_K.log().mean()  # the optimal bias for weights of zero

    def loss(self, logits_KB: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses (P, 1) and residual_KB, its derivative with respect to the logits."""
        label_1B = self._label_1N[:, rows]
        margin_KB = (logits_KB - logits_KB.gather(0, label_1B)).scatter_(0, label_1B, -torch.inf)
        against_1B = margin_KB.logsumexp(dim=0, keepdim=True)
        loss_1B = torch.logaddexp(against_1B, torch.zeros_like(against_1B))
        residual_KB = margin_KB.sub_(loss_1B).exp_().scatter_(0, label_1B, -against_1B.sigmoid())
        return loss_1B.sum(dim=1, keepdim=True), residual_KB

    def residual_change(self, residual_KB: Tensor, change_KB: Tensor, rows: slice) -> Tensor:
        """Overwrite a small change of the logits (K, B) with the change of the residual, and return it."""
        label_1B = self._label_1N[:, rows]
        change_KB -= change_KB.gather(0, label_1B)
        mean_1B = (residual_KB * change_KB).sum(dim=0, keepdim=True)
        return change_KB.sub_(mean_1B).mul_(residual_KB).scatter_add_(0, label_1B, -mean_1B)

    def center_step(self, step_KR: Tensor) -> Tensor:
        """Return the step minus its mean over classes, which no loss depends on."""
        return step_KR - step_KR.mean(dim=0)

    def split_by_problem(self, entries_MKR: Tensor) -> Tensor:
        """Return the entries split by problem (P, M, K * R / P)."""
        return entries_MKR.flatten(1)[None]


class Sigmoid:
    """The sigmoid link: any set of labels per row, each label a problem of its own (P = K)."""

    def __init__(self, target_KN: Tensor, share_K: Tensor) -> None:
        self._target_KN = target_KN
        self.prior_K = share_K.logit()

    def loss(self, logits_KB: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return the sums of the losses (P, 1) and residual_KB, as `Softmax.loss`."""
        target_KB = self._target_KN[:, rows]
        against_KB = torch.where(target_KB, -logits_KB, logits_KB)
        loss_KB = torch.logaddexp(against_KB, torch.zeros_like(against_KB))
        wrong_KB = against_KB.sigmoid()
        return loss_KB.sum(dim=1, keepdim=True), torch.where(target_KB, -wrong_KB, wrong_KB)

    def residual_change(self, residual_KB: Tensor, change_KB: Tensor, rows: slice) -> Tensor:  # noqa: ARG002
        """Overwrite a small change of the logits (K, B) with the change of the residual, and return it."""
        return change_KB.mul_(variance(residual_KB))

    def center_step(self, step_KR: Tensor) -> Tensor:
        """Return the step: each label has its own loss."""
        return step_KR

    def split_by_problem(self, entries_MKR: Tensor) -> Tensor:
        """Return the entries split by problem (P, M, R)."""
        return entries_MKR.transpose(0, 1)


def variance(residual_KB: Tensor) -> Tensor:
    """Return p (1 - p), the diagonal of the Hessian by the logits; the size of a residual is p or 1 - p."""
    size_KB = residual_KB.abs()
    return size_KB * (1 - size_KB)
