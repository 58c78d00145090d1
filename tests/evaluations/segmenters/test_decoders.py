"""Tests of the decoders: what they read, their loss, and with which rate and decay each weight is trained."""

import fnmatch
import inspect

import pytest
import torch
import transformers
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.upernet import modeling_upernet

from benchmark.evaluations.segmenters.decoders import LinearSegmenter, Segmenter, UperNetSegmenter
from benchmark.interfaces import ViTConfig
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.models.loading.patches import feature_maps
from benchmark.models.loading.timm_layers import TimmNetwork
from benchmark.nn.dense import DenseNetwork
from benchmark.nn.encoders import build_vit
from benchmark.nn.initialization import seeded
from benchmark.transforms.evaluation import EvaluationTransform
from tests.evaluations.segmenters.networks import SIDE, batch, dense, encoder
from tests.fixtures import tiny_models


def upernet(network: DenseNetwork, dropout: float = 0.0, drop_path: float = 0.0) -> UperNetSegmenter:
    with seeded(0):
        return UperNetSegmenter(network, 4, dropout=dropout, drop_path=drop_path, layer_decay=0.5, auxiliary=0.4)


def linear(network: DenseNetwork, dropout: float = 0.0) -> LinearSegmenter:
    with seeded(0):
        return LinearSegmenter(network, 4, dropout)


def test_the_heads_of_transformers_are_as_expected() -> None:
    """They are not part of its interface: another version may lack or change them."""
    assert not hasattr(transformers, "UperNetHead")
    assert list(inspect.signature(modeling_upernet.UperNetHead).parameters) == ["config", "in_channels"]
    parameters = list(inspect.signature(modeling_upernet.UperNetFCNHead).parameters)
    assert parameters[:3] == ["config", "in_channels", "in_index"]
    with torch.device("meta"):
        config = transformers.UperNetConfig(hidden_size=768, auxiliary_in_channels=None)
        config.num_labels = 150
        head = modeling_upernet.UperNetHead(config, [768] * 4)
        auxiliary = modeling_upernet.UperNetFCNHead(config, [768] * 4, 2)
        maps = [torch.zeros(2, 768, side, side) for side in (128, 64, 32, 16)]
        assert head(maps).shape == (2, 150, 128, 128) and auxiliary(maps).shape == (2, 150, 32, 32)
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (head, auxiliary)]
    assert sizes == pytest.approx([68, 2], abs=1), "millions of weights, as in mmsegmentation"
    for part in (head, auxiliary):
        assert isinstance(part.classifier, nn.Conv2d) and part.classifier.kernel_size == (1, 1)
        modules = [module for module in part.modules() if isinstance(module, modeling_upernet.UperNetConvModule)]
        assert modules and all(module.conv.bias is None for module in modules)
        assert not any(isinstance(module, nn.Dropout | nn.Dropout2d) for module in part.modules())


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (4, (0, 1, 2, 3)), (2, (0, 0, 0, 1)), (1, (0,) * 4)],
)
def test_maps_of_the_decoder(depth: int, blocks: tuple[int, ...]) -> None:
    segmenter = upernet(dense(depth))
    assert segmenter.blocks == blocks
    images, _ = batch()
    maps = segmenter.network(images, blocks)
    assert [tuple(part.shape) for part in maps] == [(3, 16, 4, 4)] * 4
    vit = segmenter.network.backbone
    seen: list[Tensor] = []
    vit.blocks[blocks[2]].register_forward_hook(lambda _, __, output: seen.append(output))
    again = segmenter.network(images, blocks)[2]
    assert torch.equal(again, seen[0][:, 1:].transpose(1, 2).unflatten(2, (4, 4))), "before the norm, no class token"


def test_the_map_of_the_linear_layer_is_the_last_one_after_the_norm() -> None:
    model = encoder()
    network = model.dense_network(SIDE, False)
    images, _ = batch()
    (found,) = network(images)
    normalized = model._transform.normalize(images)
    tokens = network.backbone.forward_features(normalized)[:, 1:]
    assert torch.equal(found, tokens.transpose(1, 2).unflatten(2, (4, 4)))


def test_sizes_of_the_outputs() -> None:
    images, _ = batch()
    segmenter = upernet(dense())
    assert [tuple(part.shape) for part in segmenter.train()(images)] == [(3, 4, 16, 16), (3, 4, 4, 4)]
    assert [tuple(part.shape) for part in segmenter.eval()(images)] == [(3, 4, 16, 16)]
    assert segmenter.segment(images).shape == (3, 4, SIDE, SIDE)
    pyramid = [scale(torch.zeros(1, 16, 4, 4)).shape[2] for scale in segmenter.neck]
    assert pyramid == [16, 8, 4, 2], "strides 4, 8, 16 and 32 of patches of 16"
    assert [tuple(part.shape) for part in linear(dense())(images)] == [(3, 4, 4, 4)]


def test_patches_of_14_pixels() -> None:
    """37 positions: the pyramid is not of even sizes."""
    network = dense(patch=14, side=512)
    assert network.side == 518
    segmenter = upernet(network).eval()
    images = torch.zeros(1, 3, 518, 518, dtype=torch.uint8)
    with torch.no_grad():
        assert segmenter(images)[0].shape == (1, 4, 148, 148)
        assert segmenter.segment(images).shape == (1, 4, 518, 518)


def test_the_linear_decoder_is_batch_norm_and_a_convolution() -> None:
    segmenter = linear(dense()).train()
    norm, convolution = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
    with torch.no_grad():
        convolution.weight.copy_(segmenter.classifier.weight[:, :, None, None])
        convolution.bias.copy_(segmenter.classifier.bias)
    images, _ = batch()
    features = segmenter.network(images)[0]
    for mode in (True, False):
        expected = convolution(norm.train(mode)(features))
        torch.testing.assert_close(segmenter.train(mode)(images)[0], expected)
    assert float(segmenter.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.3)
    assert not segmenter.classifier.bias.any()


def test_whole_channels_are_dropped() -> None:
    torch.manual_seed(0)
    segmenter = linear(dense(), dropout=0.5).train()
    seen: list[Tensor] = []
    segmenter.dropout.register_forward_hook(lambda _, __, output: seen.append(output))
    segmenter(batch()[0])
    dropped = (seen[0] == 0).flatten(2)
    assert torch.equal(dropped.all(2), dropped.any(2)) and dropped.any() and not dropped.all()
    heads = upernet(dense(), dropout=0.3)
    for head in (heads.head, heads.auxiliary_head):
        assert isinstance(head.classifier[0], nn.Dropout2d) and head.classifier[0].p == 0.3


def test_the_frozen_network_stays_as_it_is() -> None:
    segmenter = linear(dense())
    before = {name: value.clone() for name, value in segmenter.network.state_dict().items()}
    optimizer = torch.optim.AdamW(segmenter.parameter_groups(0.001), lr=0.1)
    segmenter.train().loss(*batch()).backward()
    optimizer.step()
    assert not segmenter.network.training and segmenter.norm.training
    assert all(torch.equal(before[name], value) for name, value in segmenter.network.state_dict().items())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    expected = {name for name, _ in segmenter.named_parameters() if not name.startswith("network.")}
    assert {name for name, p in segmenter.named_parameters() if id(p) in trained} == expected


def test_the_model_itself_is_not_changed_by_fine_tuning() -> None:
    model = encoder()
    pictures = tiny_models.pictures()
    before = model.features(pictures)
    segmenter = upernet(model.dense_network(SIDE, True), drop_path=0.1)
    optimizer = torch.optim.AdamW(segmenter.parameter_groups(0.05), lr=0.1)
    segmenter.train().loss(*batch()).backward()
    optimizer.step()
    assert (model.features(pictures) == before).all()
    assert not any(isinstance(module, DropPath) for module in model._module.modules())


class Given(Segmenter):
    """Logits of each pixel that are given, one set for each weight."""

    def __init__(self, weights: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.weights = weights
        generator = torch.Generator().manual_seed(0)
        self.logits = nn.ParameterList([torch.randn(3, 4, SIDE, SIDE, generator=generator) for _ in weights])

    def forward(self, images_B3SS: Tensor) -> list[Tensor]:
        return list(self.logits)


def test_pixels_that_do_not_count_have_no_gradient() -> None:
    given, (images, labels) = Given(), batch()
    given.loss(images, labels).backward()
    gradient = given.logits[0].grad.abs().sum(1)
    assert (gradient[:, :3] == 0).all() and (gradient[:, 3:] > 0).all()
    counted = F.cross_entropy(given.logits[0][:, :, 3:], labels[:, 3:].long())
    torch.testing.assert_close(given.loss(images, labels), counted * (SIDE - 3) / SIDE)
    nothing = Given()
    loss = nothing.loss(images, torch.full_like(labels, 255))
    loss.backward()
    assert loss == 0 and not nothing.logits[0].grad.any()


def test_the_auxiliary_loss_has_its_weight() -> None:
    images, labels = batch()
    given = Given((1.0, 0.4))
    first, second = (F.cross_entropy(part, labels.long(), ignore_index=255) * 29 / 32 for part in given.logits)
    torch.testing.assert_close(given.loss(images, labels), first + 0.4 * second)
    segmenter = upernet(dense()).train()
    assert segmenter.weights == (1.0, 0.4)
    main, auxiliary = segmenter(images)
    parts = [
        F.cross_entropy(
            F.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False), labels.long(), ignore_index=255
        )
        for logits in (main, auxiliary)
    ]
    torch.testing.assert_close(segmenter.loss(images, labels), (parts[0] + 0.4 * parts[1]) * 29 / 32)


EXPECTED = {
    "network.backbone.cls_token": (0.5**4, False),
    "network.backbone.pos_embed": (0.5**4, False),
    "network.backbone.patch_embed.proj.weight": (0.5**4, True),
    "network.backbone.patch_embed.proj.bias": (0.5**4, False),
    "network.backbone.blocks.0.*": (0.5**3, None),
    "network.backbone.blocks.1.*": (0.5**2, None),
    "network.backbone.blocks.2.*": (0.5, None),
    "neck.*": (1.0, None),
    "head.*": (1.0, None),
    "auxiliary_head.*": (1.0, None),
}
"""Factor of the learning rate by hand, and whether a weight decays; None: matrices and kernels do, vectors do not."""


WITH_CLASSIFIER = {
    "none": {"num_classes": 0, "global_pool": "token"},
    "linear": {"num_classes": 5},
    "after a norm": {"num_classes": 5, "global_pool": "avg", "fc_norm": True},
}


@pytest.mark.parametrize("classifier", WITH_CLASSIFIER)
def test_rates_and_decays_of_all_weights_by_hand(classifier: str) -> None:
    options = tiny_models.VIT | {"depth": 3, "patch_size": 8} | WITH_CLASSIFIER[classifier]
    model = TimmNetwork(tiny_models.timm_model("vit_tiny_patch16_224", **options), SIDE)
    frozen = FrozenEncoder(model, transform=EvaluationTransform(SIDE), weights_sha256="w" * 64)
    segmenter = upernet(frozen.dense_network(SIDE, True))
    found = {
        id(parameter): (group.get("lr_scale", 1.0), group["weight_decay"])
        for group in segmenter.parameter_groups(0.05)
        for parameter in group["params"]
    }
    names = dict(segmenter.named_parameters())
    assert len(found) == len(names) == sum(len(group["params"]) for group in segmenter.parameter_groups(0.05))
    segmenter.train().loss(*batch()).backward()
    for name, parameter in names.items():
        if parameter.grad is None:
            assert name.split(".")[2] in {"norm", "fc_norm", "head"}, "after the maps"
            continue
        (scale, decays), *_ = (value for pattern, value in EXPECTED.items() if fnmatch.fnmatch(name, pattern))
        decays = parameter.ndim > 1 if decays is None else decays
        assert found[id(parameter)] == (pytest.approx(scale), 0.05 if decays else 0.0), name


def test_later_blocks_are_left_out_more_often() -> None:
    blocks = upernet(dense(3), drop_path=0.2).network.backbone.blocks
    assert [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in blocks] == [
        (0.0, 0.0),
        (pytest.approx(0.1), pytest.approx(0.1)),
        (0.2, 0.2),
    ]


def test_a_map_is_where_the_image_is() -> None:
    """A patch that is repainted changes the logits at its place most, through the whole decoder."""
    torch.manual_seed(0)
    segmenter = linear(dense()).eval()
    images = torch.full((1, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    before = segmenter.segment(images)
    for row, column in [(0, 0), (0, 3), (3, 1), (2, 2)]:
        painted = images.clone()
        painted[:, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 250
        change = (segmenter.segment(painted) - before).abs().sum(1)[0]
        assert divmod(int(F.avg_pool2d(change[None], 8)[0].argmax()), 4) == (row, column)


@pytest.mark.parametrize(
    ("config", "gflops", "millions"),
    [
        (
            ViTConfig(512, 16),
            {"network": 214, "neck": 29, "head": 967, "auxiliary_head": 4},
            (86, 7, 68, 2),
        ),
        (ViTConfig(518, 14), {"network": 303}, (87, 7, 68, 2)),
    ],
)
def test_the_real_networks_have_the_size_of_the_originals(
    config: ViTConfig, gflops: dict[str, int], millions: tuple[int, ...]
) -> None:
    """Counted without computing anything: operations of a crop, and weights."""
    with torch.device("meta"):
        vit = build_vit(config).requires_grad_(False)
        network = DenseNetwork(vit, feature_maps, Tensor.float, side=config.image_size, folder=None)
        segmenter = UperNetSegmenter(network, 150, dropout=0.1, drop_path=0.1, layer_decay=0.65, auxiliary=0.4).train()
        with FlopCounterMode(display=False) as counter:
            main, auxiliary = segmenter(torch.zeros(2, 3, network.side, network.side, dtype=torch.uint8))
    side = config.image_size // config.patch
    assert (main.shape, auxiliary.shape) == ((2, 150, 4 * side, 4 * side), (2, 150, side, side))
    counts = {name: sum(part.values()) / 2e9 for name, part in counter.get_flop_counts().items()}
    found = {name.removeprefix("UperNetSegmenter."): value for name, value in counts.items()}
    found["neck"] = found["UperNetSegmenter"] - sum(found[name] for name in ("network", "head", "auxiliary_head"))
    assert {name: round(found[name]) for name in gflops} == gflops
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in segmenter.children()]
    assert tuple(map(round, sizes)) == millions
