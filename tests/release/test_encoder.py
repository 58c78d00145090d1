"""Release of a run's encoder to a local fake Hub: files, features in timm, and errors."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from safetensors.torch import load_file

from benchmark import evaluations
from benchmark.errors import SkipCode, UserError
from benchmark.experiments import smoke
from benchmark.files import file_sha256
from benchmark.hub import client as hub_client
from benchmark.interfaces import DatasetIdentity, DatasetScores, Score, Skipped, ViTConfig
from benchmark.models import load
from benchmark.records import create, environment, store
from benchmark.release import encoder, model_card
from benchmark.training import loop
from benchmark.transforms.augmentations import MEAN, STD
from benchmark.transforms.evaluation import EvaluationTransform
from tests.cli.test_main import assert_one_line, synrep
from tests.fixtures import runs, tiny_models
from tests.fixtures.fake_hub import CUT, Hub

pytestmark = pytest.mark.slow

__all__ = ["synrep"]

ROOT = Path(__file__).parents[2]
PAIR = runs.experiment("clip", steps=2)
"""Experiment whose model has parts that are not released: a text tower, projections, a temperature."""
REPO = "me/pair"
CIFAR = DatasetIdentity("org/cifar", "rev-1", "test", 100, "b" * 64)
PROBE = ("linear_probe", "synclr")


def scored(value=0.5, name="top1", identity=CIFAR, **more):
    return DatasetScores(identity, {name: Score(value, 100, value - 0.1, min(value + 0.1, 1.0)), **more}, chance=0.1)


def write_record(folder, experiment, weights_sha256, scores, protocol=PROBE, seed=0, layer="cls"):
    name, preset = protocol
    facts = {"weights_sha256": weights_sha256, "layer": layer, "transform": {"size": 16}, "precision": "float32"}
    record = create.from_scores(
        scores,
        origin=experiment,
        seed=seed,
        name=name,
        evaluation=evaluations.presets(name)[preset],
        metadata=facts,
        content_sha256="c" * 64,
        environment=environment.environment("cpu"),
    )
    return store.write(record, folder)


def finish(out, data, experiment=PAIR, seed=0):
    """Train a run below `out`, write records of it, and return its folder."""
    folder = out / "train" / create.record_key(experiment, seed)
    runs.train_here(experiment, data, folder, seed)
    sha256 = json.loads((folder / "model.json").read_text())["weights_sha256"]
    scores = {
        "cifar10": scored(0.4, also=Score(0.3, 100, 0.2, 0.4)),
        "digits": Skipped("gone from /secret/place", SkipCode.FAILED),
    }
    write_record(out / "records", experiment, sha256, scores, seed=seed)
    write_record(out / "records", experiment, sha256, {"cifar10": scored(0.6)}, ("knn", "dino"), seed)
    zero = next(iter(evaluations.presets("zero_shot")))
    write_record(out / "records", experiment, sha256, {"cifar10": scored(0.9)}, ("zero_shot", zero), seed)
    return folder


@pytest.fixture(scope="module")
def finished(small_dataset, tmp_path_factory):
    from benchmark.training.dataset import CaptionImageDataset

    return finish(tmp_path_factory.mktemp("out"), CaptionImageDataset(small_dataset, PAIR.revision))


@pytest.fixture
def run(finished, small_dataset, tmp_path, monkeypatch):
    """Copy of the finished run of a declared experiment, with its dataset on this machine."""
    monkeypatch.setattr(smoke, "EXPERIMENTS", (PAIR,))
    monkeypatch.setenv("SYNREP_DATA", str(small_dataset.parents[1]))
    out = shutil.copytree(finished.parents[4], tmp_path / "out")
    return out / "train/test/clip/1/0"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Fake Hub for the client in this process, which has a token for it."""
    with Hub(tmp_path / "hub", xet=False) as hub:
        changes = {"ENDPOINT": hub.address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        address = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
        changes |= {"HF_TOKEN_PATH": str(tmp_path / "token"), "HUGGINGFACE_CO_URL_TEMPLATE": address}
        for name, value in changes.items():
            monkeypatch.setattr(constants, name, value)
        for name, text in {"HF_TOKEN": hub.token, "NO_PROXY": "*"}.items():
            monkeypatch.setenv(name, text)
        disable_progress_bars()
        yield hub
        enable_progress_bars()


@pytest.fixture
def pushed(synrep):
    """Function that pushes and returns the commit."""

    def push(run, *words):
        code, said, error = synrep("push-model", run, "--repo", *(words or (REPO,)))
        assert code == 0 and "hf_loopback" not in said + error, error
        return said.splitlines()[-1].partition("@")[2]

    return push


@pytest.fixture
def refused(synrep):
    """Function that tries to push and returns the one-line error."""

    def push(run, *words):
        answer = synrep("push-model", run, "--repo", *(words or (REPO,)))
        assert_one_line(answer)
        assert "hf_loopback" not in str(answer)
        return answer[2].removeprefix("synrep: ").strip()

    return push


def opened(run, records=None):
    model, sha256 = loop.load_trained(PAIR, 0, run, torch.device("cpu"))
    card = json.loads((run / "model.json").read_text())
    found = encoder.find_records(PAIR, 0, model, sha256, records or run.parents[4] / "records")
    return encoder.Release(PAIR, 0, model, sha256, card, found)


def staged(run, folder, repo=REPO):
    encoder.stage(opened(run), repo, folder)
    return folder


def features_of(run, probe_B3HW):
    model, _ = loop.load_trained(PAIR, 0, run, torch.device("cpu"))
    with torch.inference_mode():
        return model.encode_images(probe_B3HW)


# Contents of a release

PUSHES = """
import sys
from benchmark.experiments import smoke
from tests.release.test_encoder import PAIR
smoke.EXPERIMENTS = (PAIR,)
from benchmark.cli.main import main
main()
"""
LOADS = """
import json, sys, timm, torch
from tests.fixtures import tiny_models as tiny
pinned, repo = sys.argv[1], sys.argv[1].split("@")[0]
newest, model = (timm.create_model(f"hf_hub:{place}", pretrained=True).eval() for place in (repo, pinned))
assert all(torch.equal(a, b) for a, b in zip(newest.parameters(), model.parameters(), strict=True))
data = timm.data.resolve_model_data_config(model)
with torch.inference_mode():
    features = model(tiny.noise(3, 16)).tolist()
print(json.dumps([features, data, tiny.described(f"hub:{pinned}")]))
"""


def test_timm_and_the_benchmark_load_the_runs_features_from_the_hub(run, tmp_path):
    """Unmodified clients run in their own processes, with Xet; the other tests use plain LFS."""
    with Hub(tmp_path / "hub") as hub:
        command = [sys.executable, "-c", PUSHES, "push-model", str(run), "--repo", REPO]
        ran = subprocess.run(
            command, env=hub.environment(tmp_path / "home"), cwd=ROOT, capture_output=True, text=True, check=True
        )
        place = f"{REPO}@{hub.repo(REPO, 'models').refs['main']}"
        assert ran.stdout.endswith(f"synrep evaluate hub:{place}\n") and hub.token not in ran.stdout + ran.stderr
        command = [sys.executable, "-c", LOADS, place]
        env = hub.environment(tmp_path / "other", None)
        ran = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    features, data, answer = json.loads(ran.stdout.splitlines()[-1])
    tiny_models.close(features, features_of(run, tiny_models.noise(3, 16)), 1e-6)
    assert (data["mean"], data["std"], data["input_size"]) == (list(MEAN), list(STD), [3, 16, 16])
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", 1.0)
    subject = load(str(run)).model
    assert answer["source"] == f"hub:{place}" and answer["facts"]["layer"] == "cls"
    tiny_models.close(answer["features"], subject.features(tiny_models.pictures()), 1e-6)
    assert answer["facts"]["transform"] == json.loads(json.dumps(subject.metadata["transform"]))


def test_the_code_of_the_card_runs(run, hub, pushed, tmp_path):
    pushed(run)
    (code,) = re.findall(r"```python\n(.*?)```", hub.read(REPO, "README.md", kind="models").decode(), re.DOTALL)
    image = "from PIL import Image\nimage = Image.new('RGB', (40, 50))"
    command = [sys.executable, "-c", f"{image}\n{code}\nprint(tuple(features.shape))"]
    env = hub.environment(tmp_path / "home", None)
    ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "(1, 32)"


def test_exactly_three_files_are_uploaded_in_one_commit(run, hub, pushed, tmp_path):
    commit = pushed(run)
    there = hub.repo(REPO, "models")
    assert set(there.revisions[commit]) == {".gitattributes", *encoder.FILES}
    assert there.messages == ["initial commit", "test/clip/1/0 of SynRep-Bench"] and not there.private
    local = staged(run, tmp_path / "local")
    for name in encoder.FILES:
        assert hub.read(REPO, name, commit, "models") == (local / name).read_bytes()
    assert pushed(run) == commit and len(there.messages) == 2, "again: no commit"


def test_only_the_weights_of_the_encoder_are_released(run, tmp_path):
    weights = load_file(staged(run, tmp_path / "to") / "model.safetensors")
    model, _ = loop.load_trained(PAIR, 0, run, torch.device("cpu"))
    wanted = {name.removeprefix("vit.") for name in model.state_dict() if name.startswith("vit.")}
    assert set(weights) == wanted < {name.removeprefix("vit.") for name in model.state_dict()}
    for name, tensor in weights.items():
        assert torch.equal(tensor, model.vit.state_dict()[name])


@pytest.mark.parametrize(
    ("size", "architecture", "arguments"),
    [
        (ViTConfig(), "vit_base_patch16_224", {}),
        (ViTConfig(width=384, heads=6), "vit_small_patch16_224", {}),
        (ViTConfig(image_size=96, width=192, heads=3), "vit_tiny_patch16_224", {"img_size": 96}),
        (ViTConfig(heads=6), "vit_base_patch16_224", {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 6}),
    ],
)
def test_timm_builds_the_encoder_of_any_size_by_name_if_there_is_one(size, architecture, arguments):
    from benchmark.nn.encoders import build_vit

    found = encoder.timm_config(size)
    assert (found["architecture"], found["model_args"]) == (architecture, arguments)
    with torch.device("meta"):
        ours = build_vit(size)
        theirs = timm.create_model(found["architecture"], num_classes=0, **found["model_args"])
    shapes = [{name: tensor.shape for name, tensor in vit.state_dict().items()} for vit in (ours, theirs)]
    assert shapes[0] == shapes[1] and ours.blocks[0].attn.num_heads == theirs.blocks[0].attn.num_heads
    assert theirs.num_features == found["num_features"]


def test_every_named_size_is_built_by_its_name():
    from benchmark.nn.encoders import build_vit

    for (patch, width, depth, heads), name in encoder.ARCHITECTURES.items():
        with torch.device("meta"):
            ours, theirs = build_vit(ViTConfig(224, patch, width, depth, heads)), timm.create_model(name, num_classes=0)
        shapes = [{key: tensor.shape for key, tensor in vit.state_dict().items()} for vit in (ours, theirs)]
        assert shapes[0] == shapes[1] and ours.blocks[0].attn.num_heads == theirs.blocks[0].attn.num_heads


def test_an_encoder_that_timm_computes_differently_is_not_pushed(run, tmp_path):
    ready = opened(run)
    ready.model.vit.norm.eps = 0.1  # not stored in any weight
    with pytest.raises(UserError, match="timm computes other features than the run, by up to"):
        encoder.stage(ready, REPO, tmp_path / "to")
    ready.model.vit.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"not a plain timm ViT, .*extra\.weight"):
        encoder.stage(ready, REPO, tmp_path / "to")


# Model card


def test_the_hub_client_reads_the_scores_of_the_card(run, tmp_path):
    folder = staged(run, tmp_path / "to")
    card, sha256 = ModelCard.load(folder / "README.md"), opened(run).weights_sha256
    data = card.data
    assert (data.library_name, data.license, data.datasets) == ("timm", "apache-2.0", [PAIR.dataset])
    assert {"timm", "clip", "synrep-bench"} <= set(data.tags) and data.model_name == "pair"
    found = {result.metric_name: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        "linear_probe (synclr) on cifar10: top1": 0.4,
        "knn (dino) on cifar10: top1": 0.6,
    }, "zero-shot needs the text tower, which stays behind"
    for result in found.values():
        read = (result.dataset_type, result.dataset_revision, result.dataset_split)
        assert read == ("org/cifar", "rev-1", "test") and result.metric_args["n"] == 100
    assert found["knn (dino) on cifar10: top1"].metric_args == pytest.approx({"n": 100, "low": 0.5, "high": 0.7})
    text = card.text
    weights = file_sha256(folder / "model.safetensors")
    for fact in (create.fingerprint(PAIR), sha256, weights, PAIR.revision, "seed 0", f'"hf_hub:{REPO}"'):
        assert fact in text
    assert "synrep evaluate hub:me/pair@" in text and "| 40.0 [30.0, 50.0] | 10.0 | 100 |" in text
    assert "Not measured:\n\n- linear\\_probe: digits\n" in text and "secret" not in text
    assert "| also | 30.0 [20.0, 40.0] | 100 |" in text, "all scores are in the folded table"
    assert "experiment test/clip, version 1, seed 0" in text.replace("\\", "").split("## ")[0]
    assert str(run) not in text and "views seen | 48 |" in text


def test_scores_of_another_model_are_refused(run, tmp_path):
    records = run.parents[4] / "records"
    write_record(records, PAIR, "f" * 64, {"cifar10": scored(0.99)})
    with pytest.raises(UserError, match=r"the record of linear_probe \(synclr\) .* is of another model: weights ffff"):
        opened(run)
    shutil.rmtree(records)
    write_record(records, replace(PAIR, schedule=replace(PAIR.schedule, views=240)), "f" * 64, {"cifar10": scored()})
    with pytest.raises(UserError, match=r"the record of linear_probe .* is of another declaration: fingerprint "):
        opened(run)
    shutil.rmtree(records)
    card = json.loads((run / "model.json").read_text())
    write_record(records, PAIR, card["weights_sha256"], {"cifar10": scored()}, layer="pooled")
    with pytest.raises(UserError, match="is of layer pooled, expected cls"):
        opened(run)


def test_names_are_escaped_in_the_card(run, tmp_path):
    evil = "x](https://evil) | <b>\n# y"
    identity = DatasetIdentity(evil, f"{evil}`", evil, 100, "b" * 64)
    card = json.loads((run / "model.json").read_text())
    records = tmp_path / "records"
    write_record(records, PAIR, card["weights_sha256"], {evil: scored(0.5, evil, identity)})
    strange = replace(opened(run, records), experiment=replace(PAIR, dataset=evil, revision=f"{evil}`", method="*m*"))
    encoder.stage(strange, REPO, tmp_path / "to")
    content = (tmp_path / "to/README.md").read_text()
    text = ModelCard(content).text
    shown = re.sub(r"(`+) .*? \1", "", text)  # what stands in backticks is shown as it is
    assert "](https" not in shown and "<b>" not in shown and "\n# y" not in shown and "**\\*m\\*" in shown
    rows = [line for line in text.splitlines() if line.startswith("| linear")]
    assert [len(row.replace("\\|", "").strip("|").split("|")) for row in rows] == [7, 7]
    (result,) = ModelCard(content).data.eval_results  # type: ignore[attr-defined]
    assert result.dataset_type == evil


def test_the_license_is_that_of_the_datasets_card(run, tmp_path, monkeypatch):
    assert model_card.license_fields(PAIR) == {"license": "apache-2.0"}
    elsewhere = tmp_path / "data" / PAIR.dataset
    elsewhere.mkdir(parents=True)
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    unknown = {
        "license": "other",
        "license_name": "terms-of-its-training-data",
        "license_link": f"https://huggingface.co/datasets/{PAIR.dataset}",
    }
    assert model_card.license_fields(PAIR) == unknown
    manifest = {"repo": PAIR.dataset, "revision": PAIR.revision, "rows": {}, "images_per_row": 1, "files": {}}
    (elsewhere / "dataset.json").write_text(json.dumps(manifest | {"recipe": {}}))
    terms = {"license": "other", "license_name": "non-commercial", "license_link": "https://example.org/terms"}
    fields = "\n".join(f"{name}: {value}" for name, value in terms.items())
    (elsewhere / "README.md").write_text(f"---\n{fields}\ntags: [x]\n---\n# x\n")
    assert model_card.license_fields(PAIR) == terms
    text = ModelCard.load(staged(run, tmp_path / "to") / "README.md").text
    assert "other non\\-commercial (<https://example.org/terms>)" in text
    (elsewhere / "dataset.json").write_text(json.dumps(manifest | {"recipe": {}, "revision": "another"}))
    assert model_card.license_fields(PAIR) == unknown, "another revision may have other terms"
    (elsewhere / "dataset.json").write_text(json.dumps(manifest | {"recipe": {}}))
    (elsewhere / "README.md").write_text("---\n[: x\n---\n")
    with pytest.raises(UserError, match="is not a valid dataset card"):
        model_card.license_fields(PAIR)


def test_training_diagnostics_are_on_the_card(run, tmp_path):
    seen = {"health": {"rank": 1.25, "uniformity": -0.5}, "spikes": 3}
    ready = replace(opened(run), card={**opened(run).card, **seen}, records=())
    encoder.stage(ready, REPO, tmp_path / "to")
    text = (tmp_path / "to/README.md").read_text()
    assert "| rank at the end | 1.25 |" in text and "| loss spikes | 3 |" in text
    assert "have collapsed" in text and "Not measured." in text


# Local folder


def test_a_dry_run_writes_the_folder_and_opens_no_connection(run, hub, synrep, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, said, error = synrep("push-model", run, "--repo", REPO, "--to", tmp_path / "to")
    assert code == 0 and "run again without --to to upload to me/pair" in said, error
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == sorted(encoder.FILES) and hub.requests == []
    loaded = timm.create_model(f"local-dir:{tmp_path / 'to'}", pretrained=True).eval()
    probe = tiny_models.noise(2, 16)
    tiny_models.close(loaded(probe), features_of(run, probe), 1e-6)
    staged(run, tmp_path / "to")
    (tmp_path / "to/mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"contains mine\.txt, which is not part of a release"):
        staged(run, tmp_path / "to")


def test_without_records_there_are_no_scores_and_given_records_must_exist(run, synrep, refused, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")
    assert encoder.default_records_folder(run, PAIR, 0) == run.parents[4] / "records"
    assert encoder.default_records_folder(moved, PAIR, 0) is None
    assert synrep("push-model", moved, "--repo", REPO, "--to", tmp_path / "to")[0] == 0
    assert "Not measured." in (tmp_path / "to/README.md").read_text()
    (tmp_path / "empty").mkdir()
    line = refused(moved, REPO, "--records", tmp_path / "empty")
    assert "has no record of the encoder of test/clip/1/0; give another --records or evaluate the run" in line


# Errors


def test_an_unfinished_run_is_one_line(run, tmp_path):
    with pytest.raises(UserError, match=r"run .* does not exist; pass the folder"):
        encoder.require_finished(tmp_path / "none")
    (run / "model.json").unlink()
    with pytest.raises(UserError, match=r"is not a finished run \(no model.json\); repeat its `synrep run`"):
        encoder.require_finished(run)
    untrained = replace(PAIR, settings=replace(PAIR.settings, optimizer=None))
    with pytest.raises(UserError, match="has no training; pass the folder of a trained run"):
        encoder.stage(encoder.Release(untrained, 0, torch.nn.Identity(), "a" * 64, {}), REPO, tmp_path / "to")


NO_NAMES = ["pair", "a/b/c", "../x", "me/..", "me/a--b", "me/x y", "-/x", "me-/x", "me/x.", "me/x.git", "me/x\n", ""]


@pytest.mark.parametrize("name", [*NO_NAMES, "me/" + "x" * 97])
def test_an_invalid_repository_name_is_one_line(name):
    with pytest.raises(UserError, match="expected the model's name on the Hub as ORG/NAME") as raised:
        hub_client.require_name(name, "model")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"HF_TOKEN": None}, "writing to model me/pair needs a token; run `hf auth login` or set HF_TOKEN"),
        ({"HF_HUB_OFFLINE": True}, "HF_HUB_OFFLINE=1 disables access to"),
        ({"HF_TOKEN": "hf_wrong"}, "the Hub rejected this token"),
    ],
)
def test_a_client_that_cannot_write_is_one_line(run, hub, refused, monkeypatch, how, said):
    for name, value in how.items():
        if name != "HF_TOKEN":
            monkeypatch.setattr(constants, name, value)
        elif value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name)
    assert refused(run).startswith(said) and hub.repos == {}


def test_a_repository_without_write_access_is_one_line(run, hub, refused):
    line = refused(run, "others/pair")
    assert line.startswith("this token has no access to model others/pair")


@pytest.mark.parametrize(
    ("status", "said"), [(503, "the Hub returned HTTP status 503"), (CUT, "the Hub cannot be reached")]
)
def test_an_unreachable_hub_is_one_line(run, hub, refused, status, said):
    hub.fail("POST .*/commit/", status, 10**6, Retry_After="0")
    assert refused(run).startswith(said)


def config_at(hub):
    return json.loads(hub.read(REPO, "config.json", "main", "models"))


def test_only_the_same_run_or_a_newer_version_replaces_a_model(
    run, hub, pushed, refused, tmp_path, small_data, monkeypatch
):
    newer = replace(PAIR, version=2)
    after = finish(tmp_path / "newer", small_data, newer)
    other = finish(tmp_path / "other", small_data, PAIR, seed=1)
    pushed(run)
    line = refused(other)
    assert line.startswith("me/pair contains test/clip version 1 seed 0, expected test/clip version 1 seed 1")
    monkeypatch.setattr(smoke, "EXPERIMENTS", (PAIR, newer))
    pushed(after)
    assert config_at(hub)["synrep"]["version"] == 2
    line = refused(run)
    assert line.startswith(
        "me/pair contains test/clip version 2 seed 0, which is newer than test/clip version 1 seed 0"
    )
    assert config_at(hub)["synrep"]["version"] == 2 and len(hub.repo(REPO, "models").messages) == 3


def test_a_changed_declaration_without_a_new_version_does_not_replace_a_model(run, hub, refused, tmp_path):
    made = staged(run, tmp_path / "made")
    config = json.loads((made / "config.json").read_text())
    config["synrep"]["fingerprint"] = "0" * 64
    (made / "config.json").write_text(json.dumps(config))
    hub.put(REPO, made)
    assert "of another declaration; raise the experiment's version" in refused(run)


def test_other_models_and_files_are_not_overwritten(run, hub, pushed, refused, tmp_path):
    foreign = tmp_path / "foreign"
    tiny_models.timm_repo(foreign)
    hub.put(REPO, foreign)
    assert refused(run).startswith("me/pair contains a model that is not a release of SynRep-Bench")
    (foreign / "config.json").write_text("{")
    hub.put(REPO, foreign)
    assert refused(run).startswith("me/pair contains a model that is not a release of SynRep-Bench")
    (foreign / "config.json").unlink()
    hub.put("me/files", foreign)
    assert refused(run, "me/files").startswith("me/files contains files that are not part of a release (model.saf")
    (foreign / "model.safetensors").unlink()
    (foreign / "README.md").write_text("---\nlicense: mit\n---\nsoon")
    hub.put("me/empty", foreign)
    pushed(run, "me/empty")
    hub.put("me/open", foreign)
    assert "to be private, but it exists and is public" in refused(run, "me/open", "--private")
    pushed(run, "me/closed", "--private")
    assert hub.repo("me/closed", "models").private


@pytest.mark.parametrize("name", encoder.FILES)
def test_a_corrupted_upload_is_detected(run, hub, refused, name):
    hub.corrupt = name
    line = refused(run)
    assert line.startswith(f"{name} in model {REPO} at ") and "differs from the uploaded file; run again" in line


def test_a_repository_changed_meanwhile_is_not_overwritten(run, hub, refused, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README.md").write_text("of somebody else")

    def before(request):
        if "/preupload/" in request.path and len(hub.repo(REPO, "models").messages) == 1:
            hub.put(REPO, tmp_path / "other")

    hub.before = before
    assert "was changed by somebody else in the meantime" in refused(run)
    assert hub.repo(REPO, "models").messages == ["initial commit", "put"]


def test_the_transform_on_the_hub_is_that_of_the_evaluations(run, tmp_path):
    """timm and the benchmark compute the same pixels from an image."""
    from PIL import Image

    model = timm.create_model(f"local-dir:{staged(run, tmp_path / 'to')}", pretrained=True)
    data = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**data, is_training=False)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    ours = EvaluationTransform(PAIR.encoder.image_size)(pixels)
    assert float((transform(Image.fromarray(pixels)) - ours).abs().max()) < 0.05, "PIL rounds between two passes"
