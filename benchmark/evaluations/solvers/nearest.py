"""The nearest rows of a gallery, in the same order on every machine.

Candidates are found in float32, on the GPU if there is one, and ordered by their distances in float64. A query whose
nearest rows may not all be among its candidates is compared with the whole gallery in float64.

Shapes: P rows of the gallery, Q queries, B queries of a batch, L candidates, D dimensions.
"""

import numpy as np
import torch

from benchmark.evaluations.solvers.device import compute_device, full_float32

BATCH_SCORES = 2**25
"""Scores per batch, which bounds the memory at 128 MiB."""
BATCH_VALUES = 2**24
"""Numbers per batch in float64."""
MARGIN = 34
"""Candidates beyond the number of rows asked for."""
FLOAT32_ROUNDOFF = 2.0**-24


@full_float32()
def nearest(gallery_PD: np.ndarray, queries_QD: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the gallery with the smallest Euclidean distances (Q, count), the nearest first.

    Rows at the same distance are in the order of the gallery. With unit vectors, this is the order by cosine.
    """
    device, candidates = compute_device(), min(len(gallery_PD), count + MARGIN)
    on_device_PD = torch.from_numpy(gallery_PD).to(device)
    half_norm_P = on_device_PD.square().sum(dim=1) / 2
    found_QC = np.empty((len(queries_QD), count), np.int64)
    size = max(1, BATCH_SCORES // len(gallery_PD))
    for start in range(0, len(queries_QD), size):
        query_BD = queries_QD[start : start + size]
        score_BP = torch.from_numpy(query_BD).to(device) @ on_device_PD.T - half_norm_P
        score_BL, row_BL = (part.cpu().numpy() for part in score_BP.topk(candidates))
        row_BL.sort(axis=1)
        row_BC, distance_BC = _order(gallery_PD, query_BD, row_BL, count)
        found_QC[start : start + size] = row_BC
        if candidates == len(gallery_PD):
            continue
        norm_B = np.linalg.norm(query_BD.astype(np.float64), axis=1)
        longest_B = norm_B + np.sqrt(distance_BC[:, -1])  # the norm of a row that is nearer than the last one found
        error_B = (gallery_PD.shape[1] + 16) * FLOAT32_ROUNDOFF * longest_B * (norm_B + longest_B)
        last_score_B = (np.square(norm_B) - distance_BC[:, -1]) / 2
        for row in np.flatnonzero(last_score_B <= score_BL[:, -1] + error_B):
            everything_1P = np.arange(len(gallery_PD))[None]
            found_QC[start + row] = _order(gallery_PD, query_BD[row : row + 1], everything_1P, count)[0]
    return found_QC


def _order(
    gallery_PD: np.ndarray, query_BD: np.ndarray, row_BL: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of these rows and their squared distances in float64, (B, count) each."""
    distance_BL = np.empty(row_BL.shape)
    for query_D, row_L, distance_L in zip(query_BD.astype(np.float64), row_BL, distance_BL):
        for start in range(0, len(row_L), size := max(1, BATCH_VALUES // len(query_D))):
            rows = row_L[start : start + size]
            distance_L[start : start + size] = np.square(gallery_PD[rows] - query_D).sum(axis=1)
    order_BC = np.argsort(distance_BL, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(row_BL, order_BC, axis=1), np.take_along_axis(distance_BL, order_BC, axis=1)
