"""The chunked contrastive losses do not depend on the chunk size and need the memory of one chunk."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.nn import losses
from benchmark.nn.losses import clip_loss, info_nce, multi_positive

N, D = 50, 8
LABELS = torch.arange(N) % 7
TEXT_INDEX = torch.arange(N) % 9


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((N, D), (N, D), (9, D))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def compute_loss(name: str, features: Tensor, keys: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    if name == "multi_positive":
        return multi_positive(features, LABELS, 0.1)
    if name == "info_nce":
        return info_nce(features, keys, 0.2)
    return clip_loss(features, texts, TEXT_INDEX, scale)


def loss_and_gradients(name: str) -> list[Tensor]:
    scale = torch.tensor(20.0, requires_grad=True)
    tensors = [*inputs(), scale]
    loss = compute_loss(name, *tensors)
    loss.backward()
    return [loss.detach(), *(tensor.grad for tensor in tensors if tensor.grad is not None)]


@pytest.mark.parametrize("name", ["multi_positive", "info_nce", "clip_loss"])
@pytest.mark.parametrize("rows", [1, 7, 49, 50])
def test_chunk_size_does_not_matter(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loss_and_gradients(name)
    monkeypatch.setitem(losses.CHUNK, "cpu", rows * N)
    found = loss_and_gradients(name)
    assert len(found) == len(whole) == {"multi_positive": 2, "info_nce": 3, "clip_loss": 4}[name]
    for value, expected in zip(found, whole):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["multi_positive", "info_nce", "clip_loss"])
def test_losses_ignore_autocast(name: str) -> None:
    wanted = loss_and_gradients(name)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradients(name)
    assert all(torch.equal(value, expected) for value, expected in zip(found, wanted))


@pytest.mark.parametrize("name", ["multi_positive", "info_nce", "clip_loss"])
def test_gradient_is_scaled_by_the_upstream_gradient(name: str) -> None:
    """The forward pass computes the gradient, so the backward pass must multiply it by the upstream gradient."""
    tensors = [*inputs(), torch.tensor(20.0, requires_grad=True)]
    (3 * compute_loss(name, *tensors)).backward()
    for tensor, wanted in zip((t for t in tensors if t.grad is not None), loss_and_gradients(name)[1:]):
        torch.testing.assert_close(tensor.grad, 3 * wanted, rtol=1e-5, atol=1e-6)


def test_no_gradient_is_computed_under_no_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "addmm_", lambda *_: pytest.fail("a gradient was computed"))
    with torch.no_grad():
        assert multi_positive(inputs()[0], LABELS, 0.1) > 0


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        created = [part.numel() for part in tree_leaves(result) if isinstance(part, Tensor)]
        self.elements = max([self.elements, *created])
        return result


def test_memory_is_linear_in_the_batch() -> None:
    """With 65,536 columns, no tensor is larger than a chunk; a matrix of all pairs would have 4.3e9 elements."""
    count = 65_536
    features = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))[:256].requires_grad_()
    columns = torch.randn(count, 2)
    with LargestTensor() as largest:
        labels = torch.arange(count)
        rows = F.normalize(features, dim=1)
        loss = losses._contrastive(rows, F.normalize(columns, dim=1), labels[:256], labels, torch.tensor(10.0))
        loss.backward()
    assert math.isfinite(loss.item())
    assert largest.elements <= losses.CHUNK["cpu"] < 256 * count
