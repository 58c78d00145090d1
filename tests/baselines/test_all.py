import contextlib
import inspect
import math
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import TextTransformer
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch.utils._python_dispatch import TorchDispatchMode

import baselines
from benchmark import plugins
from benchmark.interfaces import ViTConfig
from benchmark.nn.encoders import TextTower, build_vit
from benchmark.sampling import SIMCLR, WEAK, Augmentation, Sampling
from benchmark.training import contract
from tests.fixtures.toy_training import distances, trained

NAMES = plugins.names("baselines")
METHODS: dict[str, Any] = {name: plugins.load("baselines", name, "method").METHOD for name in NAMES}

each_method = pytest.mark.parametrize("name", NAMES)


def test_all_baselines_are_found():
    assert {"stablerep", "stablerep_plus", "simclr", "clip", "supcon", "mae", "byol", "mocov3", "dino", "slip"} <= set(
        NAMES
    )
    assert "untrained" in NAMES


@pytest.mark.slow
@each_method
@pytest.mark.parametrize("check", contract.CHECKS)
def test_method_satisfies_the_contract(name, check):
    contract.CHECKS[check](METHODS[name].tiny())


@each_method
def test_method_is_one_short_file_that_cites_its_paper(name):
    source = (Path(baselines.__path__[0]) / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 150
    assert "import baselines" not in source and "from baselines" not in source
    module = plugins.load("baselines", name, "method")
    if METHODS[name].optimizer:
        assert "arXiv" in module.__doc__ and "Departures:" in module.__doc__


@each_method
def test_method_is_a_frozen_dataclass_and_equals_its_defaults(name):
    method = METHODS[name]
    with pytest.raises(FrozenInstanceError):
        method.sampling = Sampling()
    assert type(method)() == method and hash(method) == hash(type(method)())
    assert inspect.signature(type(method)).parameters.keys() == {field.name for field in fields(method)}


@pytest.mark.slow
@each_method
def test_tiny_changes_only_sizes_and_settings_of_short_runs(name):
    """The tiny variant differs in widths, learning rate, momentum and the share of masked patches only."""
    method, tiny = METHODS[name], METHODS[name].tiny()
    changed = {field.name for field in fields(method) if getattr(method, field.name) != getattr(tiny, field.name)}
    assert type(tiny) is type(method)
    sizes = {"hidden", "output", "text", "joint", "width", "depth", "heads", "bottleneck", "prototypes"}
    assert changed <= sizes | {"optimizer", "momentum", "hidden_share"}
    if method.optimizer:
        assert replace(tiny.optimizer, base_lr=0, base_views=0) == replace(method.optimizer, base_lr=0, base_views=0)
    counts = [sum(p.numel() for p in contract.build(m).parameters()) for m in (tiny, method)]
    assert counts[0] < counts[1] / 4 or method.optimizer is None


BYOL = (
    Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur=1.0),
    Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur=0.1, solarize=0.2),
)
DINO = replace(BYOL[0], scale=(0.14, 1.0)), replace(BYOL[1], scale=(0.14, 1.0))
PAPER = {
    "stablerep": (Sampling(images=6), 3.2e-3, 0.1, (0.9, 0.98), 0.5 / 15),
    "stablerep_plus": (Sampling(images=6, text=True), 3.2e-3, 0.1, (0.9, 0.98), 0.5 / 15),
    "simclr": (Sampling(crops=2), 3.2e-3, 0.1, (0.9, 0.98), 0.5 / 15),
    "clip": (Sampling(text=True, augmentation=WEAK), 1e-3, 0.5, (0.9, 0.98), 1 / 35),
    "mae": (None, 1.5e-4 * 32, 0.05, (0.9, 0.95), 40 / 800),
    "supcon": (Sampling(images=3, crops=2), 3.2e-3, 0.1, (0.9, 0.98), 0.5 / 15),
    "byol": (Sampling(crops=2, augmentation=BYOL[0], further=BYOL[1:]), 1.6e-3, 0.03, (0.9, 0.999), 40 / 300),
    "mocov3": (Sampling(crops=2, augmentation=BYOL[0], further=BYOL[1:]), 2.4e-3, 0.1, (0.9, 0.999), 40 / 300),
    "dino": (Sampling(crops=2, augmentation=DINO[0], further=DINO[1:]), 8e-3, 0.04, (0.9, 0.999), 10 / 300),
    "slip": (
        Sampling(crops=3, text=True, augmentation=WEAK, further=(SIMCLR, SIMCLR)), 2e-3, 0.1, (0.9, 0.98), 1 / 25,
    ),
}  # fmt: skip
"""Sampling, learning rate at 8,192 views per step, weight decay, betas, warm-up share.

StableRep: README command of the released code; 0.5 of 15 epochs of warm-up. SimCLR: the same code with one image and
two crops. CLIP: LaCLIP's command. MAE: its paper's table 8, 800 epochs.
SupCon: as StableRep. MoCo v3: released command (ViT-B, 4,096 images of two views: 1.5e-4 x 16). BYOL: the same study's,
1e-4 x 16. DINO: main_dino.py, 5e-4 x 16. SLIP: released command (3e-3 at 4,096 images of three views, so x 2/3).
"""

OTHER = {"mocov3": {"temperature": 0.2}, "dino": {"hidden": 2048}}
"""Settings in which a method differs from the others."""


@pytest.mark.parametrize("name", PAPER)
def test_defaults_are_those_of_the_paper(name):
    sampling, lr, decay, betas, warmup = PAPER[name]
    method = METHODS[name]
    assert method.optimizer.base_lr * 8192 / method.optimizer.base_views == pytest.approx(lr)
    assert (method.optimizer.weight_decay, method.optimizer.betas) == (decay, betas)
    assert method.optimizer.warmup == pytest.approx(warmup)
    if sampling:
        assert method.sampling == sampling
    for setting, value in (
        ("temperature", 0.1),
        ("hidden", 4096),
        ("output", 256),
        ("text", TextTower()),
        ("joint", 512),
    ):
        assert getattr(method, setting, value) == OTHER.get(name, {}).get(setting, value)  # type: ignore[attr-defined]


def test_mae_defaults_are_those_of_the_paper():
    """arXiv 2111.06377 masks 75 %, has a decoder of 8 blocks of width 512, and only crops (from 20 %) and flips."""
    mae = METHODS["mae"]
    assert (mae.hidden_share, mae.width, mae.depth, mae.heads) == (0.75, 512, 8, 16)
    augmentation = mae.sampling.augmentation
    assert (augmentation.scale, augmentation.flip) == ((0.2, 1.0), 0.5)
    assert augmentation.jitter == augmentation.grayscale == augmentation.blur == augmentation.downsample == 0
    assert mae.sampling.views == 1 and not mae.sampling.text


@pytest.mark.parametrize(("name", "momentum"), [("byol", 0.996), ("mocov3", 0.99), ("dino", 0.996)])
def test_momentum_is_that_of_the_paper(name, momentum):
    assert METHODS[name].momentum == momentum


def test_dino_defaults_are_those_of_the_released_code():
    """They are the defaults of main_dino.py, with the temperature of the 300-epoch run."""
    dino = METHODS["dino"]
    assert (dino.prototypes, dino.hidden, dino.bottleneck) == (65536, 2048, 256)
    assert (dino.student_temperature, dino.teacher_temperatures, dino.centre_momentum) == (0.1, (0.04, 0.07), 0.9)
    assert (dino.temperature_warmup * 300, dino.frozen * 300) == (30, 1)
    assert (dino.optimizer.final_weight_decay, dino.optimizer.clip_norm) == (0.4, 3.0)
    assert {name for name in NAMES if (o := METHODS[name].optimizer) and (o.clip_norm or o.final_weight_decay)} == {
        "dino"
    }


def test_slip_weights_both_losses_equally():
    assert METHODS["slip"].scale == 1.0


def test_contrastive_methods_use_the_augmentation_of_simclr():
    assert {name for name in NAMES if METHODS[name].sampling.augmentation == SIMCLR} >= {
        "stablerep",
        "stablerep_plus",
        "simclr",
        "supcon",
    }


VIT_B = 85_798_656
HEAD = 768 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 256 + 256 + 4 * 4096
TEXT = (49408 + 77 + 512 + 2) * 512 + 12 * (12 * 512**2 + 13 * 512)
LINEAR = 768 * 4096 + 4096 * 256  # the two layers of BYOL's projector, without biases
BYOL_HEADS = 2 * (LINEAR + 3 * 4096 + 256) + (256 * 4096 + 4096 * 256 + 3 * 4096 + 256)
MOCO_HEADS = 2 * (LINEAR + 4096 * 4096 + 4 * 4096) + (256 * 4096 + 4096 * 256 + 2 * 4096)
DINO_HEAD = (768 + 1 + 2048 + 1) * 2048 + (2048 + 1) * 256 + 65536 * 256
DECODER = 8 * (12 * 512**2 + 13 * 512) + 2 * 512
PARAMETERS = {
    "stablerep": VIT_B + HEAD,
    "simclr": VIT_B + HEAD,
    "stablerep_plus": VIT_B + HEAD + TEXT + 768 * 512 + 1,
    "clip": VIT_B + TEXT + 768 * 512 + 1,
    "mae": VIT_B + (768 * 512 + 512) + 512 + 197 * 512 + DECODER + (512 * 768 + 768),
    "supcon": VIT_B + HEAD,
    "byol": 2 * VIT_B + BYOL_HEADS,
    "mocov3": 2 * VIT_B + MOCO_HEADS,
    "dino": 2 * (VIT_B + DINO_HEAD),
    "slip": VIT_B + HEAD + TEXT + 768 * 512 + 1,
    "untrained": VIT_B,
}
"""Number of parameters of each method at full size, with momentum copies."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_full_size_model_is_a_vit_b16(name):
    """The keys below `vit.` are those of timm, so that released weights can be loaded."""
    with torch.device("meta"):
        model = METHODS[name].build(build_vit(ViTConfig()))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    keys = {key.removeprefix("vit.") for key in model.state_dict() if key.startswith("vit.")}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight"} <= keys
    assert {
        f"blocks.11.{part}.weight" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    } <= keys
    assert len(keys) == 152 - 2  # timm's keys without the classifier's two


@each_method
def test_features_are_the_cls_token_of_the_encoder(name):
    """All methods are compared by the same features, without their heads."""
    model = contract.build(METHODS[name].tiny()).eval()
    images = contract.toy_batch(METHODS[name]).images_V3HW
    torch.testing.assert_close(model.encode_images(images), model.vit.forward_features(images)[:, 0])


@each_method
def test_methods_start_from_the_same_encoder(name):
    """With the same seed, all methods train the same initial ViT."""
    wanted = contract.build(METHODS["untrained"], seed=3).vit.state_dict()
    found = contract.build(METHODS[name].tiny(), seed=3).vit.state_dict()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)


@each_method
def test_order_of_captions_in_the_batch_does_not_matter(name):
    method = METHODS[name].tiny()
    if method.optimizer is None or name == "mae":  # MAE's masks depend on the position in the batch
        pytest.skip("depends on the order of the batch, or is not trained")
    batch = contract.toy_batch(method)
    views = method.sampling.views
    rolled = replace(
        batch,
        images_V3HW=batch.images_V3HW.roll(views, 0),
        caption_ids_V=batch.caption_ids_V.roll(views),
        image_ids_V=batch.image_ids_V.roll(views),
        texts=batch.texts[-1:] + batch.texts[:-1],
    )
    model = contract.build(method).train()
    torch.testing.assert_close(model.loss(rolled)["loss"], model.loss(batch)["loss"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@each_method
def test_micro_batches_do_not_change_loss_and_gradients(name):
    """No network gets more than a micro-batch, momentum encoders and text towers included."""
    method = METHODS[name].tiny()
    if method.optimizer is None:
        pytest.skip("is not trained")
    found, seen = [], []
    for size in (None, 5):
        model = contract.build(method).train()
        model.micro_batch_size = size
        for module in model.modules():
            if isinstance(module, PatchEmbed | Block | TextTransformer):
                module.register_forward_pre_hook(lambda module, tensors: seen[-1].append(len(tensors[0])))
        seen.append([])
        torch.manual_seed(0)
        loss = model.loss(contract.toy_batch(method))["loss"]
        loss.backward()
        found.append((loss, {key: p.grad for key, p in model.named_parameters()}))
    assert max(seen[0]) == method.sampling.views * contract.CAPTIONS > 5 >= max(seen[1])
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [(12, 12, [12]), (12, 5, [4, 4, 4]), (8256, 768, [688] * 12), (7, 3, [3, 3, 1]), (11, 4, [4, 4, 3])],
)
def test_micro_batches_have_equal_sizes_and_the_last_one_is_computed_once(rows, size, sizes):
    """`torch.compile` compiles a network again for another size; 11 of 12 slices are computed twice, not 12."""
    model = contract.build(METHODS["simclr"].tiny())
    model.micro_batch_size = size
    seen = []

    def network(rows_B1):
        seen.append(len(rows_B1))
        return rows_B1.sin()

    inputs = torch.randn(rows, 1, requires_grad=True)
    found = model.forward_in_microbatches(network, inputs)
    assert torch.equal(found, inputs.sin()) and seen == sizes
    found.sum().backward()
    assert torch.equal(inputs.grad, inputs.cos())
    assert sorted(seen) == sorted(sizes + sizes[:-1])


class RefuseBlockingCopies(TorchDispatchMode):
    """Mode in which a copy from the CPU to another device fails if it is not asynchronous."""

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            device = torch.device(kwargs.get("device") or "cpu")
            assert device.type == "cpu" or kwargs.get("non_blocking"), f"a copy of {args[0].shape} waits"
        return function(*args, **kwargs)


@pytest.mark.slow
@each_method
def test_a_step_does_not_wait_for_the_device(name, monkeypatch):
    """Tensors of the meta device have no values: whatever copies one to the CPU, or depends on one, fails.

    A copy to the device waits, unless it says otherwise, for all that the device has to do before.
    """
    method = METHODS[name].tiny()
    if method.optimizer is None:
        pytest.skip("is not trained")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # does not know the device
    model = contract.build(method).train().to("meta")
    batch = contract.toy_batch(method)
    there = {name: values.to("meta") for name, values in vars(batch).items() if isinstance(values, torch.Tensor)}
    with RefuseBlockingCopies():
        model.loss(replace(batch, **there))["loss"].backward()
        model.after_step(0.5)
        with pytest.raises(AssertionError, match="waits"):
            torch.ones(2).to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        next(model.parameters()).sum().item()


@pytest.mark.slow
@each_method
def test_bfloat16_autocast_changes_little(name):
    """Networks compute in bfloat16, as on a GPU; the state of the model stays in float32."""
    method = METHODS[name].tiny()
    if method.optimizer is None:
        pytest.skip("is not trained")
    found = []
    for half in (False, True):
        model = contract.build(method).train()
        for step in range(2):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model.loss(contract.toy_batch(method))["loss"]
                loss.backward()
            model.after_step((step + 1) / 10)
            found.append(loss.item())
        assert {value.dtype for value in model.state_dict().values()} <= {torch.float32, torch.int64}
    assert found[2:] == pytest.approx(found[:2], rel=0.02, abs=0.005)


@pytest.mark.slow
@each_method
def test_state_dict_is_enough_to_resume_exactly(name):
    """It contains everything that the next step depends on: momentum copies, centers, progress of the schedule."""
    method = METHODS[name].tiny()
    if method.optimizer is None:
        pytest.skip("is not trained")
    torch.manual_seed(0)
    uninterrupted = contract.build(method).train()
    resumed = contract.build(method, seed=1).train()
    for step in range(4):
        if step == 2:
            resumed.load_state_dict(uninterrupted.state_dict())
        for model in (uninterrupted, resumed)[: 1 + (step >= 2)]:
            torch.manual_seed(step)
            model.zero_grad()
            model.loss(contract.toy_batch(method, seed=step))["loss"].backward()
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p.sub_(0.1 * p.grad)
            model.after_step((step + 1) / 40)
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in uninterrupted.state_dict().items())


@each_method
def test_trainable_parameters_get_a_gradient_in_every_step(name):
    """Gradients of frozen prototypes are zero, not None: processes average them, the optimizer keeps their state."""
    method = METHODS[name].tiny()
    if method.optimizer is None:
        pytest.skip("is not trained")
    model = contract.build(method).train()
    model.loss(contract.toy_batch(method))["loss"].backward()
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [key for key, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "dino", "mocov3", "simclr", "slip", "stablerep", "supcon"])
def test_training_brings_views_of_a_caption_together_without_collapse(name):
    """On held-out images, views of a caption get closer, and captions are further apart than before training."""
    method = METHODS[name].tiny()
    model = trained(method, steps=100, lr=5e-4) if name == "dino" else trained(method)
    (near, far), (near_before, far_before) = distances(model, method), distances(contract.build(method), method)
    assert far > far_before and near < near_before / 2


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(METHODS[name], "joint")])
def test_inverse_temperature_starts_as_in_clip_and_is_clamped_to_1_and_100(name):
    model = contract.build(METHODS[name].tiny())
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert model.logit_scale.requires_grad
    for value, clamped in ((7.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        model.logit_scale.data.fill_(value)
        model.after_step(0.5)
        assert model.logit_scale.item() == pytest.approx(clamped)
