"""A few seconds of training on the contract's toy batches."""

import torch

from benchmark import contract
from benchmark.interfaces import Method, Model


def trained(method: Method, steps: int = 60, lr: float = 3e-3) -> Model:
    """The method's model after `steps` steps on batches that share their captions and colours."""
    model = contract.build(method).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(contract.toy_batch(method, seed=step))["loss"].backward()
        optimizer.step()
        model.after_step((step + 1) / steps)
    return model


@torch.no_grad()
def distances(model: Model, method: Method) -> tuple[float, float]:
    """Mean distance of the features of two views of one caption, and of two captions; on a batch not seen before."""
    batch = contract.toy_batch(method, seed=1000)
    features = model.vit(batch.images_V3HW)
    distance = torch.cdist(features, features)
    same = batch.caption_ids_V[:, None] == batch.caption_ids_V
    return float(distance[same & ~torch.eye(len(features), dtype=torch.bool)].mean()), float(distance[~same].mean())
