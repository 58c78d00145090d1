"""The losses, as pure functions. All compute in float32 whatever comes in, under autocast too, and keep no state.

With several processes a loss is the mean over this process's rows against the columns of all
(`benchmark.nn.distributed`); no matrix of all rows by all columns is ever kept.

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
"""Similarities that are in memory at a time: on a CPU as many as its caches hold, on a GPU enough to keep it busy."""


def in_float32(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Switch autocast off inside a loss."""

    @functools.wraps(loss)
    def computed(*tensors: P.args, **settings: P.kwargs) -> Tensor:
        first = tensors[0]
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return loss(*tensors, **settings)

    return computed


@in_float32
def multi_positive(features_ND: Tensor, labels_N: Tensor, temperature: float) -> Tensor:
    """Multi-positive contrastive loss (StableRep, arXiv 2306.00984, equation 2): a scalar.

    Every row is an anchor; its target is uniform over the other rows with its label, its candidates are all other
    rows. Labels alone decide: caption ids make it StableRep's, image ids with two crops make it SimCLR's NT-Xent.
    Equals SupCon's L_out. A row without a positive adds zero but counts in the mean, as in the released code.
    """
    z_ND = F.normalize(features_ND.float(), dim=1)
    scale = z_ND.new_tensor(1 / temperature)
    return _contrastive(z_ND, all_gather(z_ND), labels_N, all_gather(labels_N), scale, self_offset=rank() * len(z_ND))


@in_float32
def clip_loss(images_ND: Tensor, texts_TD: Tensor, text_of_N: Tensor, scale: Tensor) -> Tensor:
    """Symmetric image-text contrastive loss with several images per text: the mean of both directions, a scalar.

    An image's target is its one text; a text's target is uniform over its images (StableRep+; with one image per
    text it is CLIP's loss). `scale` is the inverse temperature; `text_of_N` counts this process's texts.
    """
    z_ND, t_TD = F.normalize(images_ND.float(), dim=1), F.normalize(texts_TD.float(), dim=1)
    texts_T = torch.arange(len(t_TD), device=t_TD.device) + rank() * len(t_TD)
    text_of_N = text_of_N + rank() * len(t_TD)
    to_texts = _contrastive(z_ND, all_gather(t_TD), text_of_N, all_gather(texts_T), scale.float())
    to_images = _contrastive(t_TD, all_gather(z_ND), texts_T, all_gather(text_of_N), scale.float())
    return (to_texts + to_images) / 2


@in_float32
def info_nce(queries_ND: Tensor, keys_ND: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each query with the key of its row against the keys of all other rows: a scalar."""
    q_ND, k_ND = F.normalize(queries_ND.float(), dim=1), F.normalize(keys_ND.float(), dim=1)
    rows_N = torch.arange(len(q_ND), device=q_ND.device) + rank() * len(q_ND)
    return _contrastive(q_ND, all_gather(k_ND), rows_N, all_gather(rows_N), q_ND.new_tensor(1 / temperature))


@in_float32
def masked_patch_mse(predicted_NPD: Tensor, target_NPD: Tensor, masked_NP: Tensor) -> Tensor:
    """Mean squared error of each row over its masked patches only (MAE, arXiv 2111.06377): (N,).

    The target is normalised per patch (zero mean, unit variance), MAE's better variant. P patches, D pixel values.
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

    Positives are the columns with the row's label; column `self_offset + i` is no candidate of row i. The
    cross-entropy is the log-partition minus the mean similarity of positives, and the latter is one product with the
    sum of their vectors.
    """
    classes_C, class_of_M, count_C = labels_M.unique(return_inverse=True, return_counts=True)
    sum_CD = columns_MD.new_zeros(len(classes_C), columns_MD.shape[1]).index_add(0, class_of_M, columns_MD)
    class_of_N = torch.searchsorted(classes_C, labels_N).clamp(max=len(classes_C) - 1)
    known_N = classes_C[class_of_N] == labels_N
    positives_ND, count_N = sum_CD[class_of_N], count_C[class_of_N] * known_N
    if self_offset is not None:
        positives_ND, count_N = positives_ND - rows_ND, count_N - 1
    weight_N = (count_N > 0).to(rows_ND.dtype) / len(rows_ND)
    similarity_N = (rows_ND * positives_ND).sum(1) / count_N.clamp(min=1)
    log_partition: Tensor = _LogPartition.apply(rows_ND, columns_MD, scale, weight_N, self_offset)
    return log_partition - scale * (weight_N * similarity_N).sum()


class _LogPartition(torch.autograd.Function):
    """Weighted sum over rows of log sum_j exp(scale * row . column_j), j not self_offset.

    The gradient of a chunk of rows is taken while its similarities are there: as much arithmetic as with the whole
    matrix, and the memory of a chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, rows_ND: Tensor, columns_MD: Tensor, scale: Tensor, weight_N: Tensor, self_offset: int | None
    ) -> Tensor:
        size = max(1, CHUNK.get(rows_ND.device.type, CHUNK["cuda"]) // len(columns_MD))
        needed = any(ctx.needs_input_grad)
        total = rows_ND.new_zeros(())
        d_rows_ND, d_columns_MD = torch.empty_like(rows_ND), torch.zeros_like(columns_MD)
        for start in range(0, len(rows_ND), size):
            mine = slice(start, start + size)
            scaled_RD = rows_ND[mine] * scale
            s_RM = scaled_RD @ columns_MD.T
            if self_offset is not None:
                s_RM.diagonal(self_offset + start).fill_(-torch.inf)
            top_R1 = s_RM.amax(1, keepdim=True)
            sum_R1 = s_RM.sub_(top_R1).exp_().sum(1, keepdim=True)
            total += (weight_N[mine] * (top_R1 + sum_R1.log())[:, 0]).sum()
            if needed:
                share_R1 = weight_N[mine, None] / sum_R1
                torch.mm(s_RM, columns_MD, out=d_rows_ND[mine]).mul_(share_R1 * scale)
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
    """Each row replaced by the other of its pair; rows 2 i and 2 i + 1 are a pair, such as two crops of an image."""
    return rows_ND.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


@in_float32
def byol_loss(predicted_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Mean squared distance between unit vectors, 2 - 2 cos (BYOL, arXiv 2006.07733, equation 2): a scalar."""
    p_ND, t_ND = F.normalize(predicted_ND.float(), dim=1), F.normalize(target_ND.float(), dim=1)
    return 2 - 2 * (p_ND * t_ND).sum(1).mean()


@in_float32
def dino_loss(
    student_NK: Tensor, teacher_NK: Tensor, centre_K: Tensor, student_temperature: float, teacher_temperature: Tensor
) -> Tensor:
    """Cross-entropy of the student with the centred, sharpened teacher (DINO, arXiv 2104.14294): of each row, (N,).

    K prototypes. The centre is taken off the teacher only, and no gradient goes to the teacher.
    """
    target_NK = F.softmax((teacher_NK.detach().float() - centre_K) / teacher_temperature, dim=1)
    return -(target_NK * F.log_softmax(student_NK.float() / student_temperature, dim=1)).sum(1)


@torch.no_grad()
def global_mean(rows_ND: Tensor) -> Tensor:
    """Mean over the rows of all processes, (D,)."""
    return all_reduce_mean(rows_ND.float().mean(0))
