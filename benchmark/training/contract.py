"""Contract checks for methods: run by `synrep check-method` on one method and by the tests on all of them."""

from collections.abc import Callable

import torch

from benchmark.errors import UserError
from benchmark.interfaces import EMBEDDING, Batch, ImageTextModel, Method, Model, ViTConfig
from benchmark.nn import initialization
from benchmark.nn.encoders import build_vit
from benchmark.training import loggers

ENCODER = ViTConfig(image_size=16, patch=8, width=32, depth=1, heads=2)
CAPTIONS = 6


def toy_batch(method: Method, seed: int = 0) -> Batch:
    """Return a batch as the method samples it, in which each caption has its own flat color, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    sampling = method.sampling
    colors = torch.randn(CAPTIONS, 3, 1, 1, generator=torch.Generator().manual_seed(99))
    images = colors.repeat_interleave(sampling.views, 0).expand(-1, -1, 16, 16)
    captions = torch.arange(CAPTIONS)
    return Batch(
        images_V3HW=images + 0.3 * torch.randn(images.shape, generator=generator),
        caption_ids_V=captions.repeat_interleave(sampling.views),
        image_ids_V=torch.arange(CAPTIONS * sampling.images_per_caption).repeat_interleave(sampling.crops_per_image),
        texts=[f"a picture of number {c}" for c in range(CAPTIONS)] if sampling.text else [],
        text_index_V=captions.repeat_interleave(sampling.views) if sampling.text else torch.empty(0, dtype=torch.long),
    )


def build(method: Method, seed: int = 0) -> Model:
    """Build the method's model around a very small ViT."""
    with initialization.seeded(seed):
        return method.build(build_vit(ENCODER))


def _require(condition: bool, violation: str) -> None:
    if not condition:
        raise UserError(f"the method breaks the contract: {violation}")


def check_is_seeded(method: Method) -> None:
    """Check that the same seed gives the same initial weights."""
    first, second = build(method).state_dict(), build(method).state_dict()
    same = all(torch.equal(first[name], second[name]) for name in first)
    _require(same, "build() initializes weights that torch's seed does not fix")


def check_learns(method: Method) -> str | None:
    """Check that the loss is a finite scalar, has gradients in the encoder, and falls on a repeated batch.

    `after_step` is not called between steps, so that targets made by moving averages are constant.
    """
    if method.optimizer is None:
        return "nothing is trained"
    model = build(method).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)
        values = model.loss(toy_batch(method))
        found = ", ".join(values) if isinstance(values, dict) else type(values).__name__
        _require(isinstance(values, dict) and "loss" in values, f"loss() must return a dict with 'loss', found {found}")
        _require(values["loss"].ndim == 0, f"expected a scalar 'loss', found shape {tuple(values['loss'].shape)}")
        taken = ", ".join(sorted(loggers.RESERVED & values.keys()))
        _require(not taken, f"loss() returns {taken}, which the training loop logs itself; choose other names")
        _require(bool(values["loss"].isfinite()), "the loss is not finite")
        optimizer.zero_grad()
        values["loss"].backward()
        reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.vit.blocks.parameters()]
        _require(any(reached), "no gradient reaches the encoder's blocks")
        optimizer.step()
        losses.append(values["loss"].item())
    _require(
        losses[-1] < losses[0], f"the loss does not fall on a repeated batch ({losses[0]:.3f} to {losses[-1]:.3f})"
    )
    model.after_step(1.0)
    _require(bool(model.loss(toy_batch(method))["loss"].isfinite()), "the loss is not finite after after_step()")
    return None


@torch.no_grad()
def check_rows_are_independent(method: Method) -> None:
    """Check that in eval mode the features of an image do not depend on the rest of the batch."""
    model = build(method).eval()
    images = toy_batch(method).images_V3HW
    together, alone = model.encode_images(images), torch.cat([model.encode_images(i[None]) for i in images])
    _require(together.shape == (len(images), ENCODER.width), f"features have shape {tuple(together.shape)}")
    _require(torch.allclose(together, alone, atol=1e-5), "features of an image depend on the rest of the batch")
    first = next(iter(model.image_layers(images).values()))
    _require(
        torch.allclose(together, first, atol=1e-5),
        "image_layers() has another first layer than encode_images() returns",
    )


@torch.no_grad()
def check_joint_space(method: Method) -> str | None:
    """Check that a model with a text tower embeds images and texts as unit vectors of one space."""
    model = build(method).eval()
    if not isinstance(model, ImageTextModel):
        return "no text tower"
    images, texts = model.image_layers(toy_batch(method).images_V3HW)[EMBEDDING], model.embed_texts(["a cat", "a dog"])
    _require(images.shape[1] == texts.shape[1], f"widths differ: images {images.shape[1]}, texts {texts.shape[1]}")
    for name, vectors in (("images", images), ("texts", texts)):
        norms = vectors.norm(dim=1)
        _require(torch.allclose(norms, torch.ones_like(norms), atol=1e-4), f"embedded {name} are not unit vectors")
    return None


CHECKS: dict[str, Callable[[Method], str | None]] = {
    "weights are seeded": check_is_seeded,
    "the loss is finite, has gradients in the encoder, and falls": check_learns,
    "features do not depend on the batch": check_rows_are_independent,
    "images and texts share a space of unit vectors": check_joint_space,
}
"""Checks by name. A check raises UserError if the method breaks the contract, and returns why it does not apply."""
