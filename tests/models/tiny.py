"""Very small models of other people's libraries, with random weights, and what they should give."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.models import generate_default_cfgs, register_model
from timm.models._hub import save_for_hf
from timm.models.vision_transformer import VisionTransformer, build_model_with_cfg
from torch import Tensor
from torchvision.transforms import v2

from benchmark.interfaces import DatasetIdentity, LabelledImages
from benchmark.models._load import load

SIZE = 32
MEAN, STD = (0.1, 0.5, 0.7), (0.2, 0.25, 0.4)
"""Of no other model."""
VIT = {"img_size": SIZE, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
default_cfgs = generate_default_cfgs(
    {
        "registered_by_the_tests.first": {
            "hf_hub_id": "org/registered",
            "input_size": (3, SIZE, SIZE),
            "fixed_input_size": True,
            "num_classes": 5,
            "mean": MEAN,
            "std": STD,
            "classifier": "head",
            "first_conv": "patch_embed.proj",
        }
    }
)


@register_model
def registered_by_the_tests(pretrained: bool = False, **options: Any) -> VisionTransformer:
    return build_model_with_cfg(
        VisionTransformer, "registered_by_the_tests", pretrained, **(VIT | {"patch_size": 8} | options)
    )


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def scramble(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """No weight or statistic is left at zero or one, where a wrong order of layers would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor.add_(noise.abs() if "running_var" in name else noise)
    return model.eval()


def timm_model(architecture: str, **options: Any) -> Any:
    seeded()
    return scramble(timm.create_model(architecture, **options))


def timm_repo(folder: Path, architecture: str = "vit_tiny_patch16_224", model: Any = None, **options: Any) -> Any:
    """Write a repository of timm; returns the model in it."""
    options = options or (VIT | {"patch_size": 8})
    model = model or timm_model(architecture, **options)
    saved = {name: value for name, value in options.items() if name != "num_classes"}
    config = {"mean": MEAN, "std": STD, "input_size": (3, SIZE, SIZE)}
    save_for_hf(model, folder, model_args=saved, model_config={"pretrained_cfg": config}, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": MEAN, "std": STD, "input_size": (3, SIZE, SIZE)}
    (folder / "config.json").write_text(json.dumps(config))
    return model


TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
NATIVE = {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}


def clip_config(vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The layers of a captioner (`multimodal_cfg`) want all tokens of the text tower."""
    text = TEXT | ({"embed_cls": True, "output_tokens": True} if "multimodal_cfg" in more else {})
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text} | more


def clip_model(config: dict[str, Any]) -> Any:
    seeded()
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    kind = open_clip.CoCa if "multimodal_cfg" in config else kind
    return scramble(kind(**config))


def clip_repo(folder: Path, config: dict[str, Any] | None = None, file: str = "open_clip_model.safetensors") -> Any:
    """Write a repository of open_clip; returns the model in it."""
    config = config or clip_config(NATIVE)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    model = clip_model(json.loads(json.dumps(config)))
    weights = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / file) if file.endswith("safetensors") else torch.save(weights, folder / file)
    return model


def pictures(count: int = 3) -> LabelledImages:
    """Images that are neither square nor of the network's size."""
    images = np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)
    identity = DatasetIdentity("org/pictures", "r1", "test", count, "0" * 64)
    return LabelledImages("pictures", identity, lambda row: images[row], {})


def prepared(
    images: LabelledImages, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD, size: int = SIZE
) -> Tensor:
    """The geometry of the benchmark by torchvision's own pipeline."""
    steps = [
        v2.ToImage(),
        v2.Resize(size, v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(size),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(mean), list(std)),
    ]
    return torch.stack([v2.Compose(steps)(images.read(row)) for row in range(len(images))])


def noise(count: int = 3, size: int = SIZE) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def close(found: Any, wanted: Any, tolerance: float = 2e-3) -> None:
    """Equal up to the float16 of the feature store."""
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted).detach(), rtol=tolerance, atol=tolerance)


def described(spec: str) -> dict[str, Any]:
    """What a model gives, as JSON."""
    loaded = load(spec)
    texts = loaded.subject.text_embeddings(["a cat"]).tolist() if loaded.subject.embeds_texts else None
    return {
        "source": loaded.origin.source,
        "slug": loaded.origin.slug,
        "encoder": loaded.origin.encoder,
        "facts": loaded.subject.facts,
        "features": loaded.subject.features(pictures()).tolist(),
        "texts": texts,
    }


if __name__ == "__main__":  # names of models -> a line of JSON each, or the line that says why not
    from benchmark.errors import UserError

    for wanted in sys.argv[1:]:
        try:
            print(json.dumps(described(wanted)))
        except UserError as error:
            print(error)
