"""`open_clip:NAME/PRETRAINED`: a pretrained model of open_clip, such as `open_clip:ViT-B-16-quickgelu/openai`.

Whether a model has QuickGELU is its NAME's, as in open_clip; where the weights were trained with the other activation
and open_clip has a NAME for that, the choice is refused (open_clip only warns, and the scores would be lower).
"""

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from benchmark.errors import UserError, unknown
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, load_errors_as_user_errors, quiet
from benchmark.models.loading.open_clip_layers import open_open_clip

QUICK = "-quickgelu"


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
    with load_errors_as_user_errors(source), quiet():
        model = open_clip.create_model(architecture, pretrained=tag, require_pretrained=True)
        tokenize = open_clip.get_tokenizer(architecture)
    return open_open_clip(model, tokenize, source, {"architecture": architecture, "tag": tag}, layer, freeze)


def _check_activation(architecture: str, tag: str, quick: bool) -> None:
    trained = bool(get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    other = architecture.removesuffix(QUICK) if quick else f"{architecture}{QUICK}"
    if trained != quick and other != architecture and tag in open_clip.list_pretrained_tags_by_model(other):
        activation = "QuickGELU" if trained else "GELU"
        raise UserError(f"open_clip:{architecture}/{tag} was trained with {activation}; use open_clip:{other}/{tag}")


MODEL = ModelLoader("open_clip:NAME/PRETRAINED", _open)
