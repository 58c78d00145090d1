"""Pinned values: fingerprints, revisions, protocol hashes, seeds, and the weights of a short run.

`tests/pins.json` contains them. A change to one of them needs a new version and an entry in CHANGELOG.md; then run
`python -m tests.test_pins` to update the file. Hashes, of initial weights too, are compared exactly and on another
processor. Trained weights are compared by two numbers per method, up to rounding differences between processors.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from benchmark import experiments, plugins
from benchmark.evaluations import few_shot
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.experiments._scales import SCALES
from benchmark.interfaces import Skipped
from benchmark.nn import initialization
from benchmark.records import create
from benchmark.training import contract
from benchmark.training.batches import keyed_rng, step_seed
from benchmark.training.dataset import CaptionImageDataset
from benchmark.transforms.augmentations import sample_view_params
from datasets_scripts import cc3m, recipe
from datasets_scripts.building.build import build
from datasets_scripts.captions import prepare
from datasets_scripts.scenes import grammar, renderer
from tests.fixtures import small_datasets
from tests.fixtures.processors import computed_without_avx
from tests.fixtures.runs import experiment, train_here

pytestmark = pytest.mark.slow

FILE = Path(__file__).with_name("pins.json")
ROWS = "A dog on a beach.\thttps://example.org/1\n  A  cat\thttps://example.org/2\nA dog on a beach.\thttps://example.org/3\n"


def fingerprints() -> dict[str, str]:
    """Return the fingerprint of every official run at every scale, without prepared captions."""
    found = {f"{run.name} v{run.version}": create.fingerprint(run) for run in experiments.find("smoke")}
    for file in ("main", "language", "ablations"):
        for size in SCALES:
            for run in experiments.find(f"{file}-{size}"):
                found[f"{run.name} v{run.version}"] = create.fingerprint(run)
    return found


def recipes() -> dict[str, Any]:
    """Return the declaration of every recipe without its captions, and the revision of the toy recipes."""
    found: dict[str, Any] = {}
    for name in recipe.names():
        for variant in ("", "-10k", "-25k-l4", "-full", "-mixed", "-1m-l2-w7.5"):
            one = recipe.find(name + variant, Path("no-data"))
            if name.startswith("toy"):
                found[one.name] = one.revision
            else:
                # The name of real images has a hash of tars that are not here.
                draw = None if name.endswith("-real") else one.text_to_image.name
                declared = {"draw": draw, "images": one.images_per_caption, "guidance": list(one.guidance)}
                found[one.name] = {**declared, "seed": one.seed, "version": one.version}
    return found


def prepared() -> dict[str, str]:
    """Return the hashes of a small prepared list of captions, and the revision of its recipe."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "list.tsv").write_text(ROWS)
        one = recipe.find("cc3m", root)
        report = prepare.prepare(cc3m.SOURCE, root / "list.tsv", one.captions.folder, lambda _: None)  # type: ignore[attr-defined]
        return {"sha256": report["sha256"], "version": one.captions.version, "revision": one.revision}


def protocols() -> dict[str, str]:
    """Return the protocol hash of every preset of every evaluation."""
    package = "benchmark.evaluations"
    return {
        f"{name} {evaluation.preset} v{evaluation.version}": create.protocol_hash(evaluation)
        for name in plugins.names(package)
        for evaluation in plugins.load(package, name, "evaluation").EVALUATIONS
    }


def seeds() -> dict[str, Any]:
    """Return samples of all seeded random generators."""
    revision = "ab" * 20
    episodes = few_shot.episodes("digits", "ssl-transfer", 3)
    assert not isinstance(episodes, Skipped)
    return {
        "caption": recipe.caption_id("a dog on a beach"),
        "images": [recipe.image_seed(revision, -5, index) for index in range(3)],
        "guidance": [recipe.image_guidance((2.0, 3.0, 8.0), -7, index) for index in range(4)],
        "steps": [step_seed(seed, step) for seed, step in ((0, 0), (0, 1), (2, 17))],
        "order": keyed_rng(1, 2).permutation(12).tolist(),
        "of a caption": keyed_rng(1, 2, -9).permutation(10).tolist(),
        "keyed": [int(bits) for bits in keyed_bits("epoch", "3").random_raw(3)],
        "episodes": episodes.sha256,
    }


def initial_weights() -> dict[str, str]:
    """Return the hash of the initial weights of every method, and of every way to draw numbers on many of them."""

    def sha256(*tensors: torch.Tensor) -> str:
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()

    found = {}
    for name in plugins.names("baselines"):
        state = contract.build(plugins.load("baselines", name, "method").METHOD.tiny()).state_dict()
        found[name] = sha256(*(state[key] for key in sorted(state)))
    with initialization.seeded(1):
        found["normal_"] = sha256(torch.empty(1_000_003).normal_(1, 3))
        found["uniform_"] = sha256(torch.empty(1_000_000).uniform_(-0.3, 0.7))
        found["erfinv_"] = sha256(torch.empty(1_000_000).uniform_(-1, 1).erfinv_())
    return found


def drawn() -> dict[str, str]:
    """Return the hashes of rendered images, and of the random parameters of each method's views."""
    images = [renderer.render(grammar.scene(row * 997).caption, row).image for row in range(200)]
    found = {"rendered images": hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()}
    for name in plugins.names("baselines"):
        sampling = plugins.load("baselines", name, "method").METHOD.sampling
        views = sample_view_params(500, 213, 320, sampling.augmentations, torch.Generator().manual_seed(0))
        content = b"".join(getattr(views, field.name).numpy().tobytes() for field in fields(views))
        found[name] = hashlib.sha256(content).hexdigest()
    return found


EXACT = (fingerprints, recipes, prepared, protocols, seeds, initial_weights, drawn)


def exact() -> dict[str, Any]:
    """Return all values that are equal on every machine."""
    return {function.__name__: function() for function in EXACT}


def weights(data: CaptionImageDataset, folder: Path) -> dict[str, list[float]]:
    """Return the mean absolute weight and a fixed random projection of the weights of each method after three steps."""
    found = {}
    for name in plugins.names("baselines"):
        train_here(experiment(name, steps=3), data, folder / name)
        tensors = safetensors.numpy.load_file(folder / name / "model.safetensors")
        flat = np.concatenate([tensors[key].astype(np.float64).ravel() for key in sorted(tensors)])
        digest = hashlib.sha256(name.encode()).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:8], "big")))
        signs = generator.choice([-1.0, 1.0], len(flat))
        found[name] = [float(np.abs(flat).mean()), float(flat @ signs / np.sqrt(len(flat)))]
    return found


def open_small(root: Path) -> CaptionImageDataset:
    """Build the small dataset below `root` and open it."""
    return CaptionImageDataset(
        build(small_datasets.RECIPE, root, [""], lambda *_: None), small_datasets.RECIPE.revision
    )


def pins() -> dict[str, Any]:
    return json.loads(FILE.read_text())


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make no datasets available."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("pinned", EXACT)
def test_pinned_values_are_unchanged(pinned: Callable[[], Any]) -> None:
    assert pinned() == pins()[pinned.__name__]


@pytest.mark.usefixtures("nowhere")
def test_pinned_values_do_not_depend_on_the_processor() -> None:
    found, wanted = computed_without_avx("tests.test_pins.exact", threads=2), pins()
    for name, values in found.items():
        assert values == wanted[name], name


def test_a_short_run_of_every_method_gives_the_same_weights(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    wanted = pins()["weights"]
    found = weights(small_data, tmp_path)
    assert found.keys() == wanted.keys()
    for name, numbers in found.items():
        assert numbers == pytest.approx(wanted[name], rel=2e-4, abs=1e-4), name


def main() -> None:
    """Update the pinned values."""
    torch.set_num_threads(1)
    os.environ.pop("SYNREP_DATA", None)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = {**exact(), "weights": weights(open_small(Path("data")), Path(folder))}
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
