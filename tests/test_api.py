"""The public interface: its numbers are those of the command, and so are its errors."""

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from benchmark import api, evaluations
from benchmark.analysis import compare
from benchmark.analysis.experiments import paired_differences
from benchmark.errors import UserError
from benchmark.hub.downloads import NOTES
from benchmark.interfaces import Schedule
from benchmark.records import store, table
from benchmark.records.schema import Measured, Record
from benchmark.reports import figures
from benchmark.training import loop
from benchmark.training.batches import BatchDataset
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts.scenes import trade_off
from tests.cli.test_main import Synrep, synrep
from tests.fixtures import tiny_models
from tests.fixtures.runs import ENCODER, experiment, train_here
from tests.fixtures.small_datasets import CAPTIONS, IMAGES, RECIPE

pytestmark = pytest.mark.slow

__all__ = ["synrep"]

RESULTS = Path(__file__).parents[1] / "results"
GROUP = "main-smoke-scenes-1x"
ONE, OTHER = f"{GROUP}/stablerep-syn", f"{GROUP}/simclr-syn"
PRESETS = {"linear_probe": "synclr", "knn": "dino"}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without datasets, so that only scikit-learn's digits are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    return tmp_path


@functools.cache
def vit(seed: int = 0) -> Any:
    """A ViT of timm with random weights, for images of 16 pixels and with statistics of its own."""
    torch.manual_seed(seed)
    config = {"input_size": (3, 16, 16), "mean": tiny_models.MEAN, "std": tiny_models.STD}
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", pretrained_cfg_overlay=config, **options)


def prepared(picture: Image.Image) -> torch.Tensor:
    """The preprocessing of `vit`, as a user of torchvision writes it."""
    steps = [
        v2.ToImage(),
        v2.Resize(16, v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(16),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(tiny_models.MEAN), list(tiny_models.STD)),
    ]
    return v2.Compose(steps)(picture)


def without_head(model: Any) -> nn.Module:
    """A module that timm does not know: its output is the input of the classifier."""

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network.forward_head(self.network.forward_features(images), pre_logits=True)

    return Features()


def recorded(synrep: Synrep, spec: str, name: str, out: Path = Path("out")) -> Measured:
    """What `synrep evaluate` writes about a model on the digits."""
    code, _, error = synrep("evaluate", spec, "--evaluation", name, "--datasets", "digits", "--out", out)
    assert code == 0, error
    (path,) = (out / "records").rglob(f"{name}.{PRESETS[name]}.json")
    result = store.read(path).results["digits"]
    assert isinstance(result, Measured)
    return result


def numbers(scores: api.Evaluated) -> dict[str, Any]:
    return {name: (each.value, each.low, each.high, each.n) for name, each in scores.results["digits"].scores.items()}


def same(scores: api.Evaluated, result: Measured) -> bool:
    """Whether all scores are equal to the last digit, and of the same samples."""
    assert scores.results["digits"].dataset.ids_sha256 == result.dataset.ids_sha256
    assert next(iter(numbers(scores))) == result.main
    written = {name: (each.value, each.low, each.high, each.n) for name, each in result.scores.items()}
    return numbers(scores) == written and scores.results["digits"].chance == result.chance


# Evaluation


@pytest.mark.parametrize("name", PRESETS)
def test_scores_of_a_module_are_those_of_the_command(
    name: str, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: vit())
    written = recorded(synrep, "timm:vit_tiny_patch16_224", name)
    known = api.EvaluationTransform(16, mean=tiny_models.MEAN, std=tiny_models.STD)
    ways: list[tuple[nn.Module, Any]] = [(vit(), None), (without_head(vit()), prepared)]
    ways += [(vit(), prepared), (without_head(vit()), known)] if name == "knn" else []  # a probe takes seconds
    for model, transform in ways:
        assert same(api.evaluate(model, name, "digits", transform=transform, workers=2), written)


def test_scores_depend_on_what_the_transform_does_and_on_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = without_head(vit())
    scores = numbers(api.evaluate(model, "knn", "digits", transform=prepared))
    assert numbers(api.evaluate(model, "knn", "digits", transform=lambda p: prepared(p).flip(2))) != scores
    assert numbers(api.evaluate(vit(1), "knn", "digits")) != scores
    nothing = api.evaluate(model, "knn", "digits", transform=lambda p: torch.zeros(3, 16, 16))["digits"]
    assert nothing.value < 0.2, "a constant picture tells nothing"


def test_a_run_and_its_module_have_the_same_scores(small_dataset: Path, synrep: Synrep, tmp_path: Path) -> None:
    declared = experiment("simclr", steps=2)
    folder = tmp_path / "train" / declared.name / "1" / "0"
    train_here(declared, CaptionImageDataset(small_dataset, RECIPE.revision), folder)
    trained, _ = loop.load_trained(declared, 0, folder, torch.device("cpu"))
    scores = api.evaluate(trained, "knn", ["digits"], transform=api.EvaluationTransform(ENCODER.image_size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.models.run._find_experiment", lambda *_: declared)
        written = recorded(synrep, str(folder), "knn")
        assert same(scores, written) and same(api.evaluate(folder, "knn", "digits"), written)
    assert api.evaluate(trained, "knn", "digits", transform=prepared).experiment.startswith("pretrained/SimCLRModel-")


def test_no_file_is_written_and_the_module_stays_as_it_is(machine: Path) -> None:
    model = without_head(vit()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    scores = api.evaluate(model, "few_shot", "digits", transform=prepared)
    assert list(machine.iterdir()) == []
    assert model.training and model.network.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert scores.results["digits"].predictions


def test_scores_are_a_table(synrep: Synrep) -> None:
    scores = api.evaluate("pixels", "knn")
    frame = scores.to_frame()
    assert set(frame) <= set(table.COLUMNS)
    assert list(frame[frame.is_main].dataset) == ["digits"] and frame.is_main[0]
    assert dict(zip(frame.score, frame.value)) == {name: value for name, (value, *_) in numbers(scores).items()}
    assert frame.value[0] == scores["digits"].value and set(frame.experiment) == {"pretrained/pixels-16"}
    assert scores.skipped["cifar10"].startswith("dataset mteb/cifar10 is neither in data/")
    assert str(frame.n[0]) in repr(scores) and "<table" in scores._repr_html_()
    assert same(scores, recorded(synrep, "pixels", "knn"))


class Towers(nn.Module):
    """Images and texts in one space: the mean of the pixels, and the length of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) * self.scale

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.float().repeat(1, 3)


def test_a_module_with_two_towers_compares_images_with_texts(synrep: Synrep) -> None:
    from benchmark.models.loading.loader import Freeze
    from benchmark.models.loading.module import wrap_module

    loaded = wrap_module(Towers(), prepared, lambda texts: torch.tensor([[len(text)] for text in texts]), Freeze())
    assert loaded.model.embeds_texts
    images = tiny_models.pictures()
    embedded = loaded.model.image_embeddings(images)
    means = torch.stack([prepared(Image.fromarray(images.read(row))).mean((1, 2)) for row in range(3)])
    tiny_models.close(embedded, nn.functional.normalize(means, dim=1))
    tiny_models.close(loaded.model.features(images), means)
    tiny_models.close(loaded.model.text_embeddings(["a", "bb"]), torch.full((2, 3), 3**-0.5))


def test_a_model_of_open_clip_has_the_layers_that_it_has_by_name() -> None:
    from benchmark.models.loading.loader import Freeze
    from benchmark.models.loading.module import wrap_module

    clip = tiny_models.clip_model(tiny_models.clip_config(tiny_models.NATIVE))
    clip.visual.preprocess_cfg = {"size": 32, "mean": tiny_models.MEAN, "std": tiny_models.STD}
    loaded = wrap_module(clip, None, lambda texts: torch.ones(len(texts), 16, dtype=torch.long), Freeze())
    assert list(loaded.model.layers) == ["cls", "pooled", "embedding"]  # type: ignore[attr-defined]
    assert loaded.model.metadata["transform"]["mean"] == tiny_models.MEAN


MODEL = without_head(vit())
EVALUATE: dict[str, tuple[Callable[[], object], str]] = {
    "no such model": (lambda: api.evaluate("nope", "knn"), "unknown model 'nope'; choose one of: "),
    "no such evaluation": (lambda: api.evaluate("pixels", "nope"), "unknown evaluation 'nope'; choose one of: aro, "),
    "no such preset": (lambda: api.evaluate("pixels", "knn", preset="x"), "unknown preset of knn 'x'; choose one of: "),
    "no such dataset": (lambda: api.evaluate("pixels", "knn", "x"), "unknown dataset of these evaluations 'x'; "),
    "a missing dataset": (
        lambda: api.evaluate("pixels", "knn", ["digits", "cifar10"]),
        "knn on cifar10: dataset mteb/cifar10 is neither in data/ nor in $SYNREP_DATA; run `synrep data download ",
    ),
    "no transform": (lambda: api.evaluate(MODEL, "knn"), "expected a transform for Features, found none; "),
    "no tensor": (
        lambda: api.evaluate(MODEL, "knn", transform=lambda picture: picture),
        "expected transform(picture) to return a float tensor (3, S, S), found Image for a picture of 64 x 48 pixels",
    ),
    "no crop": (
        lambda: api.evaluate(MODEL, "knn", transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)])),
        "found torch.float32 (3, 48, 64) for a picture",
    ),
    "a random transform": (
        lambda: api.evaluate(MODEL, "knn", transform=v2.Compose([v2.RandomCrop(16), prepared])),
        "expected a transform that always returns the same tensor, found a random one; remove the augmentations",
    ),
    "tokens, not vectors": (
        lambda: api.evaluate(nn.Flatten(0, 2), "knn", "digits", transform=prepared),
        "expected one vector for each of 64 inputs, found shape (3072, 16)",
    ),
    "no module": (
        lambda: api.evaluate(len, "knn", transform=prepared),
        "expected a torch.nn.Module or a model name, found builtin_function_or_method",
    ),
    "maps, not vectors": (
        lambda: api.evaluate(nn.Conv2d(3, 3, 1), "knn", transform=prepared),
        "expected model(images) to return one vector per row (N, D), found shape (4, 3, 16, 16); wrap the model",
    ),
    "a transform for a name": (
        lambda: api.evaluate("pixels", "knn", transform=prepared),
        "pixels has its own transform and tokenizer; leave them out",
    ),
    "no text tower": (
        lambda: api.evaluate(MODEL, "zero_shot", transform=prepared),
        "zero_shot: no text tower, so images cannot be compared with texts; a module needs encode_image and ",
    ),
    "a tokenizer alone": (
        lambda: api.evaluate(MODEL, "zero_shot", transform=prepared, tokenizer=lambda _: torch.zeros(1)),
        "expected a module with encode_image and encode_text for the tokenizer, found Features; ",
    ),
    "crops of the protocol": (
        lambda: api.evaluate(MODEL, "knn", "digits", preset="dino-crop", transform=prepared),
        "the protocol resizes images in its own way, which a function as transform cannot do; pass an Evaluation",
    ),
    "random views": (
        lambda: api.evaluate(MODEL, "linear_probe", "digits", preset="stablerep", transform=prepared),
        "which a function as transform cannot do; pass an EvaluationTransform",
    ),
    "another score": (lambda: api.evaluate("pixels", "knn")["x"], "unknown dataset of these scores 'x'; choose one "),
}


@pytest.mark.parametrize("what", EVALUATE)
def test_errors_of_an_evaluation_are_one_line(what: str) -> None:
    call, message = EVALUATE[what]
    with pytest.raises(UserError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_patches_need_a_transform_with_known_statistics() -> None:
    from benchmark.models.loading.loader import Freeze
    from benchmark.models.loading.module import wrap_module

    by_function = wrap_module(vit(), prepared, None, Freeze()).model.lacks_patches("scenes-masks", 16)
    assert "squashes images to 16 x 16 pixels, which a function as transform cannot do" in by_function
    assert wrap_module(vit(), api.EvaluationTransform(16), None, Freeze()).model.lacks_patches("scenes-masks", 16) == ""


# Datasets


def test_a_dataset_is_found_by_folder_by_name_and_by_recipe(
    small_dataset: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = api.load_dataset(small_dataset)
    assert len(data) == CAPTIONS and data.images_per_caption == IMAGES
    monkeypatch.setenv("SYNREP_DATA", str(machine / "mirror"))
    for repo in ("me/small", "synrep-bench/scenes-toy-16"):
        (machine / "mirror" / repo).parent.mkdir(parents=True)
        (machine / "mirror" / repo).symlink_to(small_dataset)
    for name in ("me/small", "toy-16", "scenes-toy-16"):
        assert api.load_dataset(name).caption(5) == data.caption(5)
    assert api.load_dataset("me/small", RECIPE.revision).manifest == data.manifest


def test_a_commit_of_the_hub_is_a_revision(small_dataset: Path, machine: Path) -> None:
    commit = "c" * 40
    (machine / "data/me").mkdir(parents=True)
    (machine / "data/me/small").symlink_to(small_dataset)
    note = small_dataset / NOTES / "dataset.json.metadata"
    with pytest.raises(UserError, match=r"is at revision .{12}, expected c{40}; build or download"):
        api.load_dataset("me/small", commit)
    note.parent.mkdir(parents=True)
    note.write_text(f"{commit}\netag\n0\n")
    try:
        for revision in (commit, commit[:7], RECIPE.revision[:7]):
            assert len(api.load_dataset("me/small", revision)) == CAPTIONS
        for other in ("d" * 40, "main", commit[:6], ""):
            with pytest.raises(UserError, match=rf"is at commit c{{12}}, expected {other}; give that commit, or move"):
                api.load_dataset("me/small", other)
    finally:
        note.unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "toy-16",
            "scenes-toy-16 is neither in data/ nor in $SYNREP_DATA; build it with `synrep data build toy-16`",
        ),
        ("me/x", "run `synrep data download me/x --revision <commit>`"),
        ("nope", "unknown recipe 'nope'; choose one of: cc12m, "),
    ],
)
def test_a_missing_dataset_says_how_to_get_it(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        api.load_dataset(name)


@pytest.mark.parametrize("sampling", [api.Sampling(images=2, crops=2, text=True), "simclr"])
def test_batches_are_those_of_a_training(small_dataset: Path, sampling: api.Sampling | str) -> None:
    data = api.load_dataset(small_dataset)
    plain = sampling if isinstance(sampling, api.Sampling) else api.Sampling(crops=2)
    schedule = Schedule(30 * 20 * plain.views, 20 * plain.views)
    wanted = BatchDataset(data, plain, schedule, 16, 3)
    for workers in (0, 1):
        found = api.iterate_batches(data, sampling, captions=20, size=16, seed=3, workers=workers)
        batches = list(found)
        assert len(batches) == CAPTIONS // 20, "one epoch"
        for step, batch in enumerate(batches):
            expected = wanted.batch(step).render()
            assert torch.equal(batch.images_V3HW, expected.images_V3HW)
            assert torch.equal(batch.image_ids_V, expected.image_ids_V)
            assert torch.equal(batch.caption_ids_V, expected.caption_ids_V)
            assert batch.texts == expected.texts and bool(batch.texts) == plain.text
    assert len({int(caption) for batch in batches for caption in batch.caption_ids_V}) == CAPTIONS
    longer = list(api.iterate_batches(data, sampling, captions=20, size=16, seed=3, steps=9))
    assert torch.equal(longer[-1].images_V3HW, wanted.batch(8).render().images_V3HW), "of the second epoch"


@pytest.mark.parametrize(
    ("sampling", "captions", "message"),
    [
        ("nope", 2, "unknown method 'nope'; choose one of: byol, "),
        ("stablerep", 2, f"the method needs 6 images per caption, synrep-bench/scenes-small has {IMAGES}"),
        ("simclr", 1000, "has 160 captions, a batch needs 1000"),
        ("simclr", 0, "expected captions to be a whole number of at least 1, found 0"),
    ],
)
def test_impossible_batches(small_dataset: Path, sampling: str, captions: int, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        api.iterate_batches(api.load_dataset(small_dataset), sampling, captions=captions)


# Records


@functools.cache
def records() -> tuple[Record, ...]:
    return tuple(store.read_all(RESULTS / "records" / GROUP))


def test_records_are_a_table() -> None:
    frame = api.read_records(RESULTS / "records" / GROUP)
    assert list(frame) == list(table.COLUMNS)
    rows = {
        (record.key, record.evaluation.name, dataset, name): score.value
        for record in records()
        for dataset, result in record.results.items()
        if isinstance(result, Measured)
        for name, score in result.scores.items()
    }
    keys = frame.experiment + "/" + frame.version.astype(str) + "/" + frame.seed.astype(str)
    assert dict(zip(zip(keys, frame.evaluation, frame.dataset, frame.score), frame.value)) == rows
    assert (RESULTS / frame.path[0]).is_file()


def test_columns_choose_rows() -> None:
    chosen = api.read_records(RESULTS / "records" / GROUP, evaluation="knn", seed=[0, 2], is_main=True)
    assert set(chosen.evaluation) == {"knn"} and set(chosen.seed) == {0, 2} and chosen.is_main.all()
    assert list(chosen.index) == list(range(len(chosen)))
    with pytest.raises(UserError, match=re.escape("unknown column 'mehtod'; did you mean method?")):
        api.read_records(RESULTS / "records" / GROUP, mehtod="clip")
    with pytest.raises(UserError, match=re.escape("unknown evaluation 'knnn'; did you mean knn?")):
        api.read_records(RESULTS / "records" / GROUP, evaluation={"knnn", "few_shot"})
    with pytest.raises(UserError, match=re.escape("no records in nope; name a folder with records")):
        api.read_records("nope")


def test_experiments_are_compared_as_by_the_command(synrep: Synrep) -> None:
    found = api.compare(ONE, OTHER, records=RESULTS, evaluation="linear_probe")
    wanted = paired_differences(
        ONE, OTHER, store.read_all(RESULTS / "records" / GROUP), RESULTS / "records", "linear_probe"
    )
    assert list(found.dataset) == [each.dataset for each in wanted]
    assert list(found.low) == [each.interval.low for each in wanted]
    assert np.allclose(found.difference, found["first"] - found["second"], atol=1e-12)
    assert ((found.p < 0.05) == ((found.low > 0) | (found.high < 0))).all()
    words = ("compare", ONE, OTHER, "--records", RESULTS / "records", "--evaluation", "linear_probe")
    shown = synrep(*words)[1]
    for difference, low, high in zip(found.difference, found.low, found.high):
        assert f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" in shown


def test_models_are_compared_as_by_the_command(synrep: Synrep) -> None:
    scores = [api.evaluate(f"pixels:{side}", "knn", "digits") for side in (8, 16)]
    found = api.compare(*scores)
    assert synrep("evaluate", "pixels:8", "pixels:16", "--evaluation", "knn", "--datasets", "digits")[0] == 0
    models = [compare.ModelOutput(Path("runs"), f"pretrained/pixels-{side}/1/0") for side in (8, 16)]
    protocol = replace(evaluations.presets("knn")["dino"], datasets=("digits",))
    wanted = list(compare.differences(models[0], models[1], [("knn", protocol)]))
    assert list(found.score) == [each.score for each in wanted]
    for column in ("difference", "low", "high", "p"):
        assert list(found[column]) == [getattr(each.interval, column) for each in wanted]


def test_what_cannot_be_compared() -> None:
    knn, cropped = (api.evaluate("pixels:4", "knn", "digits", preset=name) for name in ("dino", "dino-crop"))
    other = replace(knn.results["digits"], dataset=replace(knn.results["digits"].dataset, ids_sha256="0" * 64))
    for call, message in (
        (lambda: api.compare(knn, cropped), "expected scores of one protocol, found knn.dino and knn.dino-crop; "),
        (lambda: api.compare(knn, ONE), "expected two names, or the scores of two models, found Evaluated and str; "),
        (lambda: api.compare(knn, replace(knn, results={})), "knn: the models have no dataset in common; "),
        (lambda: api.compare(knn, replace(knn, results={"digits": other})), "measured on different samples of digits"),
        (lambda: api.compare(ONE, "nope", records=RESULTS), "unknown experiment in these records 'nope'; "),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            call()


def test_a_comparison_is_drawn_from_its_records() -> None:
    folder = RESULTS / "records" / GROUP
    figure = api.plot_comparison(GROUP, "knn", records=folder)
    frame = api.read_records(folder, evaluation="knn", preset="dino", is_main=True)
    means = frame[frame.experiment == ONE].groupby("dataset").value.mean()
    titles = [axes.get_title().replace("\n", "") for axes in figure.axes]
    assert titles == sorted(means.index)
    row = [label.get_text() for label in figure.axes[0].get_yticklabels()].index("StableRep")
    for axes, title in zip(figure.axes, titles):
        points = [point for line in axes.lines for point in zip(line.get_xdata(), line.get_ydata())]
        assert 100 * means[title] in [pytest.approx(x) for x, y in points if abs(y - row) < 0.5]
    for arguments, message in (
        (("nope",), f"unknown comparison in these records 'nope'; choose one of: {GROUP}"),
        ((GROUP, "knn", "dino-crop"), "no scores of knn in these records; choose others"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            api.plot_comparison(*arguments, records=folder)


def test_the_committed_trade_off_is_drawn(tmp_path: Path) -> None:
    figure = api.plot_trade_off(RESULTS / "scenes/trade_off.json")
    found = figures.draw(lambda: figure)["svg"]
    assert found == figures.draw(lambda: trade_off.figure(api.read_json(RESULTS / "scenes/trade_off.json")))["svg"]
    with pytest.raises(UserError, match=r"nope\.json does not exist; choose another, or measure it"):
        api.plot_trade_off("nope.json")


def test_what_there_is() -> None:
    assert "stablerep" in api.list_methods()
    assert api.list_evaluations()["knn"] == ["dino", "dino-crop"]
    assert {"digits", "cifar10"} <= set(api.list_datasets("few_shot"))


def test_every_public_name_is_documented() -> None:
    for name in api.__all__:
        assert getattr(api, name).__doc__, name
    for name in ("evaluate", "load_dataset", "iterate_batches", "read_records", "compare", "plot_comparison"):
        assert all(part in getattr(api, name).__doc__ for part in ("Args:", "Raises:", "Example:"))
