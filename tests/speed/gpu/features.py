"""Features of a frozen ViT with random weights: the network alone, and from JPEGs through `FrozenEncoder`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmark.images import decode_image
from benchmark.interfaces import DatasetIdentity, LabeledImages
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.models.loading.timm_layers import TimmNetwork
from benchmark.transforms.evaluation import EvaluationTransform
from datasets_scripts.generation import generate, provenance
from tests.speed.datasets import photographs
from tests.speed.gpu.sizes import Sizes
from tests.speed.timing import CPU, median_seconds, seconds

Found = Iterator[dict[str, Any]]
PHOTOGRAPHS = 64
CHECKED = 4
"""Images whose features are compared with float32 on a CPU."""
LARGEST_ERROR = 0.02
"""Of their cosine distance."""


def network(sizes: Sizes) -> TimmNetwork:
    torch.manual_seed(0)
    model = timm.create_model(sizes.architecture, pretrained=False, num_classes=0, **sizes.options)
    return TimmNetwork(model, sizes.image_size)


def encoder(sizes: Sizes, device: torch.device) -> FrozenEncoder:
    """The benchmark's own way from images to features, with nothing stored."""
    transform, workers = EvaluationTransform(sizes.image_size), max(sizes.workers)
    return FrozenEncoder(network(sizes), transform=transform, weights_sha256="0" * 64, device=device, workers=workers)


def jpegs(sizes: Sizes, count: int) -> LabeledImages:
    """Images of the size of ImageNet's."""
    images = photographs(min(count, PHOTOGRAPHS), sizes.jpeg_height, sizes.jpeg_width)
    encoded = [generate.encode(image, provenance.TRAINED) for image in images]
    identity = DatasetIdentity("speed/jpegs", "0" * 40, "test", count, "0" * 64)
    return LabeledImages("jpegs", identity, lambda row: decode_image(encoded[row % len(encoded)]), {})


def alone(sizes: Sizes, folder: Path) -> Found:
    """Images per second of the network by the size of a batch that is there, each size compiled for itself."""
    device, module = sizes.device, network(sizes).to(sizes.device)
    images = torch.randn(max(sizes.batches), 3, sizes.image_size, sizes.image_size)
    reference = inferred(network(sizes).image_layers, images[:CHECKED])
    images = images.to(device)
    with FlopCounterMode(display=False) as counter:
        inferred(module.image_layers, images[:1])
    rates: dict[str, float] = {}
    for way, run in (("eager", module.image_layers), ("compiled", compiled(module.image_layers, sizes.compiler))):
        for size in sizes.batches:
            torch._dynamo.reset()  # else the size becomes a variable, and kernels are made for all sizes
            distance = cosine_distance(inferred(run, images[:size])[:CHECKED].cpu(), reference)
            assert distance < LARGEST_ERROR, f"{way}, {size} images: features differ from float32 by {distance:.3f}"
            spent = median_seconds(lambda run=run, size=size: inferred(run, images[:size]), device, sizes.repeats)
            rates[f"{way} {size}"] = size / spent
            tflops = max(rates.values()) * counter.get_total_flops() / 1e12
            yield {"features_error": distance, "images_per_second": rates, "tflops": tflops}


def compiled(run: Callable[[Tensor], dict[str, Tensor]], compiler: str) -> Callable[[Tensor], dict[str, Tensor]]:
    return torch.compile(run, backend=compiler, dynamic=False)


@torch.inference_mode()
def inferred(run: Callable[[Tensor], dict[str, Tensor]], images: Tensor) -> Tensor:
    """The first layer, in the precision of evaluations."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        return next(iter(run(images).values()))


def from_jpegs(sizes: Sizes, folder: Path) -> Found:
    """Images per second from JPEGs to features, on as many threads as training has workers."""
    few = jpegs(sizes, 16)
    here, there = (encoder(sizes, device).features(few) for device in (CPU, sizes.device))
    distance = cosine_distance(torch.from_numpy(there), torch.from_numpy(here))
    yield {"features_error": distance}
    assert distance < LARGEST_ERROR, "features differ from float32"
    frozen, images = encoder(sizes, sizes.device), jpegs(sizes, sizes.jpegs)
    frozen.features(replace(images, identity=replace(images.identity, n=min(1024, sizes.jpegs))))
    spent = seconds(lambda: frozen.features(images), CPU)
    yield {"threads": max(sizes.workers), "images_per_second": sizes.jpegs / spent}


def cosine_distance(found: Tensor, wanted: Tensor) -> float:
    """The largest of all rows."""
    return float(1 - F.cosine_similarity(found.float(), wanted.float()).min())
