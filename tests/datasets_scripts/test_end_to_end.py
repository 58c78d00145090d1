"""The full pipeline: a list of captions, a (tiny, random) Stable Diffusion, a dataset, a Hub, a mirror, batches."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmark import schema
from benchmark.interfaces import Schedule
from benchmark.sampling import Sampling
from benchmark.training.batches import BatchDataset
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts import cc3m
from datasets_scripts.building import build
from datasets_scripts.captions import prepare
from datasets_scripts.generation import diffusion, generate
from datasets_scripts.inspection import audit
from datasets_scripts.publishing import export
from datasets_scripts.recipe import GUIDANCE, Recipe
from tests.fixtures import tiny_diffusion
from tests.fixtures.fake_hub import Hub
from tests.fixtures.tiny_diffusion import SIDE

pytestmark = pytest.mark.slow

IMAGES = 2
CAPTIONS = 70
"""Two units, the second of 6."""

CLIENT = """
import json, sys
from pathlib import Path
import datasets
from datasets_scripts.publishing import publish
folder, mirror = map(Path, sys.argv[1:])
commit = publish.publish(folder, "me/tiny-cc3m", private=False, log=lambda line: None)
assert publish.publish(folder, "me/tiny-cc3m", private=False, log=lambda line: None) == commit
streamed = datasets.load_dataset("me/tiny-cc3m", split="train", revision=commit, streaming=True)
rows = [[row["caption"], len(row["images"]), row["images"][0].size] for row in streamed]
loaded = datasets.load_dataset("me/tiny-cc3m", split="train", revision=commit)
assert [row["caption"] for row in loaded.select_columns("caption")] == [row[0] for row in rows]
place = publish.download("me/tiny-cc3m", commit, mirror, lambda line: None)
print(json.dumps({"rows": rows, "place": str(place)}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Data folder, the recipe, and the dataset's folder."""
    data = tmp_path_factory.mktemp("data")
    listed = "".join(f"a {k % 60} cat of kind {k}\thttps://example.org/{k}.jpg\n" for k in range(CAPTIONS))
    (data / "list.tsv").write_text(listed + "a 0 cat of  kind 0\thttps://example.org/again.jpg\n")
    prepare.prepare(cc3m.SOURCE, data / "list.tsv", data / "captions" / "cc3m", lambda rows: None)
    draw = diffusion.StableDiffusion(
        model=tiny_diffusion.stable_diffusion(data / "model"), steps=2, size=SIDE, stored=24, dtype="float32", batch=16
    )
    recipe = Recipe(
        "tiny-cc3m", 1, prepare.PreparedCaptions(cc3m.SOURCE).with_root(data), draw, IMAGES, GUIDANCE["small"]
    )
    return data, recipe, build.build(recipe, data, [""], lambda *_: None)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def test_images_can_be_reproduced_from_caption_seed_and_guidance(built):
    _, recipe, folder = built
    rows = pq.read_table(folder / "data").to_pylist()
    assert [row[schema.CAPTION] for row in rows] == [f"a {k % 60} cat of kind {k}" for k in range(CAPTIONS)]
    assert [row[schema.SOURCE_ID] for row in rows] == [f"https://example.org/{k}.jpg" for k in range(CAPTIONS)]
    for number, row in list(enumerate(rows))[::23]:
        drawn = recipe.text_to_image([row[schema.CAPTION]] * IMAGES, row[schema.SEEDS], row[schema.GUIDANCE])
        for k, (result, score) in enumerate(zip(drawn, row[schema.NSFW], strict=True)):
            again = pixels(generate.encode(result.image, recipe.text_to_image.iptc_source_type))
            own, other = (pixels(rows[place][schema.IMAGES][k]["bytes"]) for place in (number, number - 1))
            assert np.abs(own - again).mean() < 2
            assert np.abs(other - again).mean() > 10, "another caption's image would be noticed"
            assert score == pytest.approx(result.nsfw, abs=0.01)
        assert sorted(row[schema.GUIDANCE]) == [2.0, 3.0]


def test_dataset_passes_its_audit_and_regeneration(built):
    _, recipe, folder = built
    assert [str(finding) for finding in audit.check(folder, lambda *_: None) if finding.error] == []
    assert audit.regenerate_sample(folder, recipe, 8, lambda *_: None).findings == []


def test_dataset_is_published_downloaded_and_batched(built, tmp_path):
    _, recipe, folder = built
    with Hub(tmp_path / "hub", xet=False) as hub:
        command = [sys.executable, "-c", CLIENT, folder, tmp_path / "mirror"]
        ran = subprocess.run(command, env=hub.environment(tmp_path), capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["rows"] == [[f"a {k % 60} cat of kind {k}", IMAGES, [24, 24]] for k in range(CAPTIONS)]
    data = CaptionImageDataset(Path(found["place"]), recipe.revision)
    batch = BatchDataset(data, Sampling(images=2), Schedule(240, 24), 16, seed=0).batch(3).render()
    assert batch.images_V3HW.shape == (24, 3, 16, 16)


def test_dataset_is_exported_to_other_layouts(built, tmp_path):
    _, _, folder = built
    for layout in ("webdataset", "imagefolder"):
        export.export(folder, layout, tmp_path / layout, lambda *_: None)
        assert any((tmp_path / layout).rglob("*"))


def test_bytes_do_not_depend_on_workers_shares_threads_and_interruptions(built, tmp_path, monkeypatch):
    _, recipe, folder = built
    monkeypatch.setattr(build, "TASK_UNITS", 1)  # so that both workers have one
    together = build.build(recipe, tmp_path / "workers", ["", ""], lambda *_: None)
    work = build.start(recipe, tmp_path / "shares")
    torch.set_num_threads(3)
    try:
        assert build.run_share(work, 1, 2, lambda *_: None) is None
    finally:
        torch.set_num_threads(1)
    resumed = build.build(recipe, tmp_path / "shares", [""], lambda *_: None)
    expected = rows(folder)
    assert rows(together) == rows(resumed) == expected
    assert len({image["bytes"] for row in expected for image in row[schema.IMAGES]}) == CAPTIONS * IMAGES


def rows(folder):
    return pq.read_table(folder / "data").to_pylist()


def test_another_number_of_steps_is_another_revision(built):
    _, recipe, _ = built
    assert replace(recipe, text_to_image=replace(recipe.text_to_image, steps=3)).revision != recipe.revision
