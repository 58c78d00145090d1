"""Networks that are already in memory: any `torch.nn.Module`, with a function that prepares its images.

A model of timm or open_clip is wrapped as one that is loaded by name, with the same layers. Any other module has one
layer, `output`: what it returns for a batch of images, or with two towers what `encode_image` returns.

The module is copied, without what `torch.compile` and `DataParallel` put around it or its parts, and its weights become
float32. A copy contains only submodules: a network that the code of the module finds elsewhere is refused, since it
would keep its own mode, device and precision. So is a module whose features of an image change from pass to pass.

Shapes: B images, T texts, D features, HW pixels.
"""

import contextlib
import copy
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmark.errors import UserError
from benchmark.interfaces import EMBEDDING
from benchmark.models.loading.loader import Freeze, LoadedModel, pretrained
from benchmark.models.loading.open_clip_layers import wrap_open_clip
from benchmark.models.loading.timm_layers import wrap_timm
from benchmark.training.execution import ExecutionConfig
from benchmark.transforms.evaluation import EvaluationTransform, FunctionTransform, network_input

Preprocessing = EvaluationTransform | Callable[[Image.Image], Tensor]
Tokenizer = Callable[[list[str]], Tensor]


class ModuleNetwork(nn.Module):
    """A module whose output is the features; see `benchmark.interfaces.ImageEncoder`."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.backbone = module

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the output of the module (B, D)."""
        with _explained("model(images)", images_B3HW):
            output = self.backbone(images_B3HW)
        return {"output": _require_vectors(output, "model(images)")}


class TwoTowerNetwork(ModuleNetwork):
    """A module with `encode_image` and `encode_text` into a joint space."""

    def __init__(self, module: Any, tokenizer: Tokenizer) -> None:
        super().__init__(module)
        self._tokenizer = tokenizer

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the output of the image tower (B, D), and its unit vectors."""
        with _explained("encode_image(images)", images_B3HW):
            output = self.backbone.encode_image(images_B3HW)
        output_BD = _require_vectors(output, "encode_image(images)")
        return {"output": output_BD, EMBEDDING: F.normalize(output_BD.float(), dim=1)}

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors of texts (T, D)."""
        device = next((parameter.device for parameter in self.backbone.parameters()), torch.device("cpu"))
        with _explained("encode_text(tokenizer(texts))"):
            encoded = self.backbone.encode_text(self._tokenizer(list(texts)).to(device))
        return F.normalize(_require_vectors(encoded, "encode_text(tokens)").float(), dim=1)


def wrap_module(
    module: nn.Module, transform: Preprocessing | None, tokenizer: Tokenizer | None, freeze: Freeze
) -> LoadedModel:
    """Return a copy of the module for evaluation; the module itself keeps its device, its mode and its weights.

    Raises:
        UserError: the transform is missing, random, or returns another shape; the module cannot be copied, or does not
            return vectors, the same in each pass.
    """
    if tokenizer is not None and not callable(tokenizer):
        raise UserError(f"expected a function as tokenizer, found {type(tokenizer).__name__}; see `evaluate`")
    module = _float32_copy(_unwrapped(module))
    name = type(module).__name__
    chosen = transform if transform is None or isinstance(transform, EvaluationTransform) else _of_function(transform)
    if hasattr(module, "forward_head") and hasattr(module, "pretrained_cfg"):
        return wrap_timm(module, name, {}, None, freeze, pinned=False, transform=chosen)
    if tokenizer and hasattr(getattr(module, "visual", None), "preprocess_cfg"):
        return wrap_open_clip(module, tokenizer, name, {}, None, freeze, pinned=False, transform=chosen)
    if chosen is None:
        raise UserError(
            f"expected a transform for {name}, found none; pass a function from a PIL image to a tensor (3, S, S), or "
            "EvaluationTransform(S)"
        )
    network = _network(module, tokenizer)
    described = {"library": "torch", "architecture": name}
    with _explained(f"{name}(images)"):
        with _only_submodules_of(module):
            _require_repeatable(network, chosen.size, torch.device(freeze.device))
        return pretrained(
            network,
            name,
            weights=module,
            transform=chosen,
            encoder=described,
            layer=None,
            freeze=freeze,
            pinned=False,
        )


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside the modules with which torch compiles or distributes it."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):  # of `torch.compile`
            module = inner
        else:
            return module


def _float32_copy(module: nn.Module) -> nn.Module:
    """Return a copy with weights in float32, without what `torch.compile` put around parts of it.

    Raises:
        UserError: the module cannot be copied, or has no weights yet.
    """
    values = [value for each in module.modules() for value in vars(each).values()]
    kept = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]  # by a forward pass
    try:
        copied = copy.deepcopy(module, {id(value): value.detach().clone() for value in kept})
    except Exception as error:
        raise UserError(
            f"expected a module that can be copied, found {type(error).__name__}: {error}; remove the attribute that "
            "cannot be copied, or define __deepcopy__"
        ) from error
    if not _parts(copied).isdisjoint(_parts(module)):
        raise UserError(
            f"expected a copy of {type(module).__name__}, found parts of the module itself in it; change __deepcopy__"
        )
    for part in list(copied.modules()):
        for name, child in part._modules.items():
            part._modules[name] = None if child is None else _unwrapped(child)
    for name, tensor in copied.state_dict().items():
        if name.endswith("_extra_state"):  # any object, of a `get_extra_state`
            continue
        if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.is_quantized:
            raise UserError(
                f"expected weights as tensors with values, but {name} is on the meta device, not yet initialized, or "
                "quantized; load the weights, or run the module once, before it is evaluated"
            )
    return copied.float()


def _parts(module: nn.Module) -> set[object]:
    return {*module.modules(), *module.parameters()}


@contextlib.contextmanager
def _only_submodules_of(module: nn.Module) -> Iterator[None]:
    """Raise a UserError if this thread calls a network that is not part of the module.

    Raises:
        UserError: there is such a network, with weights or in training mode.
    """
    own, thread = set(module.modules()), threading.get_ident()  # the hook sees the modules of all threads

    def check(called: nn.Module, _inputs: object) -> None:
        if threading.get_ident() != thread or called in own:
            return
        if called.state_dict() or (called.training and isinstance(called, _DropoutNd | _NormBase)):
            raise UserError(
                f"expected {type(module).__name__} to call its submodules only, found a {type(called).__name__} in a "
                "function, list or dict, which keeps its own mode and device; make it an attribute of a class with a "
                "forward method, or use nn.ModuleList or nn.ModuleDict"
            )

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def _require_repeatable(network: Any, size: int, device: torch.device) -> None:
    """Compare two passes, the second one with another last image and text: it must not change the others.

    Raises:
        UserError: the features differ, or are not vectors.
    """
    network.eval().to(device)
    images_N3HW = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    passes: list[dict[str, Tensor]] = []
    for rows in ([0, 1, 2, 3], [0, 1, 2, 4]):
        with ExecutionConfig(device).autocast():
            passes.append(dict(network.image_layers(images_N3HW[rows])))
        if EMBEDDING in passes[-1] and hasattr(network, "embed_texts"):
            passes[-1]["texts"] = network.embed_texts([f"photo {row}" for row in rows])
    tolerance = 0.02 if device.type == "cuda" else 1e-4  # of bfloat16, and of float32
    for layer, values_BD in passes[0].items():
        first, second = (each[:3].float() for each in (values_BD, passes[1][layer]))
        if (first - second).norm() > tolerance * first.norm():  # false for NaN, which the features report
            raise UserError(
                f"expected the same features for the same images, but two passes of the same images differ in {layer}; "
                "remove dropout, noise and statistics of the batch, or make them submodules, which are set to eval mode"
            )


@contextlib.contextmanager
def _explained(what: str, images_B3HW: Tensor | None = None) -> Iterator[None]:
    """Turn the errors of a caller's code into user errors; a traceback shows both.

    Raises:
        UserError: the code has raised an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        advice = "change the module, or the size of the transform"
        if isinstance(error, torch.OutOfMemoryError):
            advice = "free memory of the device, or choose another device"
        elif re.search(r"half|bfloat16|double", str(error), re.IGNORECASE):
            advice = "its copy is in float32, and its forward converts to another precision; remove the conversion"
        given = "" if images_B3HW is None else f" for images {tuple(images_B3HW.shape)}"
        raise UserError(
            f"expected {what} to return features, found {type(error).__name__}{given}: {str(error)[:300]}; {advice}"
        ) from error


def _network(module: nn.Module, tokenizer: Tokenizer | None) -> nn.Module:
    """Return the module as an `ImageEncoder`, which a model of this project is already."""
    if hasattr(module, "image_layers"):
        return module
    if tokenizer is None:
        return ModuleNetwork(module)
    if not all(hasattr(module, method) for method in ("encode_image", "encode_text")):
        raise UserError(
            f"expected a module with encode_image and encode_text for the tokenizer, found {type(module).__name__}; "
            "add them, or leave the tokenizer out"
        )
    return TwoTowerNetwork(module, tokenizer)


def _of_function(function: Callable[[Image.Image], Tensor]) -> FunctionTransform:
    """Return the transform of a function; what it makes of a wide picture tells the size of the input.

    Raises:
        UserError: it is random, or does not return a square float tensor.
    """
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    first, *others = (network_input(function, picture, None) for _ in range(8))  # a flip is seen in 127 of 128 cases
    if not all(torch.equal(first, other) for other in others):
        raise UserError(
            "expected a transform that always returns the same tensor, found a random one; remove the augmentations"
        )
    return FunctionTransform(first.shape[1], function=function)


def _require_vectors(found: object, what: str) -> Tensor:
    """Return the features.

    Raises:
        UserError: they are not one vector per image or text.
    """
    if not isinstance(found, Tensor):
        shown = type(found).__name__
    elif found.ndim != 2:
        shown = f"shape {tuple(found.shape)}"
    elif not found.is_floating_point() or found.layout != torch.strided or found.is_meta:
        shown = f"{found.dtype}, {found.layout}, on {found.device}"
    else:
        return found
    raise UserError(
        f"expected {what} to return one vector per row (N, D), found {shown}; wrap the model in a module that does"
    )
