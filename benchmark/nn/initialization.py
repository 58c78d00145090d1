"""Initial weights that are equal, bit for bit, on every machine.

PyTorch draws the same random bits everywhere, but turns them into normal numbers with logarithms, cosines and inverse
error functions, and into uniform ones with fused multiplications, whose last bits depend on the processor. Here, the
same bits are turned into the same numbers, up to float32 rounding, with float64 additions, multiplications, divisions
and square roots only. IEEE 754 defines their results, and NumPy never fuses two of them.

Covered are `uniform_`, `normal_`, `erfinv_` and `randn`, to which the functions of `torch.nn.init` and timm's
`trunc_normal_` reduce. `orthogonal_` is not covered: it calls LAPACK.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CHUNK = 1 << 15
"""Numbers computed at a time, so that intermediate results stay in the processor's cache; a multiple of `BLOCK`."""
BLOCK = 16
"""Numbers that `normal_` makes at a time: the first half of a block holds radii, the second half angles."""
LOG_2 = 0.6931471805599453

# Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution. Applied Statistics 37 (1988), PPND16.
# Its third region is left out: it begins at probabilities below 1.4e-11, a float32 argument reaches 3e-8.
CENTRAL_NUMERATOR = (
    3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
    45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727,
)  # fmt: skip
CENTRAL_DENOMINATOR = (
    1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077,
    21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610,
)  # fmt: skip
TAIL_NUMERATOR = (
    1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
    1.27045825245236838258, 0.241780725177450611770, 0.0227238449892691845833, 7.74545014278341407640e-4,
)  # fmt: skip
TAIL_DENOMINATOR = (
    1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550,
    0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
)  # fmt: skip


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch, and within the context draw weights on the CPU that depend on `seed` only."""
    torch.manual_seed(seed)
    with _MachineIndependentDraws():
        yield


class _MachineIndependentDraws(TorchDispatchMode):
    """Replacement of PyTorch's random and transcendental operations on float32 tensors on the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func in RANDN:
            options = {name: value for name, value in kwargs.items() if name != "generator"}
            with self:
                return torch.empty(args[0], **options).normal_(generator=kwargs.get("generator"))
        if func in REPLACED and args[0].dtype == torch.float32 and args[0].device.type == "cpu":
            return REPLACED[func](*args, **kwargs)
        return func(*args, **kwargs)


def _uniform_(tensor: Tensor, low: float = 0, high: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill `tensor` with uniform numbers; the products of 24-bit numbers are exact, so that fusing changes nothing."""
    low32, high32 = torch.tensor((low, high), dtype=torch.float32)
    unit = torch.rand(tensor.shape, generator=generator)
    return tensor.copy_(unit.double() * (high32 - low32) + low32)


def _normal_(tensor: Tensor, mean: float = 0, std: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill `tensor` by the method of Box and Muller, from the bits and in the order of PyTorch's large tensors.

    PyTorch draws the last block of a tensor again if it is not a whole one.
    """
    count = max(tensor.numel(), BLOCK)
    unit = torch.rand(count, generator=generator).numpy()
    normal = _by_chunks(_box_muller, unit[: count - count % BLOCK])
    if count % BLOCK:
        last = _box_muller(torch.rand(BLOCK, generator=generator).numpy())
        normal = np.concatenate((normal[: count - BLOCK], last))
    return tensor.copy_(torch.from_numpy(normal[: tensor.numel()] * std + mean).view(tensor.shape))


def _erfinv_(tensor: Tensor) -> Tensor:
    return tensor.copy_(torch.from_numpy(_by_chunks(erfinv, tensor.detach().flatten().numpy())).view(tensor.shape))


RANDN = (torch.ops.aten.randn.default, torch.ops.aten.randn.generator)
REPLACED: Mapping[Any, Callable[..., Tensor]] = {
    torch.ops.aten.uniform_.default: _uniform_,
    torch.ops.aten.normal_.default: _normal_,
    torch.ops.aten.erfinv_.default: _erfinv_,
}


def _by_chunks(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return `function(values)`, float64, computed in chunks."""
    result = np.empty(len(values))
    for start in range(0, len(values), CHUNK):
        result[start : start + CHUNK] = function(values[start : start + CHUNK])
    return result


def _box_muller(unit: np.ndarray) -> np.ndarray:
    """Return standard normal numbers made of uniform ones in [0, 1), block by block."""
    radius_unit, angle_unit = unit.astype(np.float64).reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
    radius = np.sqrt(-2 * log(1 - radius_unit))
    cosine, sine = cos_sin(angle_unit)
    return np.stack((radius * cosine, radius * sine), 1).ravel()


def erfinv(x: np.ndarray) -> np.ndarray:
    """Return the inverse error function of float32 numbers, as float64; infinite at -1 and 1."""
    half = x.astype(np.float64) / 2
    square = 0.180625 - half * half
    normal = half * (_polynomial(CENTRAL_NUMERATOR, square) / _polynomial(CENTRAL_DENOMINATOR, square))
    tail = np.abs(half) > 0.425
    probability = 0.5 - np.abs(half[tail])
    root = np.sqrt(-log(np.where(probability > 0, probability, 1.0))) - 1.6
    quantile = _polynomial(TAIL_NUMERATOR, root) / _polynomial(TAIL_DENOMINATOR, root)
    normal[tail] = np.copysign(np.where(probability > 0, quantile, np.inf), half[tail])
    return normal / math.sqrt(2)


def log(x: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of positive numbers, by the series of the inverse hyperbolic tangent."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), exponent - small
    ratio = (mantissa - 1) / (mantissa + 1)
    return exponent * LOG_2 + 2 * ratio * _polynomial([1 / (2 * k + 1) for k in range(10)], ratio * ratio)


def cos_sin(turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine of 2 pi `turns`, by Taylor series of an eighth of the angle, doubled three times."""
    angle = (turns - np.rint(turns)) * (math.pi / 4)
    square = angle * angle
    cosine = _polynomial([(-1) ** k / math.factorial(2 * k) for k in range(9)], square)
    sine = angle * _polynomial([(-1) ** k / math.factorial(2 * k + 1) for k in range(9)], square)
    for _ in range(3):
        cosine, sine = cosine * cosine - sine * sine, 2 * cosine * sine
    return cosine, sine


def _polynomial(coefficients: Sequence[float], x: np.ndarray) -> np.ndarray:
    """Return the polynomial with these coefficients, the constant first, by Horner's rule."""
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value *= x
        value += coefficient
    return value
