from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from baselines import clip
from benchmark.errors import UserError
from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.sampling import Sampling
from benchmark.training import contract


class Fine(Model):
    """Pulls features to a constant."""

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": (self.encode_images(batch.images_V3HW) - 2).square().mean()}


class Unseeded(Fine):
    def __init__(self, vit):
        super().__init__(vit)
        self.noise = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(torch.seed() % 2**31)))


class NotFinite(Fine):
    def loss(self, batch):
        return {"loss": super().loss(batch)["loss"] * torch.nan}


class Vector(Fine):
    def loss(self, batch):
        return {"loss": self.encode_images(batch.images_V3HW).mean(1)}


class Nameless(Fine):
    def loss(self, batch):
        return {"total": super().loss(batch)["loss"]}


class Stepping(Fine):
    """Logs scalars under names that would replace those of the loop."""

    def loss(self, batch):
        return {**super().loss(batch), "step": torch.tensor(3.0), "rank": torch.tensor(1.0)}


class Detached(Fine):
    def __init__(self, vit):
        super().__init__(vit)
        self.free = nn.Parameter(torch.ones(()))

    def loss(self, batch):
        return {"loss": self.encode_images(batch.images_V3HW).detach().mean() + self.free}


class Growing(Fine):
    def loss(self, batch):
        loss = super().loss(batch)["loss"]
        return {"loss": 2 * loss.detach() - loss}


class Mixing(Fine):
    def encode_images(self, images_B3HW):
        features = super().encode_images(images_B3HW)
        return features - features.mean(0)


class Elsewhere(Fine):
    def encode_images(self, images_B3HW):
        return 2 * super().encode_images(images_B3HW)


class Wide(Fine):
    def encode_images(self, images_B3HW):
        return super().encode_images(images_B3HW).repeat(1, 2)


class Joint(Fine):
    """Embeds, without dividing by the length."""

    text_width = 32
    norm = False

    def project_images(self, features_BD):
        return nn.functional.normalize(features_BD, dim=1) if self.norm else features_BD

    def embed_texts(self, texts):
        return nn.functional.normalize(torch.ones(len(texts), self.text_width), dim=1)


class Narrow(Joint):
    text_width = 16
    norm = True


@dataclass(frozen=True)
class Plain(Method):
    sampling: Sampling = Sampling(images=2, text=True)
    optimizer: AdamW | None = AdamW(1e-3, 256, 0.1, (0.9, 0.98), 0.1)
    model: type[Model] = Fine

    def build(self, vit):
        return self.model(vit)


def test_fine_method_passes_every_check():
    for check in contract.CHECKS.values():
        check(Plain())


def test_a_check_says_why_it_does_not_apply():
    assert contract.check_learns(Plain()) is None
    assert contract.check_learns(replace(Plain(), optimizer=None, model=NotFinite)) == "nothing is trained"
    assert contract.check_joint_space(Plain()) == "no text tower"
    assert contract.check_joint_space(clip.METHOD.tiny()) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Unseeded, "initializes weights that torch's seed does not fix"),
        (NotFinite, "the loss is not finite"),
        (Vector, "expected a scalar 'loss', found shape"),
        (Nameless, "must return a dict with 'loss', found"),
        (Stepping, "returns rank, step, which the training loop logs itself"),
        (Detached, "no gradient reaches the encoder"),
        (Growing, r"does not fall on a repeated batch \(\d"),
        (Mixing, "depend on the rest of the batch"),
        (Elsewhere, "image_layers.. has another first layer"),
        (Wide, r"features have shape \(12, 64\)"),
        (Joint, "embedded images are not unit vectors"),
        (Narrow, "widths differ: images 32, texts 16"),
    ],
)
def test_a_broken_method_fails_with_the_violated_rule(model, reason):
    with pytest.raises(UserError, match=f"the method breaks the contract: .*{reason}"):
        for check in contract.CHECKS.values():
            check(Plain(model=model))


@pytest.mark.parametrize(("images", "crops", "text"), [(1, 1, False), (2, 1, True), (1, 2, False), (3, 2, True)])
def test_the_toy_batch_follows_the_methods_sampling(images, crops, text):
    batch = contract.toy_batch(replace(Plain(), sampling=Sampling(images, crops, text)))
    count = contract.CAPTIONS * images * crops
    assert batch.images_V3HW.shape == (count, 3, 16, 16)
    assert len(batch.caption_ids_V.unique()) == contract.CAPTIONS
    assert len(batch.image_ids_V.unique()) == contract.CAPTIONS * images
    assert (batch.caption_ids_V.diff() >= 0).all() and (batch.image_ids_V.diff() >= 0).all()
    assert len(batch.texts) == (contract.CAPTIONS if text else 0)
    assert len(batch.text_index_V) == (count if text else 0)
