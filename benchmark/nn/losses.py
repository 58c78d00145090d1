"""Losses as pure functions, computed in float32 for inputs of any precision, also under autocast.

With several processes, a loss is the mean over the local rows against the columns of all processes
(`benchmark.nn.distributed`). The matrix of all rows by all columns is never held in memory.

Shapes: N rows, M columns, T texts, D features.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from benchmark.nn.distributed import all_gather, all_reduce_mean, rank

P = ParamSpec("P")

CHUNK = {"cpu": 2**22, "cuda": 2**25}
"""Maximum number of similarities in memory at a time: few enough for a CPU's caches, enough to keep a GPU busy."""


def in_float32(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Decorate a loss to run with autocast disabled."""

    @functools.wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first = args[0]
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return loss(*args, **kwargs)

    return wrapper


@in_float32
def multi_positive(features_ND: Tensor, labels_N: Tensor, temperature: float) -> Tensor:
    """Return the multi-positive contrastive loss (StableRep, arXiv 2306.00984, equation 2), a scalar.

    Each row is an anchor. Its candidates are all other rows; its target is uniform over those with the same label.
    Labels define the positives: caption ids give StableRep's loss, image ids with two crops SimCLR's NT-Xent. The
    loss equals SupCon's L_out. A row without a positive adds zero but counts in the mean, as in the released code.
    """
    z_ND = F.normalize(features_ND.float(), dim=1)
    scale = _scalar(1 / temperature, z_ND)
    return _contrastive(z_ND, all_gather(z_ND), labels_N, all_gather(labels_N), scale, self_offset=rank() * len(z_ND))


@in_float32
def clip_loss(images_ND: Tensor, texts_TD: Tensor, text_index_N: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric image-text contrastive loss, the mean of both directions, a scalar.

    An image's target is its text; a text's target is uniform over its images, one or several (StableRep+). With one
    image per text this is CLIP's loss. `scale` is the inverse temperature; `text_index_N` indexes the local texts.
    """
    z_ND, t_TD = F.normalize(images_ND.float(), dim=1), F.normalize(texts_TD.float(), dim=1)
    texts_T = torch.arange(len(t_TD), device=t_TD.device) + rank() * len(t_TD)
    text_index_N = text_index_N + rank() * len(t_TD)
    to_texts = _contrastive(z_ND, all_gather(t_TD), text_index_N, all_gather(texts_T), scale.float())
    to_images = _contrastive(t_TD, all_gather(z_ND), texts_T, all_gather(text_index_N), scale.float())
    return (to_texts + to_images) / 2


@in_float32
def info_nce(queries_ND: Tensor, keys_ND: Tensor, temperature: float) -> Tensor:
    """Return the InfoNCE loss, a scalar: the positive is the key of the query's row, the negatives all other keys."""
    q_ND, k_ND = F.normalize(queries_ND.float(), dim=1), F.normalize(keys_ND.float(), dim=1)
    rows_N = torch.arange(len(q_ND), device=q_ND.device) + rank() * len(q_ND)
    return _contrastive(q_ND, all_gather(k_ND), rows_N, all_gather(rows_N), _scalar(1 / temperature, q_ND))


@in_float32
def masked_patch_mse(predicted_NPD: Tensor, target_NPD: Tensor, masked_NP: Tensor) -> Tensor:
    """Return the mean squared error of each row over its masked patches (MAE, arXiv 2111.06377), (N,).

    The target is normalized per patch (zero mean, unit variance), MAE's better variant. P patches, D pixel values.
    """
    target_NPD = target_NPD.float()
    variance_NP1, mean_NP1 = torch.var_mean(target_NPD, dim=2, keepdim=True)
    error_NP = ((predicted_NPD.float() - (target_NPD - mean_NP1) / (variance_NP1 + 1e-6).sqrt()) ** 2).mean(2)
    return (error_NP * masked_NP).sum(1) / masked_NP.sum(1)


def _contrastive(
    rows_ND: Tensor,
    columns_MD: Tensor,
    labels_N: Tensor,
    labels_M: Tensor,
    scale: Tensor,
    self_offset: int | None = None,
) -> Tensor:
    """Return the mean over rows of the cross-entropy between softmax(scale * row . columns) and uniform positives.

    The cross-entropy is the log-partition minus the mean similarity of the positives, and the latter is one product
    with the sum of their vectors.

    Args:
        rows_ND: Anchors, unit vectors.
        columns_MD: Candidates, unit vectors.
        labels_N: Labels of the rows; the positives of a row are the columns with its label.
        labels_M: Labels of the columns.
        scale: Inverse temperature, a scalar.
        self_offset: Column `self_offset + i` is row i itself and no candidate of it. None: all columns are candidates.
    """
    # A class is the place of its first label in sorted order. Unlike `unique`, this has a fixed size: the CPU that
    # queues the work of a GPU never waits for a result.
    sorted_M = labels_M.sort().values
    class_of_M, class_of_N = (torch.searchsorted(sorted_M, labels) for labels in (labels_M, labels_N))
    class_of_N = class_of_N.clamp(max=len(sorted_M) - 1)
    sum_MD = torch.zeros_like(columns_MD).index_add(0, class_of_M, columns_MD)
    count_M = torch.zeros_like(class_of_M).index_add(0, class_of_M, torch.ones_like(class_of_M))
    positives_ND, count_N = sum_MD[class_of_N], count_M[class_of_N] * (sorted_M[class_of_N] == labels_N)
    if self_offset is not None:
        positives_ND, count_N = positives_ND - rows_ND, count_N - 1
    weight_N = (count_N > 0).to(rows_ND.dtype) / len(rows_ND)
    similarity_N = (rows_ND * positives_ND).sum(1) / count_N.clamp(min=1)
    log_partition: Tensor = _LogPartition.apply(rows_ND, columns_MD, scale, weight_N, self_offset)
    return log_partition - scale * (weight_N * similarity_N).sum()


def _scalar(value: float, like: Tensor) -> Tensor:
    """Return a scalar on the device of `like`, filled there: a copy from the CPU would wait for all earlier work."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


class _LogPartition(torch.autograd.Function):
    """Weighted sum over rows i of log sum_j exp(scale * row_i . column_j), where j is not self_offset + i.

    The forward pass also computes the gradient of each chunk of rows while its similarities are in memory. This takes
    as much arithmetic as the whole matrix, but the memory of one chunk. R rows of a chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, rows_ND: Tensor, columns_MD: Tensor, scale: Tensor, weight_N: Tensor, self_offset: int | None
    ) -> Tensor:
        """Return the sum, a scalar.

        Args:
            ctx: Context of the backward pass.
            rows_ND: Rows, float32.
            columns_MD: Columns, float32.
            scale: Inverse temperature, a scalar.
            weight_N: Weights of the rows in the sum.
            self_offset: Column `self_offset + i` is left out for row i. None: no column is left out.
        """
        size = max(1, CHUNK.get(rows_ND.device.type, CHUNK["cuda"]) // len(columns_MD))
        needed = any(ctx.needs_input_grad)
        total = rows_ND.new_zeros(())
        d_rows_ND, d_columns_MD = torch.empty_like(rows_ND), torch.zeros_like(columns_MD)
        for start in range(0, len(rows_ND), size):
            chunk = slice(start, start + size)
            scaled_RD = rows_ND[chunk] * scale
            s_RM = scaled_RD @ columns_MD.T
            if self_offset is not None:
                s_RM.diagonal(self_offset + start).fill_(-torch.inf)
            max_R1 = s_RM.amax(1, keepdim=True)
            sum_R1 = s_RM.sub_(max_R1).exp_().sum(1, keepdim=True)
            total += (weight_N[chunk] * (max_R1 + sum_R1.log())[:, 0]).sum()
            if needed:
                share_R1 = weight_N[chunk, None] / sum_R1
                torch.mm(s_RM, columns_MD, out=d_rows_ND[chunk]).mul_(share_R1 * scale)
                if ctx.needs_input_grad[1]:
                    d_columns_MD.addmm_(s_RM.T, scaled_RD * share_R1)
        if needed:
            ctx.save_for_backward(d_rows_ND, d_columns_MD, (d_rows_ND * rows_ND).sum() / scale)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        d_rows_ND, d_columns_MD, d_scale = ctx.saved_tensors
        return gradient * d_rows_ND, gradient * d_columns_MD, gradient * d_scale, None, None


def swap_view_pairs(rows_ND: Tensor) -> Tensor:
    """Return the rows with 2 i and 2 i + 1 swapped; they are a pair, such as two crops of an image."""
    return rows_ND.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


@in_float32
def byol_loss(predicted_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Return the mean squared distance of unit vectors, 2 - 2 cos (BYOL, arXiv 2006.07733, equation 2), a scalar."""
    p_ND, t_ND = F.normalize(predicted_ND.float(), dim=1), F.normalize(target_ND.float(), dim=1)
    return 2 - 2 * (p_ND * t_ND).sum(1).mean()


@in_float32
def dino_loss(
    student_NK: Tensor, teacher_NK: Tensor, center_K: Tensor, student_temperature: float, teacher_temperature: Tensor
) -> Tensor:
    """Return the cross-entropy of the student and the centered, sharpened teacher (DINO, arXiv 2104.14294), (N,).

    Args:
        student_NK: Scores of the student for K prototypes.
        teacher_NK: Scores of the teacher; they get no gradient.
        center_K: Running mean of the teacher's scores, subtracted from the teacher only.
        student_temperature: Softmax temperature of the student.
        teacher_temperature: Softmax temperature of the teacher, a scalar; a lower one sharpens the target.
    """
    target_NK = F.softmax((teacher_NK.detach().float() - center_K) / teacher_temperature, dim=1)
    return -(target_NK * F.log_softmax(student_NK.float() / student_temperature, dim=1)).sum(1)


@torch.no_grad()
def global_mean(rows_ND: Tensor) -> Tensor:
    """Return the mean over the rows of all processes, (D,), without gradient."""
    return all_reduce_mean(rows_ND.float().mean(0))
