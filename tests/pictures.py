"""Pictures to augment, small ones."""

import torch


def pictures(count=4, height=48, width=48, seed=0):
    """Noise over large shapes: edges, saturated and grey places, black and white."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator) * 1.4 - 0.2
    coarse[:, :, 0, 0], coarse[:, :, 1, 1], coarse[:, :, 2, 2] = 0.0, 1.0, 0.5
    shapes = torch.nn.functional.interpolate(coarse, (height, width))
    return (shapes + 0.1 * torch.randn(shapes.shape, generator=generator)).clamp(0, 1)


def uint8(*arguments, **keywords):
    return (pictures(*arguments, **keywords) * 255).round().byte()
