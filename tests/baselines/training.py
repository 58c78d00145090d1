"""A few seconds of training on the contract's toy batches."""

import torch

from benchmark import contract
from benchmark.interfaces import Method, Model


def trained(method: Method, steps: int = 60) -> Model:
    """The method's model after `steps` steps on batches that share their captions and colours."""
    model = contract.build(method).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(contract.toy_batch(method, seed=step))["loss"].backward()
        optimizer.step()
        model.after_step((step + 1) / steps)
    return model
