"""Tests of the protocols that train a decoder, from a dataset to its scores, on tiny networks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.scoring.classification import open_task
from benchmark.evaluations.segmenters import protocols, training
from benchmark.evaluations.segmenters.protocols import DecoderEvaluation, DinoV3Linear, SynClrUperNet
from benchmark.evaluations.segmenters.training import Recipe
from benchmark.interfaces import DatasetScores, FrozenModel, Pretrained, Skipped
from benchmark.models import feature_files, load
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.models.loading.open_clip_layers import OpenClipNetwork
from benchmark.models.loading.timm_layers import TimmNetwork
from benchmark.records import store
from benchmark.records.schema import Measured
from benchmark.runner.evaluate import EvaluationRun, run_evaluations
from benchmark.transforms.evaluation import EvaluationTransform
from tests.evaluations.segmenters.networks import dense, encoder
from tests.fixtures import evaluation_sets, tiny_models
from tests.models.test_feature_files import folder  # noqa: F401

pytestmark = pytest.mark.slow
LINEAR = DinoV3Linear(datasets=("scenes-masks",), recipe=Recipe(20, 8, 1e-2, 1e-3, warmup=2))
UPERNET = SynClrUperNet(datasets=("scenes-masks",), recipe=Recipe(20, 4, 2e-3, 0.05, warmup=2, decay="linear"))
PRESETS: dict[str, Any] = {"linear": LINEAR, "upernet": UPERNET}


@pytest.fixture(autouse=True)
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation_sets.mirror_of(["scenes-masks"], monkeypatch, tmp_path, train=1, test=1)


def measured(evaluation: DecoderEvaluation, model: FrozenModel, seed: int = 0) -> DatasetScores | Skipped:
    return evaluation(model, seed)["scenes-masks"]


def scored(evaluation: DecoderEvaluation, model: FrozenModel, seed: int = 0) -> DatasetScores:
    found = measured(evaluation, model, seed)
    assert isinstance(found, DatasetScores)
    return found


def test_the_presets_are_the_published_recipes() -> None:
    linear, upernet = DinoV3Linear(), SynClrUperNet()
    assert linear.recipe == Recipe(40_000, 16, 1e-3, 1e-3, 1_500, "cosine")
    assert upernet.recipe == Recipe(60_000, 32, 1e-4, 0.05, 1_500, "linear")
    assert upernet.deep_recipe == Recipe(160_000, 16, 1e-4, 0.05, 1_500, "linear")
    assert (upernet.layer_decay, upernet.drop_path, upernet.deep_drop_path, upernet.auxiliary) == (0.65, 0.1, 0.2, 0.4)
    for preset in (linear, upernet):
        assert (preset.crop, preset.scale, preset.dropout) == (512, (0.5, 2.0), 0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_a_trained_decoder_beats_every_map_without_an_image(name: str) -> None:
    found = scored(replace(PRESETS[name], recipe=replace(PRESETS[name].recipe, steps=40)), encoder())
    assert found.scores["miou"].low > 2 * found.chance
    assert found.details["side"] == 64 and found.details["stride"] == 42
    assert found.details["selected_on"] == "nothing: the last step"
    assert found.picture is not None


def test_a_decoder_that_was_not_trained_is_worse() -> None:
    untrained = replace(LINEAR, recipe=replace(LINEAR.recipe, steps=1))
    assert scored(untrained, encoder()).scores["miou"].value < 0.5 * scored(LINEAR, encoder()).scores["miou"].value


def test_scores_are_those_of_the_stored_rows() -> None:
    found = scored(LINEAR, encoder())
    assert LINEAR.values("scenes-masks", found.predictions) == {name: s.value for name, s in found.scores.items()}
    assert LINEAR.intervals("scenes-masks", found.predictions) == found.scores
    test = open_split("scenes-masks", "test")
    labeled = sum((test.read_mask(row) != 255).sum() for row in range(len(test)))
    assert found.predictions["labeled"].sum() == found.predictions["predicted"].sum() == labeled
    assert len(np.unique(found.predictions["unit"])) == len(test)


@pytest.mark.parametrize("name", PRESETS)
def test_a_seed_determines_the_result(name: str) -> None:
    short = replace(PRESETS[name], recipe=replace(PRESETS[name].recipe, steps=3))
    first, again, other = (scored(short, encoder(), seed).predictions["predicted"] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_an_interrupted_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scored(LINEAR, encoder()).predictions["predicted"]
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    features = tmp_path / "store"
    read = protocols.Crops.__call__

    def interrupted(self: protocols.Crops, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if number == 100:
            raise KeyboardInterrupt
        return read(self, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(protocols.Crops, "__call__", interrupted)
        measured(LINEAR, encoder(store=features))
    (state,) = features.glob("decoders/*/state.safetensors")
    seen: list[int] = []
    monkeypatch.setattr(protocols.Crops, "__call__", lambda self, number: (seen.append(number), read(self, number))[1])
    measured(LINEAR, encoder(store=features), seed=1)
    assert seen[0] == 0 and state.is_file(), "another seed is another training"
    seen.clear()
    assert np.array_equal(scored(LINEAR, encoder(store=features)).predictions["predicted"], expected)
    assert seen == list(range(96, 160))
    assert not list(features.glob("decoders/*")), "states are removed when the scores are known"


def resnet() -> FrozenEncoder:
    model = tiny_models.timm_model("resnet10t", num_classes=5)
    return FrozenEncoder(TimmNetwork(model, 32), transform=EvaluationTransform(32), weights_sha256="w" * 64)


def tower() -> FrozenEncoder:
    model = tiny_models.clip_model(tiny_models.clip_config(tiny_models.NATIVE))
    network = OpenClipNetwork(model, lambda texts: torch.zeros(len(texts), 8, dtype=torch.long), tiny_models.SIZE)
    return FrozenEncoder(network, transform=EvaluationTransform(32), weights_sha256="w" * 64)


def test_models_without_maps_of_blocks_say_which_layers_they_have() -> None:
    for model, said in (
        (load("pixels").model, "no maps of single blocks in PixelPatches; its layers are output"),
        (resnet(), "no maps of single blocks in ResNet; its layers are output"),
        (tower(), "no maps of single blocks in VisionTransformer; its layers are cls, pooled, embedding"),
    ):
        assert measured(UPERNET, model) == Skipped(said, SkipCode.NO_PATCHES)


@pytest.mark.parametrize("model", [resnet, tower, lambda: load("pixels").model])
def test_every_network_with_patches_has_a_linear_decoder(model: object) -> None:
    found = scored(replace(LINEAR, recipe=replace(LINEAR.recipe, steps=8)), model())
    assert found.scores["miou"].n == 20


def test_a_network_without_patches_is_skipped() -> None:
    class Vectors(nn.Module):
        def image_layers(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"output": images.flatten(1)[:, :5]}

    model = FrozenEncoder(Vectors(), transform=EvaluationTransform(32), weights_sha256="w")
    for evaluation in PRESETS.values():
        said = "no patch tokens, but vectors of whole images; its layers are output"
        assert measured(evaluation, model) == Skipped(said, SkipCode.NO_PATCHES)


def test_feature_files_are_skipped(folder: Path) -> None:  # noqa: F811
    model = load(str(folder)).model
    assert isinstance(model, feature_files.FeatureFiles)
    for evaluation in PRESETS.values():
        found = measured(evaluation, model)
        assert found == Skipped(f"no network to train a decoder on in {folder}, only layer cls", SkipCode.NO_NETWORK)


class Asked(Exception):
    """The side and the stride that a network was asked for."""


@pytest.mark.parametrize(("patch", "side", "stride"), [(16, 512, 341), (14, 518, 345), (32, 512, 341)])
def test_sides_of_natural_images(patch: int, side: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "train", lambda segmenter, *_: segmenter)

    def tested(segmenter: object, task: object, crops: protocols.Crops, stride: int, execution: object) -> None:
        raise Asked(crops.side, stride)

    monkeypatch.setattr(protocols, "_test", tested)
    task = open_task("scenes-masks")
    natural = replace(task, row=replace(task.row, side=224))
    with pytest.raises(Asked) as asked:
        LINEAR._measure(encoder(1, patch), natural, 0)
    assert asked.value.args == (side, stride)
    if patch == 16:
        with pytest.raises(Asked) as asked:
            LINEAR._measure(encoder(1, patch), task, 0)
        assert asked.value.args == (64, 42)


def test_padded_pixels_have_the_mean_color_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    colors: list[tuple[int, ...]] = []

    def kept(segmenter: nn.Module, crops: protocols.Crops, *_: object) -> nn.Module:
        colors.append(crops.color)
        return segmenter.eval()

    monkeypatch.setattr(protocols, "train", kept)
    measured(LINEAR, encoder())
    transform = EvaluationTransform(32, mean=(0.5, 0.25, 1.0))
    network = TimmNetwork(tiny_models.timm_model("vit_tiny_patch16_224", **tiny_models.VIT, patch_size=8), 32)
    measured(LINEAR, FrozenEncoder(network, transform=transform, weights_sha256="w" * 64))
    assert colors == [(124, 116, 104), (128, 64, 255)]


def test_large_networks_have_their_own_recipe() -> None:
    assert UPERNET._recipe(dense(2)) == UPERNET.recipe
    assert UPERNET._recipe(dense(24)) == UPERNET.deep_recipe
    deep = UPERNET._segmenter(dense(24), 4)
    assert deep.network.backbone.blocks[-1].drop_path1.drop_prob == 0.2
    assert UPERNET._segmenter(dense(2), 4).network.backbone.blocks[-1].drop_path1.drop_prob == 0.1


def test_a_record_is_written_and_reused(tmp_path: Path) -> None:
    origin = Pretrained("timm:tiny", "tiny", {"library": "timm"})
    short = replace(LINEAR, recipe=replace(LINEAR.recipe, steps=2))
    for _ in range(2):
        run = EvaluationRun(encoder(), origin, 0, tmp_path / "out", "cpu")
        run_evaluations(run, [("segmentation", short)], lambda *_: None)
        record = store.read(store.record_path(tmp_path / "out" / "records", run.key, "segmentation", short.preset))
        result = record.results["scenes-masks"]
        assert isinstance(result, Measured) and result.details["recipe"]["steps"] == 2
        assert result.details["train"]["split"] == "train"


def test_an_official_validation_split_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation_sets.mirror_of(["camvid"], monkeypatch, tmp_path)
    seen: list[str] = []

    def kept(segmenter: nn.Module, crops: protocols.Crops, *_: object) -> nn.Module:
        seen.append(crops.images.identity.split)
        return segmenter.eval()

    monkeypatch.setattr(protocols, "train", kept)
    monkeypatch.setattr(protocols, "_test", lambda _, task, *__: (np.ones((len(task.test), 3, 11), int), None))
    found = LINEAR._measure(encoder(1, 16), open_task("camvid"), 0)
    assert isinstance(found, DatasetScores)
    assert seen == ["train"] and found.details["train"]["split"] == "train"
    assert set(found.dataset.content_sha256) == {"train", "test"}
