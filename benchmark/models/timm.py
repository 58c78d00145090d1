"""`timm:NAME`: a pretrained model of timm, such as `timm:vit_base_patch16_224.dino`.

The tag after the dot is optional. Without it, timm's default tag is written to the source, so that a record still
identifies the model after that default has changed.
"""

import difflib
from typing import Any

import timm

from benchmark.errors import UserError
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, load_errors_as_user_errors
from benchmark.models.loading.timm_layers import wrap_timm


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models()) or ["vit_base_patch16_224"]
        raise UserError(f"unknown timm model {architecture!r}; choose one of timm.list_models(), such as {near[0]}")
    with load_errors_as_user_errors(f"timm:{name}"):
        model: Any = timm.create_model(name, pretrained=True)
    config = model.pretrained_cfg
    tag = config.get("tag") or ""
    source = f"timm:{architecture}.{tag}" if tag else f"timm:{architecture}"
    return wrap_timm(model, source, {"tag": tag, "repo": config.get("hf_hub_id") or config.get("url")}, layer, freeze)


MODEL = ModelLoader("timm:NAME", _open)
