"""The contrastive losses chunk by chunk: the same whatever the chunk, in the memory of one."""

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
TEXT_OF = torch.arange(N) % 9


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((N, D), (N, D), (9, D))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def of(name: str, features: Tensor, keys: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    if name == "multi_positive":
        return multi_positive(features, LABELS, 0.1)
    if name == "info_nce":
        return info_nce(features, keys, 0.2)
    return clip_loss(features, texts, TEXT_OF, scale)


def gradients(name: str) -> list[Tensor]:
    scale = torch.tensor(20.0, requires_grad=True)
    tensors = [*inputs(), scale]
    loss = of(name, *tensors)
    loss.backward()
    return [loss.detach(), *(tensor.grad for tensor in tensors if tensor.grad is not None)]


@pytest.mark.parametrize("name", ["multi_positive", "info_nce", "clip_loss"])
@pytest.mark.parametrize("rows", [1, 7, 49, 50])
def test_the_chunk_is_of_no_account(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradients(name)
    monkeypatch.setitem(losses.CHUNK, "cpu", rows * N)
    found = gradients(name)
    assert len(found) == len(whole) == {"multi_positive": 2, "info_nce": 3, "clip_loss": 4}[name]
    for mine, wanted in zip(found, whole):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["multi_positive", "info_nce", "clip_loss"])
def test_autocast_does_not_reach_a_loss(name: str) -> None:
    wanted = gradients(name)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(name)
    assert all(torch.equal(mine, other) for mine, other in zip(found, wanted))


@pytest.mark.parametrize("name", ["multi_positive", "info_nce", "clip_loss"])
def test_the_gradient_of_a_multiple_is_the_multiple_of_the_gradient(name: str) -> None:
    """The gradient is taken ahead of the backward pass, so what comes from above must still count."""
    tensors = [*inputs(), torch.tensor(20.0, requires_grad=True)]
    (3 * of(name, *tensors)).backward()
    for tensor, wanted in zip((t for t in tensors if t.grad is not None), gradients(name)[1:]):
        torch.testing.assert_close(tensor.grad, 3 * wanted, rtol=1e-5, atol=1e-6)


def test_nothing_is_differentiated_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "addmm_", lambda *_: pytest.fail("a gradient was taken"))
    with torch.no_grad():
        assert multi_positive(inputs()[0], LABELS, 0.1) > 0


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(settings or {}))
        made = [part.numel() for part in tree_leaves(result) if isinstance(part, Tensor)]
        self.elements = max([self.elements, *made])
        return result


def test_memory_is_linear_in_the_batch() -> None:
    """With 65,536 columns no tensor is larger than a chunk: a matrix of all pairs would have 4.3e9 elements."""
    count = 65_536
    features = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))[:256].requires_grad_()
    columns = torch.randn(count, 2)
    with Largest() as seen:
        labels = torch.arange(count)
        rows = F.normalize(features, dim=1)
        loss = losses._contrastive(rows, F.normalize(columns, dim=1), labels[:256], labels, torch.tensor(10.0))
        loss.backward()
    assert math.isfinite(loss.item())
    assert seen.elements <= losses.CHUNK["cpu"] < 256 * count
