"""`open_clip:NAME/PRETRAINED`: a pretrained model of open_clip, such as `open_clip:ViT-B-16-quickgelu/openai`.

As in open_clip, NAME determines whether the model uses QuickGELU. If the weights were trained with the other activation
and open_clip has a NAME for it, loading fails (open_clip itself only warns, and the scores would be lower).
"""

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from benchmark.errors import UserError, unknown
from benchmark.models.loading.loader import (
    Freeze,
    LoadedModel,
    ModelLoader,
    load_errors_as_user_errors,
    silence_logging,
)
from benchmark.models.loading.open_clip_layers import wrap_open_clip

QUICKGELU_SUFFIX = "-quickgelu"


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    architecture, _, tag = name.partition("/")
    config = open_clip.get_model_config(architecture) if ":" not in architecture else None
    if config is None:
        raise unknown("open_clip model", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise unknown(f"pretrained tag of open_clip:{architecture}/", tag, tags)
    _check_activation(architecture, tag, bool(config.get("quick_gelu")))
    source = f"open_clip:{architecture}/{tag}"
    with load_errors_as_user_errors(source), silence_logging():
        model = open_clip.create_model(architecture, pretrained=tag, require_pretrained=True)
        tokenize = open_clip.get_tokenizer(architecture)
    return wrap_open_clip(model, tokenize, source, {"architecture": architecture, "tag": tag}, layer, freeze)


def _check_activation(architecture: str, tag: str, quick: bool) -> None:
    """Raise a UserError if the weights were trained with the activation of another architecture name."""
    trained = bool(get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    other = architecture.removesuffix(QUICKGELU_SUFFIX) if quick else f"{architecture}{QUICKGELU_SUFFIX}"
    if trained != quick and other != architecture and tag in open_clip.list_pretrained_tags_by_model(other):
        activation = "QuickGELU" if trained else "GELU"
        raise UserError(f"open_clip:{architecture}/{tag} was trained with {activation}; use open_clip:{other}/{tag}")


MODEL = ModelLoader("open_clip:NAME/PRETRAINED", _open)
