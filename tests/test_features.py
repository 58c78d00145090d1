import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.evaluations.aro import EVALUATION as ARO
from benchmark.evaluations.linear_probe import LinearProbe
from benchmark.features import FrozenEncoder
from benchmark.interfaces import DatasetIdentity, ImageTextModel, LabelledImages, Model

IDENTITY = DatasetIdentity("org/set", "r1", "test", 10, "ids")


class Net(Model):
    """A network with a norm and dropout that would mix the batch in training mode."""

    def __init__(self) -> None:
        vit = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
        super().__init__(vit)
        self.calls = 0

    def encode_images(self, images_B3HW):
        self.calls += 1
        return self.vit(images_B3HW)


class Joint(Net):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def embed_images(self, images_B3HW):
        return nn.functional.normalize(self.vit(images_B3HW), dim=1)

    def embed_texts(self, texts):
        self.texts.extend(texts)
        return nn.functional.normalize(torch.tensor([[len(text), len(set(text)), 1.0] for text in texts]), dim=1)


def transform(image_HW3):
    return torch.from_numpy(image_HW3.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)


def pictures(n=10, identity=IDENTITY, **columns) -> LabelledImages:
    content = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return LabelledImages("set", dataclasses.replace(identity, n=n), lambda row: content[row], columns)


def encoder(model=None, store=None, **changes) -> FrozenEncoder:
    torch.manual_seed(0)
    arguments = {"image_size": 4, "weights_sha256": "w", "transform": transform, "transform_id": "t", "store": store}
    return FrozenEncoder(model or Net(), **{**arguments, **changes})


def test_features_are_the_models_own_to_float16():
    images = pictures()
    frozen = encoder()
    values = frozen.features(images)
    torch.manual_seed(0)
    model = Net().eval()
    expected = model.encode_images(torch.stack([transform(images.read(row)) for row in range(10)])).detach().numpy()
    assert values.dtype == np.float32
    assert values == pytest.approx(expected.astype(np.float16).astype(np.float32), abs=1e-3)


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_the_batch_size_changes_nothing(size):
    whole = encoder(batch_size=7)
    torch.manual_seed(0)
    parts = encoder(batch_size=size)
    assert np.abs(whole.features(pictures()) - parts.features(pictures())).max() <= 1e-3  # a float16 step


def test_cold_and_warm_are_the_same_bits(tmp_path):
    model = Joint()
    plain = encoder(model)
    stored = encoder(model, tmp_path)
    for name in ("features", "image_embeddings"):
        without = getattr(plain, name)(pictures())
        cold = getattr(stored, name)(pictures())
        calls = model.calls
        warm = getattr(stored, name)(pictures())
        assert model.calls == calls
        assert np.array_equal(without, cold)
        assert np.array_equal(cold, warm)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"weights_sha256": "v"},
        {"transform_id": "u"},
        {"identity": dataclasses.replace(IDENTITY, revision="r2")},
        {"identity": dataclasses.replace(IDENTITY, split="train")},
        {"identity": dataclasses.replace(IDENTITY, ids_sha256="other")},
        {"identity": dataclasses.replace(IDENTITY, repo="org/other")},
        {"n": 9},
    ],
)
def test_whatever_moves_the_features_moves_the_key(tmp_path, changed):
    model = Net()
    encoder(model, tmp_path).features(pictures())
    parts = {name: changed[name] for name in ("n", "identity") if name in changed}
    own = {name: value for name, value in changed.items() if name not in parts}
    before = model.calls
    encoder(model, tmp_path, **own).features(pictures(**parts))
    assert model.calls == before + 1
    assert len(list(tmp_path.iterdir())) == 2


def test_other_labels_on_images_with_ids_are_the_same_images(tmp_path):
    model = Net()
    frozen = encoder(model, tmp_path)
    relabelled = dataclasses.replace(IDENTITY, ids_sha256="other labels")
    ids = [str(row) for row in range(10)]
    frozen.features(pictures(id=ids))
    frozen.features(pictures(identity=relabelled, id=ids))
    assert model.calls == 1
    frozen.features(pictures(id=ids[::-1]))
    assert model.calls == 2


@pytest.mark.parametrize("spoil", [lambda c: c[:-20], lambda c: b"", lambda c: b"x" * 50, lambda c: c[:300] + c[340:]])
def test_a_file_cut_short_is_computed_again(tmp_path, spoil):
    model = Net()
    frozen = encoder(model, tmp_path)
    cold = frozen.features(pictures())
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    assert np.array_equal(frozen.features(pictures()), cold)
    assert model.calls == 2
    assert path.read_bytes() == whole
    path.write_bytes(bytearray(byte ^ (at == len(whole) // 2) for at, byte in enumerate(whole)))  # one bit
    assert np.array_equal(frozen.features(pictures()), cold)


def test_a_file_of_another_key_is_refused(tmp_path):
    frozen = encoder(Net(), tmp_path)
    frozen.features(pictures())
    (first,) = tmp_path.iterdir()
    frozen.features(pictures(identity=dataclasses.replace(IDENTITY, revision="r2")))
    (second,) = set(tmp_path.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"r1.* wanted .*r2.*; remove the file"):
        frozen.features(pictures(identity=dataclasses.replace(IDENTITY, revision="r2")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_are_no_numbers_name_the_dataset(tmp_path, value):
    class Broken(Net):
        def encode_images(self, images_B3HW):
            return super().encode_images(images_B3HW).index_fill(0, torch.tensor([2]), value)

    with pytest.raises(UserError, match=r"1 of 10 feature rows of set are NaN, infinite .* row 2"):
        encoder(Broken(), tmp_path).features(pictures())
    assert not list(tmp_path.iterdir())


def test_image_embeddings_are_unit_vectors():
    values = encoder(Joint()).image_embeddings(pictures())
    assert np.linalg.norm(values, axis=1) == pytest.approx(1, abs=1e-6)


def test_every_distinct_text_is_encoded_once_and_lands_in_its_row():
    model = Joint()
    texts = ["bb", "a", "bb", "cccc", "a", "bb"]
    values = encoder(model, batch_size=2).text_embeddings(texts)
    assert model.texts == ["bb", "a", "cccc"]
    assert np.array_equal(values, Joint().embed_texts(texts).numpy())


def test_models_without_a_text_tower():
    frozen = encoder(Net())
    assert not frozen.embeds_texts
    assert encoder(Joint()).embeds_texts
    assert isinstance(Joint(), ImageTextModel)
    with pytest.raises(UserError, match="Net has no text tower"):
        frozen.image_embeddings(pictures())
    with pytest.raises(UserError, match="Net has no text tower"):
        frozen.text_embeddings(["x"])


def test_a_transform_of_another_size_is_told():
    with pytest.raises(UserError, match=r"transform t gives images of \(3, 4, 4\), the encoder wants \(3, 8, 8\)"):
        encoder(image_size=8).features(pictures())


def test_probe_and_few_shot_read_one_pass(tmp_path):
    """The real digits through an encoder: the second evaluation touches no network."""
    from benchmark.evaluations.few_shot import FewShot

    class Pooled(Net):
        def encode_images(self, images_B3HW):
            self.calls += 1
            return nn.functional.avg_pool2d(images_B3HW[:, :1], 2).flatten(1)

    model = Pooled()
    frozen = encoder(model, tmp_path, image_size=8, batch_size=2000)
    probe = LinearProbe(datasets=("digits",), inverse_penalties=(0.1, 1.0))(frozen)["digits"]
    assert model.calls == 2
    few = FewShot(datasets=("digits",), episodes=50)(frozen)["digits"]
    assert model.calls == 2
    assert probe.scores["top1"].low > 0.8
    assert few.scores["accuracy"].low > 0.7
    assert ARO.skip(frozen)
