import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.interfaces import DatasetIdentity, Geometry, LabeledImages
from benchmark.models.loading import frozen as frozen_module
from benchmark.models.loading.frozen import SHARD, FrozenEncoder
from benchmark.models.loading.frozen import TILE as TILES
from benchmark.training.execution import ExecutionConfig
from benchmark.transforms.evaluation import EvaluationTransform

IDENTITY = DatasetIdentity("org/set", "r1", "test", 10, "ids")
TRANSFORM = EvaluationTransform(4)
TILE = TILES["cpu"]


class Net(nn.Module):
    """A network with batch norm and dropout, which depend on the batch in training mode; it counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
        self.calls = 0

    def image_layers(self, images_B3HW):
        self.calls += 1
        features = self.net(images_B3HW)
        return {"cls": features, "pooled": features.flip(1) * 2}


class Joint(Net):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def image_layers(self, images_B3HW):
        layers = super().image_layers(images_B3HW)
        return {**layers, "embedding": nn.functional.normalize(layers["cls"], dim=1)}

    def embed_texts(self, texts):
        self.texts.extend(texts)
        return nn.functional.normalize(torch.tensor([[len(text), len(set(text)), 1.0] for text in texts]), dim=1)


def pictures(n=10, identity=IDENTITY, **columns) -> LabeledImages:
    content = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return LabeledImages("set", dataclasses.replace(identity, n=n), lambda row: content[row], columns)


def encoder(network=None, store=None, **changes) -> FrozenEncoder:
    """Return an encoder; the pass that probes its layers is not counted."""
    network = network or Net()
    arguments = {"weights_sha256": "w", "transform": TRANSFORM, "store": store}
    made = FrozenEncoder(network, **{**arguments, **changes})
    network.calls = 0
    return made


def test_features_are_the_first_layer_in_float16_precision():
    images, network = pictures(), Net()
    values = encoder(network).features(images)
    batch = torch.stack([TRANSFORM(images.read(row)) for row in range(10)])
    expected = network.eval().image_layers(batch)["cls"].detach().numpy()
    assert values.dtype == np.float32
    assert values == pytest.approx(expected.astype(np.float16).astype(np.float32), abs=1e-3)
    pooled = encoder(Net(), layer="pooled").features(images)
    assert pooled == pytest.approx(2 * values[:, ::-1], abs=4e-3)


def test_progress_counts_the_images_that_are_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_module, "SHARD", 4)
    seen = []
    for _ in range(2):  # the second time from the store
        encoder(store=tmp_path, progress=lambda *now: seen.append(now)).features(pictures())
    note = f"set {IDENTITY.split}"
    assert seen == [(4, 10, note), (8, 10, note), (10, 10, note)]


def test_unknown_layer_lists_the_choices():
    with pytest.raises(UserError, match=r"no layer head; choose one of: cls, pooled$"):
        encoder(layer="head")


class Watched(Net):
    """A network that records the shapes of its inputs and the first pixel of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.seen: list[list[float]] = []

    def image_layers(self, images_B3HW):
        self.shapes.add(tuple(images_B3HW.shape))
        self.seen.append(images_B3HW[:, 0, 0, 0].tolist())
        return super().image_layers(images_B3HW)


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("n", [1, TILE - 1, TILE, TILE + 1, 2 * TILE + 26])
def test_network_sees_tiles_of_one_shape_with_the_last_one_padded(workers: int, n: int) -> None:
    """Matrix products of other shapes may round differently, which changes float16 features."""
    network, images = Watched(), pictures(n)
    frozen = encoder(network, workers=workers)
    network.shapes, network.seen = set(), []
    values = frozen.features(images)
    assert network.shapes == {(TILE, 3, 4, 4)}
    first = [float(TRANSFORM(images.read(row))[0, 0, 0]) for row in range(n)]
    filled = first + first[-1:] * (-n % TILE)
    assert network.seen == [filled[at : at + TILE] for at in range(0, n, TILE)]
    assert len(values) == frozen.encoded["images"] == n
    assert np.array_equal(values, encoder().features(images)), "whatever the workers"


def test_resumed_pass_uses_the_same_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.models.loading.frozen.SHARD", 2 * TILE)
    images, whole, network = pictures(5 * TILE + 3), Watched(), Watched()
    frozen = encoder(whole)
    whole.seen = []
    frozen.features(images)

    def read(row: int) -> np.ndarray:
        if row == 3 * TILE + 5:
            raise KeyboardInterrupt
        return images.read(row)

    stopped = encoder(network, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stopped.features(dataclasses.replace(images, read=read))
    network.seen = []
    stopped.features(images)
    assert network.seen == whole.seen[2:], "from the shard that was not written"


def test_shard_is_a_multiple_of_the_tile() -> None:
    assert all(SHARD % tile == 0 for tile in TILES.values())


def test_tile_is_recorded_and_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Net()
    frozen = encoder(network, tmp_path)
    frozen.features(pictures())
    assert frozen.metadata["tile"] == TILE
    monkeypatch.setitem(TILES, "cpu", 32)
    encoder(network, tmp_path).features(pictures())
    assert network.calls == 1, "features of another tile are other features"


def test_workers_prefetch_in_order_from_several_threads():
    seen, threads = [], set()
    images = pictures(5 * TILE)

    def read(row):
        seen.append(row)
        threads.add(threading.get_ident())
        return images.read(row)

    class Late(Net):
        def image_layers(self, images_B3HW):
            self.ahead = len(seen)
            return super().image_layers(images_B3HW)

    network = Late()
    frozen = encoder(network, workers=2)
    values = frozen.features(dataclasses.replace(images, read=read))
    assert np.array_equal(values, encoder().features(images))
    assert sorted(seen) == list(range(5 * TILE))
    assert threading.get_ident() not in threads


def test_unreadable_image_raises_its_own_error():
    def read(row):
        if row == 7:
            raise UserError("row 7 is broken")
        return pictures().read(row)

    for workers in (0, 3):
        with pytest.raises(UserError, match="row 7 is broken"):
            encoder(workers=workers).features(dataclasses.replace(pictures(), read=read))


def test_cold_and_warm_store_are_bitwise_equal_and_share_one_pass(tmp_path):
    network = Joint()
    plain, stored = encoder(Joint()), encoder(network, tmp_path)
    features, embeddings = plain.features(pictures()), plain.image_embeddings(pictures())
    assert np.array_equal(stored.features(pictures()), features)
    assert network.calls == 1
    assert np.array_equal(stored.image_embeddings(pictures()), embeddings)
    assert np.array_equal(encoder(network, tmp_path, layer="pooled").features(pictures())[:, ::-1], 2 * features)
    assert network.calls == 0
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"weights_sha256": "v"},
        {"transform": EvaluationTransform(4, mean=(0.5, 0.5, 0.5))},
        {"identity": dataclasses.replace(IDENTITY, revision="r2")},
        {"identity": dataclasses.replace(IDENTITY, split="train")},
        {"identity": dataclasses.replace(IDENTITY, ids_sha256="other")},
        {"identity": dataclasses.replace(IDENTITY, repo="org/other")},
        {"identity": dataclasses.replace(IDENTITY, content_sha256={"test": "other images"})},
        {"n": 9},
        {"geometry": Geometry(zoom=1.25)},
        {"geometry": Geometry(interpolation="bilinear")},
    ],
)
def test_key_depends_on_everything_that_changes_features(tmp_path, changed):
    network = Net()
    encoder(network, tmp_path).features(pictures())
    parts = {name: changed[name] for name in ("n", "identity") if name in changed}
    geometry = changed.get("geometry", Geometry())
    own = {name: value for name, value in changed.items() if name not in (*parts, "geometry")}
    encoder(network, tmp_path, **own).features(pictures(**parts), geometry)
    assert network.calls == 1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("TRANSFORM_VERSION", 0), ("package_versions", lambda: {"pillow": "1.0", "torch": "1.0"})]
)
def test_versions_of_transform_and_packages_are_part_of_the_key(tmp_path, monkeypatch, name, value):
    network = Net()
    encoder(network, tmp_path).features(pictures())
    monkeypatch.setattr(f"benchmark.models.loading.store.{name}", value)
    encoder(network, tmp_path).features(pictures())
    assert network.calls == 1, "computed again"
    assert len(list(tmp_path.iterdir())) == 2


def test_features_of_a_copy_that_was_verified_later_are_used(tmp_path):
    network = Net()
    frozen = encoder(network, tmp_path)
    for provenance in ("unverified", "verified"):
        frozen.features(pictures(identity=dataclasses.replace(IDENTITY, provenance=provenance)))
    assert network.calls == 1


def test_a_key_that_cannot_be_parsed_is_written_again(tmp_path):
    frozen = encoder(Net(), tmp_path)
    frozen.features(pictures())
    (path,) = tmp_path.glob("*/key.json")
    whole = path.read_text()
    for spoilt in ("", "[" * 100_000):
        path.write_text(spoilt)
        frozen.features(pictures())
        assert path.read_text() == whole


def test_labels_are_not_part_of_the_key_of_images_with_ids(tmp_path):
    network = Net()
    frozen = encoder(network, tmp_path)
    relabelled = dataclasses.replace(IDENTITY, ids_sha256="other labels")
    ids = [str(row) for row in range(10)]
    frozen.features(pictures(id=ids))
    frozen.features(pictures(identity=relabelled, id=ids))
    assert network.calls == 1
    frozen.features(pictures(id=ids[::-1]))
    assert network.calls == 2


def test_interrupted_pass_resumes_at_its_last_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.models.loading.frozen.SHARD", 4)
    network, images = Net(), pictures(10)
    whole = encoder(Net()).features(images)

    def read(row):
        if row == 9:
            raise KeyboardInterrupt
        return images.read(row)

    frozen = encoder(network, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        frozen.features(dataclasses.replace(images, read=read))
    (folder,) = tmp_path.iterdir()
    written = ["00000000.npz", "00000004.npz"]
    assert sorted(path.name for path in folder.glob("*.npz")) == written, "the second was in the network"
    before = frozen.encoded["images"]
    assert np.array_equal(frozen.features(images), whole)
    assert frozen.encoded["images"] - before == 2


def test_a_run_of_missing_shards_has_one_pool_and_nothing_else_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.models.loading.frozen.SHARD", 4)
    pools, seen = [], []
    start = frozen_module.ThreadPoolExecutor
    monkeypatch.setattr(frozen_module, "ThreadPoolExecutor", lambda workers: (pools.append(workers), start(workers))[1])
    images, threads = pictures(14), set(threading.enumerate())
    whole = encoder(store=tmp_path, workers=2).features(images)
    assert pools == [2]
    (folder,) = tmp_path.iterdir()
    for name in ("00000000.npz", "00000004.npz", "00000012.npz"):
        (folder / name).unlink()
    read = dataclasses.replace(images, read=lambda row: (seen.append(row), images.read(row))[1])
    assert np.array_equal(encoder(store=tmp_path, workers=2).features(read), whole)
    assert sorted(seen) == [*range(8), 12, 13]
    assert pools == [2, 2, 2]
    assert set(threading.enumerate()) <= threads, "the workers have ended"


def test_a_tile_is_fetched_when_the_next_has_been_started(monkeypatch):
    events = []

    class Noting(Net):
        def image_layers(self, images_B3HW):
            events.append("start")
            return {"cls": self.net(images_B3HW)}

    def to_host(values):
        return lambda: (events.append("fetch"), values)[1]

    frozen = encoder(Noting())
    monkeypatch.setattr(frozen_module, "to_host", to_host)
    events.clear()
    frozen.features(pictures(3 * TILE))
    assert events == ["start", "start", "fetch", "start", "fetch", "fetch"]


def test_images_are_bytes_until_they_are_on_the_device(monkeypatch):
    moved = []
    monkeypatch.setattr(frozen_module, "to_device", lambda values, _: (moved.append(values), values)[1])
    encoder().features(pictures(3))
    assert [(values.dtype, values.shape[1:]) for values in moved] == [(torch.uint8, (3, 4, 4))] * 2  # layers, images


def test_blocks_are_compiled_after_the_layers_are_known(monkeypatch):
    """The layers are read from one image, and compiled code is for a whole tile."""
    calls, network = [], Net()
    monkeypatch.setattr(ExecutionConfig, "prepare", lambda _, module: calls.append((module, module.calls)))
    FrozenEncoder(network, weights_sha256="w", transform=TRANSFORM)
    assert calls == [(network, 1)]


def test_images_are_normalized_as_one_by_one():
    """To the bit: stored features of former versions are used."""
    crops = torch.randint(0, 256, (70, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (TRANSFORM.mean, TRANSFORM.std))
    expected = torch.stack([(crop.float() / 255 - mean) / std for crop in crops])
    assert torch.equal(TRANSFORM.normalize(crops), expected)


@pytest.mark.parametrize("spoil", [lambda c: c[:-20], lambda c: b"", lambda c: b"x" * 50, lambda c: c[:300] + c[340:]])
def test_truncated_shard_is_recomputed(tmp_path, spoil):
    network = Net()
    frozen = encoder(network, tmp_path)
    cold = frozen.features(pictures())
    (path,) = tmp_path.glob("*/*.npz")
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    assert np.array_equal(frozen.features(pictures()), cold)
    assert network.calls == 2
    assert path.read_bytes() == whole
    path.write_bytes(bytearray(byte ^ (at == len(whole) // 2) for at, byte in enumerate(whole)))  # one bit
    assert np.array_equal(frozen.features(pictures()), cold)


def test_shard_of_other_rows_or_layers_is_recomputed(tmp_path):
    network = Net()
    frozen = encoder(network, tmp_path)
    cold = frozen.features(pictures())
    (path,) = tmp_path.glob("*/*.npz")
    for values in ({"cls": np.zeros((9, 6), np.float16)}, {"cls": np.zeros((10, 6), np.float32)}):
        np.savez(path, pooled=np.zeros((10, 6), np.float16), **values)
        assert np.array_equal(frozen.features(pictures()), cold)


def test_shard_of_another_key_or_with_nan_is_recomputed(tmp_path):
    frozen = encoder(Net(), tmp_path)
    cold, other = frozen.features(pictures()), frozen.features(pictures(), Geometry(zoom=1.5))
    assert not np.array_equal(cold, other)
    first, second = sorted(tmp_path.glob("*/*.npz"))
    contents = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert np.array_equal(frozen.features(pictures()), cold)
    assert np.array_equal(frozen.features(pictures(), Geometry(zoom=1.5)), other)
    assert first.read_bytes() == contents
    values = dict(np.load(first))
    values["cls"][3] = np.nan
    np.savez(first, **values)
    assert np.array_equal(frozen.features(pictures()), cold)
    assert np.array_equal(frozen.features(pictures(), Geometry(zoom=1.5)), other)


def test_image_sizes_are_part_of_the_key(tmp_path):
    network = Net()
    frozen = encoder(network, tmp_path)
    ids = [str(row) for row in range(10)]
    frozen.features(pictures(id=ids, bytes=[100] * 10))
    frozen.features(pictures(id=ids, bytes=[100] * 9 + [101]))
    assert network.calls == 2


def test_folder_of_another_key_is_rejected(tmp_path):
    frozen = encoder(Net(), tmp_path)
    frozen.features(pictures())
    (folder,) = tmp_path.iterdir()
    key = json.loads((folder / "key.json").read_text())
    key["dataset"]["revision"] = "r0"
    (folder / "key.json").write_text(json.dumps(key))
    with pytest.raises(UserError, match=r"expected .*r1.*, found .*r0.*; remove the folder"):
        frozen.features(pictures())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_non_finite_features_name_the_dataset(tmp_path, value):
    class Broken(Net):
        def image_layers(self, images_B3HW):
            layers = super().image_layers(images_B3HW)
            rows = torch.tensor([2] if len(images_B3HW) > 2 else [], dtype=torch.long)
            return {**layers, "pooled": layers["pooled"].index_fill(0, rows, value)}

    with pytest.raises(UserError, match=r"1 of 10 rows of layer pooled of set with NaN, infinite .*row 2\)"):
        encoder(Broken(), tmp_path).features(pictures())
    assert not list(tmp_path.glob("*/*.npz"))


def test_random_views_depend_only_on_seed_epoch_and_row(tmp_path):
    images = pictures(10)
    large = dataclasses.replace(images, read=lambda row: np.repeat(np.repeat(images.read(row), 4, 0), 4, 1))
    frozen = encoder(Net(), tmp_path)

    def seen(frozen, *batches, epoch=1, seed=0):
        return list(frozen.random_views(large, list(map(np.array, batches)), epoch, seed))

    (views,) = seen(frozen, range(10))
    first, second = seen(frozen, [7, 2], [3])
    assert first == pytest.approx(views[[7, 2]], abs=1e-3)  # float16
    assert second == pytest.approx(views[[3]], abs=1e-3)
    assert np.array_equal(seen(encoder(Net(), workers=3), range(10))[0], views)
    assert not np.array_equal(seen(frozen, range(10), epoch=2)[0], views)
    assert not np.array_equal(seen(frozen, range(10), seed=1)[0], views)
    assert not list(tmp_path.iterdir())


def test_image_embeddings_are_unit_vectors():
    values = encoder(Joint()).image_embeddings(pictures())
    assert np.linalg.norm(values, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n", [3, TILE, TILE + 1])
def test_distinct_texts_are_encoded_once_in_tiles(n: int) -> None:
    network = Joint()
    texts = [text for number in range(n) for text in ("bb", "a" * (number + 3))]
    distinct = list(dict.fromkeys(texts))
    values = encoder(network).text_embeddings(texts)
    assert network.texts == distinct + distinct[-1:] * (-len(distinct) % TILE)
    assert np.array_equal(values, Joint().embed_texts(texts).numpy())


def test_models_without_a_text_tower():
    frozen = encoder(Net())
    assert not frozen.embeds_texts
    assert encoder(Joint()).embeds_texts
    with pytest.raises(UserError, match="Net has no text tower"):
        frozen.image_embeddings(pictures())
    with pytest.raises(UserError, match="Net has no text tower"):
        frozen.text_embeddings(["x"])


def test_wrong_image_size_fails_before_any_image_is_read():
    with pytest.raises(RuntimeError):
        FrozenEncoder(Net(), weights_sha256="w", transform=EvaluationTransform(8))


def test_shards_are_small():
    assert SHARD <= 2048
