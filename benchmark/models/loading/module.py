"""Networks that are already in memory: any `torch.nn.Module`, with a function that prepares its images.

A model of timm or open_clip is wrapped as one that is loaded by name, with the same layers. Any other module has one
layer, `output`: what it returns for a batch of images, or with two towers what `encode_image` returns.

The module is copied, without what `torch.compile` and `DataParallel` put around it, and its weights become float32. A
copy contains only submodules: a network that the code of the module finds elsewhere is refused, since it would keep its
own mode, device and precision.

Shapes: B images, T texts, D features, HW pixels.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmark.errors import UserError
from benchmark.interfaces import EMBEDDING
from benchmark.models.loading.loader import Freeze, LoadedModel, pretrained
from benchmark.models.loading.open_clip_layers import wrap_open_clip
from benchmark.models.loading.timm_layers import wrap_timm
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
            return vectors.
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
    with _only_submodules_of(module), _explained(f"{name}(images)"):
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
    """Return a copy with weights in float32.

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
    for name, tensor in copied.state_dict().items():
        if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.is_quantized:
            raise UserError(
                f"expected weights as tensors with values, but {name} is on the meta device, not yet initialized, or "
                "quantized; load the weights, or run the module once, before it is evaluated"
            )
    return copied.float()


@contextlib.contextmanager
def _only_submodules_of(module: nn.Module) -> Iterator[None]:
    """Raise a UserError if a network is called that is not part of the module.

    Raises:
        UserError: there is such a network.
    """
    own = set(module.modules())

    def check(called: nn.Module, _inputs: object) -> None:
        if called not in own and called.state_dict():
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
        given = "" if images_B3HW is None else f" for images {tuple(images_B3HW.shape)}"
        raise UserError(
            f"expected {what} to return features, found {type(error).__name__}{given}: {str(error)[:300]}; change the "
            "module, or the size of the transform"
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
    first, second = (network_input(function, picture, None) for _ in range(2))
    if not torch.equal(first, second):
        raise UserError(
            "expected a transform that returns the same tensor twice, found a random one; remove the augmentations"
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
