"""StableRep's linear classifiers on ImageNet: ten heads, each with its own learning rate, trained jointly by SGD.

`StableRep/main_linear.py` (Tian et al., 2023): weights from N(0, 0.01), biases 0, momentum 0.9, no weight decay,
learning rate = base x batch / 256, half a cosine to zero over all steps, no warm-up; optionally preceded by batch norm
without affine parameters (eps 1e-6). The heads are independent, so each minimizes its own cross-entropy.

They are on the GPU if there is one, in float32.

Shapes: B images of a batch, N images, D dimensions, K classes, H heads.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.evaluations.solvers.chunks import row_chunks
from benchmark.evaluations.solvers.device import compute_device, full_float32


class Heads:
    """Linear classifiers (H, D, K) in training, one per learning rate."""

    def __init__(self, rates: tuple[float, ...], d: int, k: int, *, batch_norm: bool, steps: int, seed: int) -> None:
        """Initialize the weights.

        Args:
            rates: Base learning rate of each head (H).
            d: Number of feature dimensions.
            k: Number of classes.
            batch_norm: Normalize the features by a batch norm without affine parameters.
            steps: Total number of SGD steps, for the cosine schedule.
            seed: Seed of the initial weights.
        """
        generator = torch.Generator().manual_seed(seed)
        self._device = device = compute_device()
        self._rate_H11 = torch.tensor(rates, device=device).view(-1, 1, 1)
        self._weight_HDK = (torch.randn(len(rates), d, k, generator=generator) * 0.01).to(device)
        self._bias_H1K = torch.zeros(len(rates), 1, k, device=device)
        self._momentum = [torch.zeros_like(part) for part in (self._weight_HDK, self._bias_H1K)]
        self._mean_D, self._variance_D = torch.zeros(d, device=device), torch.ones(d, device=device)
        self._batch_norm = batch_norm
        self._step, self._steps = 0, steps

    @full_float32()
    def step(self, x_BD: np.ndarray, label_B: np.ndarray) -> None:
        """Update every head by one SGD step on a batch."""
        x = self._normalize(torch.from_numpy(x_BD).to(self._device), training=True)
        label = torch.from_numpy(label_B).to(self._device)
        residual_HBK = torch.softmax(x @ self._weight_HDK + self._bias_H1K, dim=2)
        residual_HBK -= F.one_hot(label, residual_HBK.shape[2])
        residual_HBK /= len(x)
        scale = len(x) / 256 * 0.5 * (1 + math.cos(math.pi * self._step / self._steps))
        gradients = (x.T @ residual_HBK, residual_HBK.sum(dim=1, keepdim=True))
        for part, momentum, gradient in zip((self._weight_HDK, self._bias_H1K), self._momentum, gradients):
            momentum.mul_(0.9).add_(gradient)
            part.sub_(self._rate_H11 * scale * momentum)
        self._step += 1

    def accuracies(self, x_ND: np.ndarray, label_N: np.ndarray) -> np.ndarray:
        """Return the accuracy of every head (H,)."""
        prediction_HN = np.empty((len(self._rate_H11), len(x_ND)), int)
        for rows, logits_HBK in self._logits(x_ND):
            prediction_HN[:, rows] = logits_HBK.argmax(dim=2).cpu().numpy()
        accuracy_H: np.ndarray = (prediction_HN == label_N).mean(axis=1)
        return accuracy_H

    def logits(self, x_ND: np.ndarray, head: int) -> np.ndarray:
        """Return the logits of a head (N, K)."""
        logits_NK = np.empty((len(x_ND), self._bias_H1K.shape[2]), np.float32)
        for rows, logits_HBK in self._logits(x_ND):
            logits_NK[rows] = logits_HBK[head].cpu().numpy()
        return logits_NK

    def _logits(self, x_ND: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """Yield chunks of rows with the logits of every head (H, B, K); batch norm uses its running statistics."""
        heads, _, classes = self._bias_H1K.shape
        for rows in row_chunks(len(x_ND), heads * classes, self._device.type):
            x_BD = self._normalize(torch.from_numpy(x_ND[rows]).to(self._device), training=False)
            with full_float32():
                logits_HBK = x_BD @ self._weight_HDK + self._bias_H1K
            yield rows, logits_HBK

    def _normalize(self, x_BD: Tensor, *, training: bool) -> Tensor:
        if not self._batch_norm:
            return x_BD
        return F.batch_norm(x_BD, self._mean_D, self._variance_D, training=training, momentum=0.1, eps=1e-6)
