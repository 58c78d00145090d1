"""Initial weights are PyTorch's own up to rounding; `tests/test_pins.py` tests that all machines have the same."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special

from benchmark.nn import initialization


@pytest.mark.parametrize("shape", [(1000,), (16,), (17,), (5, 7), (3, 40_000)])
@pytest.mark.parametrize(
    "draw",
    [
        lambda empty: empty.normal_(0.5, 2),
        lambda empty: empty.uniform_(-0.3, 0.7),
        lambda empty: empty.uniform_(-1, 1).erfinv_(),
        torch.nn.init.trunc_normal_,
        lambda empty: torch.randn(empty.shape),
        lambda empty: torch.randn(empty.shape, generator=torch.Generator().manual_seed(2)),
    ],
)
def test_draws_are_those_of_pytorch_up_to_rounding(
    draw: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(3)
    theirs, their_state = draw(torch.empty(shape)), torch.get_rng_state()
    with initialization.seeded(3):
        ours = draw(torch.empty(shape))
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=3e-6)
    assert torch.equal(torch.get_rng_state(), their_state), "later draws are others"


def test_few_numbers_and_other_types_are_drawn_too() -> None:
    with initialization.seeded(0):
        assert torch.empty(3).normal_().isfinite().all()
        assert torch.empty(0).normal_().shape == (0,)
        double = torch.empty(20, dtype=torch.float64).normal_()
    torch.manual_seed(0)
    torch.rand(16)
    torch.rand(16)
    assert torch.equal(double, torch.empty(20, dtype=torch.float64).normal_())


def test_inverse_error_function_logarithm_and_cosine_are_accurate() -> None:
    x = np.concatenate((np.linspace(-1, 1, 100_003), 1 - 2.0 ** -np.arange(1, 25))).astype(np.float32)
    np.testing.assert_allclose(initialization.erfinv(x), special.erfinv(x.astype(np.float64)), rtol=2e-15)
    unit = np.arange(1, 2**17 + 1) / 2**17
    np.testing.assert_allclose(initialization.log(unit), np.log(unit), rtol=1e-15, atol=1e-300)
    cosine, sine = initialization.cos_sin(unit)
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * unit), atol=2e-15)
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * unit), atol=2e-15)


def test_only_the_context_changes_draws() -> None:
    torch.manual_seed(0)
    before = torch.empty(100).normal_()
    with initialization.seeded(0):
        pass
    assert torch.equal(torch.empty(100).normal_(), before)
