"""Every complete file of the how-to pages is added to the package and run, and their commands are executed."""

import ast
import importlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from baselines import stablerep
from benchmark import plugins
from benchmark.errors import SkipCode
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.prompts import Prompts
from benchmark.experiments import _scales, smoke
from benchmark.models import load
from benchmark.records import store
from benchmark.training import contract
from datasets_scripts.building import executor
from tests import test_architecture as architecture
from tests.cli.test_main import SYNREP, Synrep, assert_one_line, synrep
from tests.fixtures import doubles, evaluation_sets, real_encoder, runs, tiny_diffusion, tiny_models
from tests.fixtures.fake_hub import Hub
from tests.fixtures.toy_training import distances, trained
from tests.release.test_encoder import finished, hub, pushed, run
from tests.test_docs import checkout, shown, words_of

__all__ = ["checkout", "finished", "hub", "pushed", "run", "synrep"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/how-to"
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md"))}
pytestmark = pytest.mark.timeout(900)  # the default is too short for the commands on a loaded machine
ADDING = [name for name in PAGES if name.startswith("add-")]
SECTIONS = ["Check it", "What the tests check", "Common mistakes", "Larger examples"]
"""Sections that every page about adding something has, in this order."""

Commands = Callable[..., dict[str, str]]


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def files(page: str) -> dict[str, str]:
    """Path -> text of the complete files of a page: their first line is a comment with the path."""
    python = [block for block in blocks(page, "python") if re.match(r"# \S+\.py\n", block)]
    return {block.partition("\n")[0].removeprefix("# "): block for block in python}


def plug_in(page: str) -> tuple[str, str]:
    """The one file of a page that belongs into a package: path and text."""
    (found,) = [(path, text) for path, text in files(page).items() if path.startswith(architecture.PACKAGES)]
    return found


COMPLETE = [(page, path) for page in PAGES for path in files(page)]


# Pages


def test_every_page_about_adding_has_the_same_sections() -> None:
    assert len(ADDING) == 9
    for name in ADDING:
        titles = re.findall(r"^## (.*)$", PAGES[name], re.MULTILINE)
        assert [title for title in titles if title in SECTIONS] == SECTIONS, name
        assert PAGES[name].count("\n") <= 120, name
        assert files(name), name


def test_the_index_has_every_page() -> None:
    linked = re.findall(r"\]\(([a-z-]+)\.md\)", PAGES["index"])
    assert sorted(linked) == sorted(PAGES.keys() - {"index"})
    titles = dict(re.findall(r"\[([^]]+)\]\(([a-z-]+)\.md\)", PAGES["index"]))
    assert {f"# {title}": name for title, name in titles.items()} == {
        PAGES[name].partition("\n")[0]: name for name in PAGES.keys() - {"index"}
    }


def test_every_folder_of_plug_ins_has_a_page() -> None:
    added = {str(Path(plug_in(name)[0]).parent) for name in ADDING if name != "add-a-labeled-dataset"}
    assert added == {*architecture.PLUG_INS, "datasets_scripts"} - {"benchmark/reports/paper"}
    assert "`benchmark/reports/paper/`" in PAGES["add-a-table"]


@pytest.mark.parametrize(("page", "path"), COMPLETE)
def test_a_file_keeps_the_rules_of_its_folder(page: str, path: str) -> None:
    text = files(page)[path]
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    if path.startswith(architecture.PACKAGES):
        assert architecture.forbidden(path, tree) == []
        assert architecture.private_imports(path, tree) == []
        assert text.count("\n") <= 150


def test_files_are_formatted_and_linted(tmp_path: Path) -> None:
    for page, path in COMPLETE:
        place = tmp_path / page / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(files(page)[path])
    for words in (("check",), ("format", "--check")):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "--config", ROOT / "pyproject.toml", tmp_path]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout


# Running them


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without datasets on this machine."""
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))  # commits of a fake Hub are not unique
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Adds the file of a page to its package, for this process and the processes it starts; returns the module."""
    added: list[str] = []
    site = tmp_path / "site/sitecustomize.py"

    def add(page: str) -> ModuleType:
        path, text = plug_in(page)
        file = tmp_path / "added" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        package = ".".join(Path(path).parent.parts)
        folder = importlib.import_module(package)
        monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(file.parent)])
        site.parent.mkdir(exist_ok=True)
        with site.open("a") as lines:
            lines.write(f"import {package}\n{package}.__path__.append({str(file.parent)!r})\n")
        monkeypatch.setenv("PYTHONPATH", f"{site.parent}:{ROOT}")
        importlib.invalidate_caches()
        added.append(f"{package}.{Path(path).stem}")
        assert Path(path).stem in plugins.names(package)
        return importlib.import_module(added[-1])

    yield add
    for name in added:
        sys.modules.pop(name, None)
        delattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2])


@pytest.fixture
def execute(synrep: Synrep) -> Commands:
    """Executes the commands of a page in this process; returns what each printed.

    `replaced` names what is smaller here than on the page; the word that ends in `<commit>` gets its commit.
    """

    def execute(page: str, *replaced: tuple[str, str], skipped: str = "(?!)") -> dict[str, str]:
        printed = {}
        for command in shown(PAGES[page]):
            if re.search(skipped, command):
                continue
            changed = command
            for old, new in replaced:
                changed = changed.replace(old, new)
            (words,) = words_of(changed)
            code, out, error = synrep(*words)
            assert code == 0, f"{command}: {error}"
            printed[command] = out
        assert printed
        return printed

    return execute


def main_score(folder: Path, dataset: str) -> float:
    """The main score of the only record below a folder, which must be of raw pixels or of a loaded model."""
    (record,) = store.read_all(folder / "records")
    result = record.results[dataset]
    return result.scores[result.main].value


def features_of_digits(model: str) -> tuple[Any, ...]:
    """Features and labels of the training and of the test images."""
    frozen = load(model).model
    found = []
    for split in ("train", "test"):
        images = open_split("digits", split)
        found += [frozen.features(images).astype(np.float64), np.array(images.columns["label"])]
    return tuple(found)


@pytest.mark.slow
def test_the_method(add, execute, place: Path, small_data) -> None:
    module = add("add-a-method")
    importlib.reload(smoke)  # the comparison of all methods
    try:
        build, train = ("build toy-1k scenes-evaluation", "estimate toy-1k"), ("seed 0", "seed 0 --plan")  # minutes
        printed = execute("add-a-method", build, train, skipped="^synrep tables")
    finally:
        sys.modules.pop(module.__name__)
        del importlib.import_module("baselines").__path__[-1]
        importlib.reload(smoke)
    check, plan, data, two = printed.values()
    *checks, following = check.splitlines()
    assert [line[:2] for line in checks] == ["ok", "ok", "ok", "--", "ok"]
    assert following.startswith("next: pytest -k two_images")
    assert "smoke/two_images" in plan and "3 runs, 54,000 views" in plan
    assert "10,000 images" in data
    assert "smoke/simclr" in two and "smoke/two_images" in two and "2 runs, 36,000 views" in two


@pytest.mark.slow
def test_the_loss_of_the_method_is_its_formula_and_learns(add, tmp_path: Path, small_data) -> None:
    method = add("add-a-method").METHOD.tiny()
    model = contract.build(method).train()
    batch = contract.toy_batch(method)
    z_VD = model.head(model.encode_images(batch.images_V3HW), method.sampling.views).detach().double().numpy()
    z_VD /= np.linalg.norm(z_VD, axis=1, keepdims=True)
    terms = []
    for i, anchor in enumerate(z_VD):
        others = [j for j in range(len(z_VD)) if j != i]
        total = np.log(sum(np.exp(anchor @ z_VD[j] / 0.1) for j in others))
        positives = [j for j in others if batch.caption_ids_V[j] == batch.caption_ids_V[i]]
        terms += [total - np.mean([anchor @ z_VD[j] / 0.1 for j in positives])]
    assert model.loss(batch)["loss"].item() == pytest.approx(np.mean(terms), rel=1e-4)
    runs.train_here(runs.experiment("two_images"), small_data, tmp_path)
    lines = runs.metrics(tmp_path)
    assert lines[-1]["step"] == runs.STEPS and all(np.isfinite(line["loss"]) for line in lines)
    (near, far), (near_before, far_before) = (
        distances(trained(method), method),
        distances(contract.build(method), method),
    )
    assert far / near > 2 * far_before / near_before, "views of a caption are closer, compared with other captions"


@pytest.mark.slow
def test_the_experiment(add, execute, place: Path) -> None:
    module = add("add-an-experiment")
    smallest, one = execute("add-an-experiment").values()
    assert "more_positives-smoke-images/stablerep-m2" in smallest and "6 runs, 244,800 views" in smallest
    assert "more_positives-10k-images/stablerep-m6" in one and "2 runs, " in one
    for size in _scales.SCALES.values():
        two, six = module.EXPERIMENTS(size)
        assert (two.settings.sampling.images, six.settings.sampling.images) == (2, 6)
        settings = replace(six.settings, sampling=replace(six.settings.sampling, images=2))
        assert replace(six, name=two.name, settings=settings) == two, "nothing else differs"
        assert size.toy_world or six.settings == stablerep.METHOD
        assert six.schedule.captions_per_batch(six.settings.sampling) > 1
        assert two.schedule.captions_per_batch(two.settings.sampling) > 1


# Datasets


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds start one process, on any machine."""
    monkeypatch.setattr(executor, "slots", lambda needs_gpu, workers: [""])


def write_birds(place: Path) -> list[str]:
    """Write the captions of the page and return them."""
    (csv,) = blocks("add-a-dataset", "csv")
    (place / "birds.csv").write_text(csv)
    return [line.partition(",")[0] for line in csv.splitlines()[1:]]


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_diffusion.stable_diffusion(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_the_dataset(
    add, execute, place: Path, one_worker: None, tiny_pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights in place of Stable Diffusion's."""
    module = add("add-a-dataset")
    declared = module.RECIPES["birds"]
    size = {"size": tiny_diffusion.SIDE, "stored": 24, "dtype": "float32", "batch": 4}
    small = replace(declared.text_to_image, model=tiny_pipeline, steps=2, core_seconds=0.1, **size)
    monkeypatch.setitem(module.RECIPES, "birds", replace(declared, text_to_image=small))
    texts = write_birds(place)
    printed = execute("add-a-dataset")
    assert ": 3 captions of 3 rows" in printed["synrep data captions birds.csv --column text"]
    assert "3 captions x 4 = 12 images" in printed["synrep data estimate birds"]
    assert printed["synrep data check data/synrep-bench/birds"].endswith(": no errors\n")
    rows = pq.read_table(place / "data/synrep-bench/birds/data").to_pylist()
    assert [row["caption"] for row in rows] == texts
    assert all(len(row["images"]) == 4 and sorted(row["guidance"]) == [2, 2, 3, 3] for row in rows)
    assert Image.open(place / "sheet.png").size[0] > 100
    assert declared.text_to_image.steps == 25


@pytest.mark.slow
def test_the_caption_source(add, place: Path, hub: Hub, synrep: Synrep) -> None:
    source = add("add-a-caption-source").SOURCE
    table = pa.table(
        {"caption": ["a red bird", "an owl", "a red bird"], "url": [f"https://example.org/{k}" for k in range(3)]}
    )
    (place / "there/data").mkdir(parents=True)
    pq.write_table(table, place / "there/data/train-0.parquet")
    pq.write_table(table, place / "there/data/test-0.parquet")
    hub.put("me/bird-captions", place / "there", kind="datasets")
    lines = zip(*table.to_pydict().values())
    (place / "birds.tsv").write_text("".join(f"{caption}\t{url}\n" for caption, url in lines))
    from_hub, from_file, estimate = (words_of(command)[0] for command in shown(PAGES["add-a-caption-source"]))
    code, out, error = synrep(*from_hub)
    assert code == 0 and ": 2 captions of 3 rows, dropped: 1 duplicate" in out, error
    report = json.loads((place / "data/captions/birds/captions.json").read_text())
    assert report["origin"]["files"] == ["data/train-0.parquet"] and report["origin"]["repo"] == source.repo
    assert_one_line(synrep(*from_file), "has captions of another origin, me/bird-captions at commit")
    shutil.rmtree(place / "data")
    assert synrep(*from_file)[0] == 0
    rows = pq.read_table(place / "data/captions/birds/captions.parquet").to_pylist()
    assert [row["caption"] for row in rows] == ["a red bird", "an owl"]
    assert [row["source_id"] for row in rows] == ["https://example.org/0", "https://example.org/1"]
    assert json.loads((place / "data/captions/birds/captions.json").read_text())["sha256"] == report["sha256"]
    assert "2 captions x 10 = 20 images" in synrep(*estimate)[1]


@pytest.mark.slow
def test_the_image_generator(add, execute, place: Path, one_worker: None) -> None:
    module = add("add-an-image-generator")
    red, gray, blue = write_birds(place)
    printed = execute("add-an-image-generator")
    check = printed["synrep data check data/synrep-bench/colors --sample 4"]
    assert re.search(r"^(\d) images regenerated: \1 bit-identical, largest difference 0 ", check, re.MULTILINE), check
    rows = {row["caption"]: row for row in pq.read_table(place / "data/synrep-bench/colors/data").to_pylist()}
    assert rows[gray]["status"] == ["the caption names no color"] * 2 and rows[gray]["images"] == [None, None]
    for caption, color in ((red, (200, 40, 40)), (blue, (50, 80, 200))):
        row = rows[caption]
        for image, seed, scale in zip(row["images"], row["seeds"], row["guidance"], strict=True):
            assert scale in (2.0, 8.0)
            noise = np.random.Generator(np.random.Philox(key=seed)).normal() * 20 / (1 + scale)
            (place / "image.jpg").write_bytes(image["bytes"])
            found = np.asarray(Image.open(place / "image.jpg"), float)
            assert found.shape == (64, 64, 3)
            assert np.abs(found.mean((0, 1)) - np.clip(np.array(color) + noise, 0, 255)).max() < 3
    alone = next(module.FlatColor()([red], [7], [2.0])).image
    assert (list(module.FlatColor()([blue, red], [5, 7], [8.0, 2.0]))[1].image == alone).all(), "no neighbor matters"


# Evaluations, models and tables


@pytest.mark.slow
def test_the_evaluation(add, execute, place: Path) -> None:
    module = add("add-an-evaluation")
    evaluate, validate = execute("add-an-evaluation").values()
    assert "| nearest_mean | cosine   | digits    | top1    |" in evaluate
    assert validate.startswith("runs/records: 1 valid record")
    train_ND, label_N, test_MD, label_M = features_of_digits("pixels:8")
    right = 0
    for feature_D, label in zip(test_MD, label_M):
        cosines = {
            str(k): feature_D @ mean_D / np.linalg.norm(mean_D)
            for k in np.unique(label_N)
            for mean_D in [train_ND[label_N == k].mean(axis=0)]
        }
        right += max(cosines, key=cosines.__getitem__) == str(label)
    assert main_score(place / "runs", "digits") == pytest.approx(right / len(label_M), abs=2 / len(label_M))
    (protocol,) = module.EVALUATIONS
    classes = sorted(set(label_N))

    def top1(model: doubles.Double) -> tuple[float, float]:
        result = protocol(model)["digits"]
        assert protocol.values("digits", result.predictions)["top1"] == result.scores["top1"].value
        return result.scores["top1"].value, result.chance

    assert top1(doubles.by_label(classes))[0] == 1
    value, chance = top1(doubles.constant())
    assert value <= chance
    value, chance = top1(doubles.noise(16))
    assert abs(value - chance) < 0.08


@pytest.mark.slow
def test_the_table(add, execute, place: Path) -> None:
    add("add-an-evaluation")
    add("add-a-table")
    execute("add-a-table")
    (named,) = re.findall(r"The table is `(.*?)`", PAGES["add-a-table"])
    table = [re.split(r" *\| *", line)[1:-1] for line in (place / named).read_text().splitlines() if line[:1] == "|"]
    (pixels,) = [dict(zip(table[0], row)) for row in table if "pixels" in row[0]]
    (record,) = store.read_all(place / "runs/records")
    scores = record.results["digits"].scores
    for column, name in (("digits", "top1"), ("digits: per class", "mean_per_class")):
        assert pixels[column].strip("*").startswith(f"{100 * scores[name].value:.1f}\u00a0±")
    assert (place / named).with_suffix(".csv").is_file() and (place / named).with_suffix(".tex").is_file()


@pytest.mark.slow
def test_the_model_loader(add, execute, place: Path) -> None:
    module = add("add-a-model-loader")
    torch.manual_seed(0)
    network = tiny_models.scramble(module.SmallCNN())
    save_file(network.state_dict(), place / "weights.safetensors")
    (printed,) = execute("add-a-model-loader").values()
    assert "| knn          | dino     | digits    |" in printed
    loaded = load("small_cnn:weights.safetensors")
    assert loaded.origin.slug.startswith("small_cnn-weights.safetensors-")
    images = tiny_models.pictures()
    prepared = tiny_models.prepared(images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=32)
    wanted = network.layers(prepared).mean(dim=(2, 3))
    np.testing.assert_allclose(loaded.model.features(images), wanted.detach().numpy(), rtol=1e-2, atol=1e-3)
    (place / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(Exception, match=r"^cannot load small_cnn:weights\.safetensors: "):
        load("small_cnn:weights.safetensors")


@pytest.mark.slow
def test_the_labeled_dataset(place: Path, synrep: Synrep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "add-a-labeled-dataset"
    (prompts,) = blocks(page, "json")
    classes = json.loads(prompts)["classes"]
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        for number, name in enumerate(classes):
            folder = place / "birds" / split / name
            folder.mkdir(parents=True)
            for at in range(count):
                pixels = rng.integers(0, 60, (10, 10, 3)) + 90 * (np.arange(3) == number)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{at}.png")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    ((path, text),) = files(page).items()
    (place / Path(path).name).write_text(text)
    ran = subprocess.run([sys.executable, Path(path).name], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (row_text,) = [block for block in blocks(page, "python") if block.startswith("_hub(")]
    row = eval(row_text, vars(catalog))
    monkeypatch.setitem(catalog.DATASETS, row.name, row)
    images = open_split("birds", "test")
    assert images.columns["label"] == [name for name in classes for _ in range(10)]
    assert images.identity.revision == row.revision and len(open_split("birds", "train")) == 60
    knn = importlib.import_module("benchmark.evaluations.knn")
    (preset,) = re.findall(r"`(Knn\(.*?\))`", PAGES[page])
    monkeypatch.setattr(knn, "EVALUATIONS", (*knn.EVALUATIONS, eval(preset, vars(knn))))
    _, evaluate = shown(PAGES[page])
    code, out, error = synrep(*words_of(evaluate)[0])
    assert code == 0, error
    assert main_score(place / "runs", "birds") == 1.0, out
    assert list(Prompts(tuple(classes), ()).class_indices("birds", classes)) == [0, 1, 2]


# Pages about using it


def test_every_module_that_a_page_starts_exists() -> None:
    for text in PAGES.values():
        for name in re.findall(r"^python -m (\S+)", text, re.MULTILINE):
            assert importlib.util.find_spec(name), name


@pytest.mark.slow
def test_publishing_a_dataset(execute, place: Path, one_worker: None, hub: Hub, tmp_path: Path) -> None:
    page = "publish-a-dataset"
    before_load = execute(page, skipped="<commit>|data/me/")
    commit = hub.repo("me/toy-20-l2").refs["main"]
    assert commit in before_load["synrep data publish data/synrep-bench/scenes-toy-20-l2 --repo me/toy-20-l2"]
    after = execute(page, ("<commit>", commit), skipped="build|publish|sheet|check data/synrep")
    assert after["synrep data check data/me/toy-20-l2"].endswith(": no errors\n")
    (snippet,) = blocks(page, "python")
    command = [sys.executable, "-c", snippet.replace("<commit>", commit)]
    env = hub.environment(tmp_path / "home")
    env.pop("HF_HUB_OFFLINE", None)
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = pq.read_table(place / "data/synrep-bench/scenes-toy-20-l2/data").to_pylist()
    assert ran.stdout == f"20 {rows[0]['caption']} (64, 64)\n"


@pytest.mark.slow
def test_publishing_is_rehearsed_in_a_shell_with_a_hub_of_its_own(place: Path, small_dataset: Path) -> None:
    page = PAGES["publish-a-dataset"]
    (shell,) = re.findall(r"^python (-m tests\.fixtures\.fake_hub .+)$", page, re.MULTILINE)
    assert f"`python {shell}`" in PAGES["publish-an-encoder"]
    (publish,) = [command for command in shown(page) if " publish " in command]
    typed = publish.replace("data/synrep-bench/scenes-toy-20-l2", str(small_dataset))
    env = os.environ | {"PATH": f"{SYNREP.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, *shell.split()],
        input=f"{typed} && echo $HF_ENDPOINT\nexit 3\n",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 3, ran.stderr
    address = ran.stdout.splitlines()[-1]
    assert "//localhost:" in address and f"{address}/datasets/me/toy-20-l2" in ran.stdout


@pytest.mark.slow
def test_publishing_an_encoder(
    execute, run: Path, hub: Hub, tmp_path: Path, place: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "publish-an-encoder"
    (declared,) = {re.search(r"runs/\S+", command)[0] for command in shown(PAGES[page]) if "push-model" in command}
    printed = execute(page, (declared, str(run)), skipped="<commit>")
    assert sorted(path.name for path in (place / "look").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    _, push = printed.values()
    commit = hub.repo("me/my-encoder", "models").refs["main"]
    load_it, evaluate_it = push.splitlines()[-2:]
    (snippet,) = blocks(page, "python")
    assert load_it.removeprefix("load it: ") in snippet.replace("<commit>", commit)
    (evaluate,) = [command for command in shown(PAGES[page]) if "<commit>" in command]
    command = evaluate.replace("<commit>", commit)
    assert command.startswith(evaluate_it.removeprefix("evaluate it: "))
    env = hub.environment(tmp_path / "home")
    words = [sys.executable, "-m", "benchmark.cli", *words_of(command)[0]]
    ran = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "| linear_probe | synclr   | digits    |" in ran.stdout


@pytest.mark.slow
def test_submitting_results(execute, place: Path, hub: Hub) -> None:
    (place / "results/records").mkdir(parents=True)
    printed = execute("submit-results")
    assert printed["synrep validate runs"].startswith("runs/records: 1 valid record")
    assert "next: synrep tables" in printed["synrep submit runs"]
    assert (place / "results/tables/pretrained/few_shot.ssl-transfer.md").is_file()
    (record,) = store.read_all(place / "results/records")
    (there,) = [
        path for path in hub.repo("me/records").revisions[hub.repo("me/records").refs["main"]] if ".json" in path
    ]
    assert json.loads(hub.read("me/records", there))["experiment"]["name"] == record.experiment.name


@pytest.mark.slow
def test_evaluating_a_model(
    execute, place: Path, hub: Hub, pushed, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiny models in place of the named ones, and a small copy of CIFAR-10 at the pinned commit."""
    page = "evaluate-your-model"
    evaluation_sets.write("cifar10", tmp_path / "copies", train=20, test=5)
    evaluation_sets.use(["cifar10"], monkeypatch, tmp_path, train=20, test=5)
    row = catalog.DATASETS["cifar10"]
    sha = hub.put(row.repo, tmp_path / "copies" / row.repo, kind="datasets")
    hub.repo(row.repo).revisions[row.revision] = hub.repo(row.repo).revisions[sha]
    tiny_models.timm_repo(tmp_path / "timm", "registered_by_the_tests")
    hub.put("org/registered", tmp_path / "timm")
    named = ("timm:vit_base_patch16_224.dino", "timm:registered_by_the_tests.first")
    monkeypatch.chdir(place)
    for path, text in files(page).items():
        Path(path).parent.mkdir()
        Path(path).write_text(text)
        assert f"python {path}" in PAGES[page]
        runpy.run_path(path)
    printed = execute(page, named, skipped="hub:me/my-encoder")
    trained = f"python -m {real_encoder.__name__} mirror\nSYNREP_DATA=mirror synrep evaluate hub:{real_encoder.NAME} "
    assert trained in PAGES[page]
    assert all("| digits " in out or "| cifar10 " in out for command, out in printed.items() if " evaluate " in command)
    measured = {(record.experiment.method, record.evaluation.name) for record in store.read_all(place / "runs/records")}
    assert ("timm-registered_by_the_tests.first", "knn") in measured, measured
    assert {method for method, _ in measured} > {"pixels-8", "pixels-16"}
    assert (place / "report.html").read_text().startswith("<!doctype html>")
    assert (place / "runs/tables/pretrained/linear_probe.synclr.md").is_file()


@pytest.mark.slow
def test_regenerating_the_papers_tables(checkout: Path, execute, capsys: pytest.CaptureFixture[str]) -> None:
    page = "regenerate-the-papers-tables"
    printed = execute(page)
    assert (checkout / "results/tables/paper/table_1.md").is_file()
    assert (checkout / "results/tables/paper/table_1_as_published.md").is_file()
    assert "up to date" in printed["synrep tables --check"]
    assert "## Not measured" in printed["synrep report main-smoke-scenes-1x/clip-syn"]
    (text,) = files(page).values()
    (checkout / "why.py").write_text(text)
    runpy.run_path("why.py")
    lines = [line.split(": ", 3) for line in capsys.readouterr().out.splitlines()]
    assert ["linear_probe.synclr", "cifar10", "missing-dataset"] in [line[:3] for line in lines]
    codes = re.findall(r"^\| `([a-z-]+)` \|", PAGES[page], re.MULTILINE)
    assert sorted(codes) == sorted(SkipCode) and {line[2] for line in lines} <= set(codes)
    assert "main-10k-cc12m-1x/clip-real" in printed["synrep run main-10k-cc12m-1x --plan"]
