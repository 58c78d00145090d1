"""StableRep's linear heads compared with torch's layers and optimizer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.evaluations.solvers.sgd_heads import Heads

RATES = (0.01, 0.5)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_steps_match_torch(batch_norm):
    generator = np.random.default_rng(0)
    steps, size = 12, (32, 7)
    heads = Heads(RATES, 7, 3, batch_norm=batch_norm, steps=steps, seed=0)
    layers = [nn.Linear(7, 3) for _ in RATES]
    for at, layer in enumerate(layers):
        layer.weight.data = heads._weight_HDK[at].T.clone()
        layer.bias.data.zero_()
    norms = [nn.BatchNorm1d(7, affine=False, eps=1e-6) if batch_norm else nn.Identity() for _ in RATES]
    rates = [rate * size[0] / 256 for rate in RATES]
    optimizers = [torch.optim.SGD(layer.parameters(), rate, momentum=0.9) for layer, rate in zip(layers, rates)]
    for step in range(steps):
        x = (3 * generator.standard_normal(size) + 1).astype(np.float32)
        label = generator.integers(0, 3, size[0])
        heads.step(x, label)
        for layer, norm, optimizer, rate in zip(layers, norms, optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(norm(torch.from_numpy(x))), torch.from_numpy(label)).backward()
            optimizer.step()
    x = generator.standard_normal((5, 7)).astype(np.float32)
    expected = [layer(norm.eval()(torch.from_numpy(x))).detach().numpy() for layer, norm in zip(layers, norms)]
    for head, logits in enumerate(expected):
        assert heads.logits(x, head) == pytest.approx(logits, abs=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def test_initial_weights_are_small_and_seeded():
    heads = Heads(RATES, 400, 50, batch_norm=False, steps=1, seed=3)
    assert heads._weight_HDK.std().item() == pytest.approx(0.01, rel=0.02)
    assert torch.equal(heads._weight_HDK, Heads(RATES, 400, 50, batch_norm=False, steps=1, seed=3)._weight_HDK)
    assert not torch.equal(heads._weight_HDK, Heads(RATES, 400, 50, batch_norm=False, steps=1, seed=4)._weight_HDK)
    assert not torch.equal(heads._weight_HDK[0], heads._weight_HDK[1])
