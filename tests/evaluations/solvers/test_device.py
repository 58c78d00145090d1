"""Where evaluations compute, and in which precision. Fake tensors raise where two devices meet, without a GPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from benchmark.evaluations import knn
from benchmark.evaluations.solvers import sgd_heads
from benchmark.evaluations.solvers.device import compute_device, full_float32
from benchmark.evaluations.solvers.logistic import sweep
from benchmark.evaluations.solvers.sgd_heads import Heads

RNG = np.random.default_rng(0)
LABEL_N = RNG.integers(0, 5, 400)
X_ND = (np.eye(5, 8)[LABEL_N] + RNG.standard_normal((400, 8))).astype(np.float32)
X_MD = X_ND[:30] + RNG.standard_normal((30, 8)).astype(np.float32)
KS = (5, 50)


def heads() -> Heads:
    trained = Heads((0.1, 0.5), 8, 5, batch_norm=True, steps=20, seed=0)
    for at in range(20):
        trained.step(X_ND[20 * at : 20 * at + 20], LABEL_N[20 * at : 20 * at + 20])
    return trained


@pytest.mark.parametrize(("available", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_used_if_there_is_one(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert compute_device() == torch.device(device)


@pytest.fixture
def copied_to_host(monkeypatch) -> list[str]:
    """The device of each tensor that is copied to the host; its values become zero."""
    seen: list[str] = []

    def cpu(tensor: torch.Tensor) -> SimpleNamespace:
        seen.append(tensor.device.type)
        kind = torch.empty(0, dtype=tensor.dtype).dtype
        return SimpleNamespace(numpy=lambda: np.zeros(tensor.shape, str(kind).removeprefix("torch.")))

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    for module in (knn, sgd_heads):
        monkeypatch.setattr(module, "compute_device", lambda: torch.device("cuda"))
    return seen


def test_similarities_are_computed_on_the_gpu(copied_to_host):
    with FakeTensorMode():
        knn.vote(X_ND, LABEL_N, X_MD, KS, 0.07)
    assert copied_to_host == ["cuda"] * 3  # similarities, indices; cosines in float64, since zeros are equal


def test_heads_are_trained_on_the_gpu(copied_to_host):
    with FakeTensorMode():
        trained = heads()
        trained.accuracies(X_ND, LABEL_N)
        trained.logits(X_ND, 1)
    assert copied_to_host == ["cuda"] * 2


class Precisions(TorchFunctionMode):
    """Precision of float32 at each matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if "matmul" in function.__name__:
            self.seen.append(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


def test_products_are_never_in_a_lower_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with Precisions() as mode:
            knn.vote(X_ND, LABEL_N, X_MD, KS, 0.07)
            trained = heads()
            trained.accuracies(X_ND, LABEL_N)
        assert set(mode.seen) == {"highest"} and len(mode.seen) > 40
        with pytest.raises(KeyError), full_float32():
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
def test_a_gpu_gives_the_results_of_the_cpu(monkeypatch):
    found, trained = knn.vote(X_ND, LABEL_N, X_MD, KS, 0.07), heads().logits(X_MD, 1)
    solutions = list(sweep(X_ND, LABEL_N, (1e-2, 1.0), device="cuda"))
    for module in (knn, sgd_heads):
        monkeypatch.setattr(module, "compute_device", lambda: torch.device("cpu"))
    expected = knn.vote(X_ND, LABEL_N, X_MD, KS, 0.07)
    assert all(np.array_equal(found[k], expected[k]) for k in KS)
    np.testing.assert_allclose(trained, heads().logits(X_MD, 1), atol=1e-4)
    for one, other in zip(solutions, sweep(X_ND, LABEL_N, (1e-2, 1.0))):
        assert one.objective == pytest.approx(other.objective, rel=1e-8)
