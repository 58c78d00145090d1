"""The losses, as pure functions. All compute in float32 whatever comes in, and keep no state.

Shapes: N rows, M columns, T texts, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_positive(features_ND: Tensor, labels_N: Tensor, temperature: float) -> Tensor:
    """Multi-positive contrastive loss (StableRep, arXiv 2306.00984, equation 2): a scalar.

    Every row is an anchor; its target is uniform over the other rows with its label, its candidates are all other
    rows. Labels alone decide: caption ids make it StableRep's, image ids with two crops make it SimCLR's NT-Xent.
    Equals SupCon's L_out. A row without a positive adds zero but counts in the mean, as in the released code.
    """
    z_ND = F.normalize(features_ND.float(), dim=1)
    itself_NN = torch.eye(len(z_ND), dtype=torch.bool, device=z_ND.device)
    logits_NN = (z_ND @ z_ND.T / temperature).masked_fill(itself_NN, -torch.inf)
    positive_NN = (labels_N[:, None] == labels_N) & ~itself_NN
    return _soft_target_loss(logits_NN, positive_NN)


def image_text(images_ND: Tensor, texts_TD: Tensor, text_of_N: Tensor, scale: Tensor) -> Tensor:
    """Symmetric image-text contrastive loss with several images per text: the mean of both directions, a scalar.

    An image's target is its one text; a text's target is uniform over its images (StableRep+; with one image per
    text it is CLIP's loss). `scale` is the inverse temperature.
    """
    z_ND, t_TD = F.normalize(images_ND.float(), dim=1), F.normalize(texts_TD.float(), dim=1)
    logits_NT = scale.float() * z_ND @ t_TD.T
    owned_TN = torch.arange(len(t_TD), device=z_ND.device)[:, None] == text_of_N
    return (F.cross_entropy(logits_NT, text_of_N) + _soft_target_loss(logits_NT.T, owned_TN)) / 2


def masked_pixels(predicted_NPD: Tensor, target_NPD: Tensor, masked_NP: Tensor) -> Tensor:
    """Mean squared error over masked patches only (MAE, arXiv 2111.06377): a scalar.

    The target is normalised per patch (zero mean, unit variance), MAE's better variant. P patches, D pixel values.
    """
    target_NPD = target_NPD.float()
    variance, mean = torch.var_mean(target_NPD, dim=2, keepdim=True)
    error_NP = ((predicted_NPD.float() - (target_NPD - mean) / (variance + 1e-6).sqrt()) ** 2).mean(2)
    return (error_NP * masked_NP).sum() / masked_NP.sum()


def _soft_target_loss(logits_NM: Tensor, positive_NM: Tensor) -> Tensor:
    """Cross-entropy against the uniform distribution over each row's positives."""
    log_q_NM = F.log_softmax(logits_NM, dim=1).masked_fill(~positive_NM, 0)
    return -(log_q_NM.sum(1) / positive_NM.sum(1).clamp(min=1)).mean()
