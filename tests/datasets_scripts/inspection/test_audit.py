"""A clean folder has no finding; every rule finds the one fault that only it can find."""

import copy
import io
import itertools
import json
import os
import shutil
from dataclasses import dataclass, replace

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256, write_json
from datasets_scripts.building.build import run_share, start
from datasets_scripts.generation import provenance, shards
from datasets_scripts.generation.generate import COLUMNS, encode
from datasets_scripts.inspection import alignment as aligning
from datasets_scripts.inspection import audit, contact_sheet
from datasets_scripts.inspection.examine import strip_metadata
from datasets_scripts.recipe import Caption, image_seed, revision_of
from datasets_scripts.scenes import evaluation_sets
from datasets_scripts.text_to_image import GeneratedImage
from tests.fixtures.small_datasets import NUMBERED, RECIPE, Listed, Numbers

pytestmark = pytest.mark.slow


def silent(done, total, note=""):
    pass


def build(recipe, data):
    """The real build, in this process."""
    return run_share(start(recipe, data), 0, 1, silent)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The small recipe in three files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "SHARD_CAPTIONS", 64)
        return build(RECIPE, tmp_path_factory.mktemp("data"))


@pytest.fixture
def folder(clean, tmp_path):
    """A copy, to plant faults in."""
    return shutil.copytree(clean, tmp_path / "copy")


@dataclass(frozen=True)
class Failing(Numbers):
    """Every seventh image is not finite; the others have a grain, so that none is blank."""

    def __call__(self, captions, seeds, guidance):
        for (image, *_), seed in zip(super().__call__(captions, seeds, guidance), seeds, strict=True):
            grain = np.random.default_rng(seed).integers(0, 16, image.shape, np.uint8)
            yield (
                GeneratedImage(None, "not finite")
                if seed % 7 == 0
                else GeneratedImage(image // 2 + grain, nsfw=0.5 - seed % 2)
            )


FAILING = replace(NUMBERED, text_to_image=Failing(name="failing"))


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    return build(FAILING, tmp_path_factory.mktemp("failing"))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_sets, "PROBE", {"train": 70, "test": 5})
        patch.setattr(evaluation_sets, "SETS", {"scenes-objects": evaluation_sets.objects})
        return evaluation_sets.build(tmp_path_factory.mktemp("evaluation"), silent)[0]


def parquets(folder):
    return sorted(folder.glob("data/*.parquet"))


def places(parquet):
    """Where images lie, found without the builder's help; rows may have too few of them."""
    content, position, found = parquet.read_bytes(), 0, []
    rows = pq.read_table(parquet)[schema.IMAGES].to_pylist()
    for images in rows:
        row = []
        for image in images:
            position = content.index(image["bytes"], position) if image else position
            row.append((position, len(image["bytes"])) if image else (0, 0))
        found.append(row + [(0, 0)] * (max(map(len, rows)) - len(row)))
    return np.array(found, np.int64)


def repair(folder, **changes):
    """Make manifest and statistics those of what lies in the folder, so that they tell of no fault."""
    manifest = schema.read_manifest(folder)
    files = {name: file_sha256(folder / name) for name in manifest.files if (folder / name).exists()}
    write_json(folder / schema.MANIFEST, replace(manifest, **{"files": files} | changes).as_json())
    rows = [row for path in parquets(folder) for row in pq.read_table(path).to_pylist()]
    if (folder / schema.STATISTICS).exists():
        images = [image for row in rows for image in row[schema.IMAGES]]
        told = json.loads((folder / schema.STATISTICS).read_text())
        sizes = [len(image["bytes"]) for image in images if image]
        told |= {"images": len(sizes), "bytes": sum(sizes), "failed": {"not finite": len(images) - len(sizes)}}
        write_json(folder / schema.STATISTICS, told)


def plant(folder, change, shard=0, units=(64,), constants=None, columns=COLUMNS):
    """Rewrite one file of a dataset with changed rows, and all that depends on it."""
    path = parquets(folder)[shard]
    rows = pq.read_table(path).to_pylist()
    change(rows)
    kept = constants or json.loads(pq.read_schema(path).metadata[b"synrep"])
    cuts = [0, *np.cumsum(units), len(rows)]
    parts = [rows[start:stop] for start, stop in itertools.pairwise(cuts) if start < stop]
    if columns is not COLUMNS:
        parts = [[{name: row[name] for name in columns.names} for row in part] for part in parts]
    shards.write_parquet(path, [pa.Table.from_pylist(part, columns) for part in parts], columns, kept)
    np.save(folder / schema.index_name("train", shard), places(path))
    if columns is COLUMNS:
        repair(folder)


def found(folder, **options):
    return [(finding.rule, finding.text, finding.error) for finding in audit.check(folder, silent, **options)]


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def jpeg(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def with_image(row, image, make):
    """A change of the bytes of one image."""

    def change(rows):
        stored = rows[row][schema.IMAGES][image]
        stored["bytes"] = make(stored["bytes"])

    return change


def with_value(row, column, change_of):
    def change(rows):
        rows[row][column] = change_of(rows[row][column])

    return change


def at(index, value):
    return lambda values: [*values[:index], value, *values[index + 1 :]]


FIRST = "data/train-00000-of-00003.parquet"
XMP = provenance.xmp_packet(provenance.ALGORITHMIC)
LYING = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""EXIF with orientation 6: to be turned clockwise."""
FAULTS = {
    "seed": (with_value(40, schema.SEEDS, at(2, 17)), f"{FIRST}: row 40, image 2: seed 17, the recipe has"),
    "guidance": (with_value(3, schema.GUIDANCE, at(1, 3.0)), f"{FIRST}: row 3, image 1: guidance 3.0, the recipe"),
    "caption id": (with_value(5, schema.CAPTION_ID, lambda value: 12), f"{FIRST}: row 5: id 12, the hash of its"),
    "status": (with_value(6, schema.STATUS, at(3, "odd")), f"{FIRST}: row 6, image 3: an image with status"),
    "status, none": (with_value(6, schema.IMAGES, at(3, None)), f"{FIRST}: row 6, image 3: a null image with status"),
    "images per caption": (with_value(9, schema.IMAGES, lambda images: images[:3]), "row 9: 3 images, expected 4"),
    "images per caption, seeds": (with_value(9, schema.SEEDS, lambda each: each[:3]), "row 9: 3 seeds, expected 4"),
    "decode": (with_image(1, 0, lambda content: content[: len(content) // 2]), "row 1, image 0: does not decode ("),
    "decode, nothing": (with_image(1, 3, lambda _: b"nothing"), "row 1, image 3: does not decode (not an image)"),
    "format": (
        with_image(2, 2, lambda content: jpeg(pixels(content)[..., 0], xmp=XMP)),
        "row 2, image 2: JPEG L, expected JPEG RGB",
    ),
    "orientation": (
        with_image(2, 2, lambda content: jpeg(pixels(content), xmp=XMP, exif=LYING)),
        "row 2, image 2: orientation 6, expected 1",
    ),
    "size": (
        with_image(2, 1, lambda content: jpeg(pixels(content)[:32], xmp=XMP)),
        "row 2, image 1: size 64x32, most images have 64x64; 1 images in total",
    ),
    "mark": (with_image(2, 1, lambda content: jpeg(pixels(content))), "row 2, image 1: its XMP does not mark it"),
    "source type": (
        with_image(2, 1, lambda content: jpeg(pixels(content), xmp=provenance.xmp_packet(provenance.TRAINED))),
        "row 2, image 1: source type trainedAlgorithmicMedia, most images have algorithmicMedia; 1 ",
    ),
    "duplicate image": (
        lambda rows: rows[7][schema.IMAGES][3].update(bytes=rows[7][schema.IMAGES][1]["bytes"]),
        f"{FIRST}: row 7, image 3: same image as {FIRST}: row 7, image 1",
    ),
    "duplicate image, signed": (
        lambda rows: rows[50][schema.IMAGES][0].update(
            bytes=b"\xff\xd8\xff\xeb\0\5abc" + rows[7][schema.IMAGES][1]["bytes"][2:]
        ),
        f"{FIRST}: row 50, image 0: same image as {FIRST}: row 7, image 1",
    ),
    "duplicate caption": (
        lambda rows: rows[44].update({k: v for k, v in copy.deepcopy(rows[4]).items() if k != schema.IMAGES}),
        f"{FIRST}: row 44: same caption as {FIRST}: row 4",
    ),
}  # fmt: skip


def test_a_clean_folder_has_no_finding(clean, small_dataset):
    assert found(clean) == []
    assert found(small_dataset) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_value_in_a_row_is_the_one_finding(folder, fault):
    change, text = FAULTS[fault]
    plant(folder, change)
    ((rule, told, error),) = found(folder)
    assert rule == fault.split(",")[0] and text in told and told.startswith(FIRST) and error


@pytest.mark.parametrize("levels", [0, 3])
def test_a_blank_image_is_a_warning(folder, levels):
    image = np.random.default_rng(0).integers(100, 101 + levels, (64, 64, 3), np.uint8)
    plant(folder, with_image(2, 1, lambda _: encode(image, provenance.ALGORITHMIC)))
    ((rule, text, error),) = found(folder)
    assert rule == "blank" and f"{FIRST}: row 2, image 1: blank, of color [10" in text and not error


def test_a_faint_image_is_not_blank(folder):
    image = np.random.default_rng(0).integers(100, 120, (64, 64, 3), np.uint8)
    plant(folder, with_image(2, 1, lambda _: encode(image, provenance.ALGORITHMIC)))
    assert found(folder) == []


def test_duplicates_are_found_across_files_and_named_by_their_own(folder):
    first, last = (pq.read_table(path).to_pylist() for path in parquets(folder)[::2])
    caption = {name: value for name, value in first[4].items() if name != schema.IMAGES}

    def change(rows):
        rows[31].update(caption)
        rows[30][schema.IMAGES][2]["bytes"] = first[63][schema.IMAGES][3]["bytes"]

    plant(folder, change, shard=2)
    name = "data/train-00002-of-00003.parquet"
    assert len(last) == 32
    assert found(folder) == [
        ("duplicate image", f"{name}: row 30, image 2: same image as {FIRST}: row 63, image 3", True),
        ("duplicate caption", f"{name}: row 31: same caption as {FIRST}: row 4", True),
    ]


def test_a_repeated_picture_is_a_warning_among_real_ones(folder):
    """Two captions of one picture are in the source: no build can change that."""
    manifest = schema.read_manifest(folder)
    recipe = manifest.recipe | {"text_to_image": "real images of a source"}
    revision = revision_of(recipe)

    def change(rows):
        for row in rows:
            row[schema.SEEDS] = [image_seed(revision, row[schema.CAPTION_ID], k) for k in range(4)]
            for image in row[schema.IMAGES]:
                image["bytes"] = b"\xff\xd8" + strip_metadata(image["bytes"])
        rows[30][schema.IMAGES][2]["bytes"] = rows[4][schema.IMAGES][3]["bytes"]

    for shard in range(3):
        plant(folder, change, shard=shard, constants={"recipe": recipe, "revision": revision})
    repair(folder, recipe=recipe, revision=revision)
    write_json(folder / schema.STARTED, {"recipe": recipe, "revision": revision})
    told = found(folder)
    assert {(rule, error) for rule, _, error in told} == {("duplicate image", False)} and len(told) == 3


@pytest.mark.parametrize("place", [0, 1])
def test_an_offset_or_a_length_beside_its_image_is_found(folder, place):
    path = folder / schema.index_name("train", 1)
    offsets = np.load(path)
    offsets[63, 2, place] += 1
    np.save(path, offsets)
    repair(folder)
    ((rule, text, error),) = found(folder)
    assert rule == "index" and error
    assert text.startswith("index/train-00001.npy: row 63, image 2: ") and "does not point to the stored bytes" in text


@pytest.mark.parametrize("change", [lambda each: each[:-1], lambda each: each.astype(np.int32)])
def test_an_index_of_another_shape_or_type_is_found(folder, change):
    path = folder / schema.index_name("train", 0)
    np.save(path, change(np.load(path)))
    repair(folder)
    ((rule, text, _),) = found(folder)
    assert rule == "index" and "expected int64 (64, 4, 2)" in text


def test_an_index_that_leads_to_an_image_that_was_not_drawn_is_found(failing, tmp_path):
    folder = shutil.copytree(failing, tmp_path / "copy")
    path = folder / schema.index_name("train", 0)
    offsets = np.load(path)
    row, image = np.argwhere(offsets[..., 1] == 0)[3]
    offsets[row, image] = offsets[0, 0]
    np.save(path, offsets)
    repair(folder)
    ((rule, text, _),) = found(folder)
    assert rule == "index" and f": row {row}, image {image}: " in text and "points to a null image" in text


@pytest.mark.parametrize(("units", "groups"), [((64, 60), [1]), ((30,), [0, 1]), ((160,), [0])])
def test_row_groups_that_are_no_work_units_are_found(small_dataset, tmp_path, units, groups):
    folder = shutil.copytree(small_dataset, tmp_path / "copy")
    plant(folder, lambda rows: None, units=units)
    told = found(folder)
    assert [rule for rule, _, _ in told] == ["units"] * len(groups)
    assert [text.split("row group ")[1][0] for _, text, _ in told] == [str(group) for group in groups]


def test_only_the_last_file_may_end_with_a_small_unit(folder):
    plant(folder, lambda rows: rows.pop(), shard=1)
    repair(folder, rows={"train": 159})
    statistics = json.loads((folder / schema.STATISTICS).read_text())
    write_json(folder / schema.STATISTICS, statistics | {"captions": 159})
    ((rule, text, _),) = found(folder)
    assert rule == "units" and "00001-of-00003.parquet: row group 0 has 63 rows, expected 64" in text


def test_another_recipe_in_the_metadata_of_a_file_is_found(folder):
    plant(folder, lambda rows: None, constants={"recipe": RECIPE.declaration(), "revision": "0" * 40})
    assert [rule for rule, _, _ in found(folder)] == ["constants"]


def test_missing_columns_are_found(folder):
    columns = pa.schema([column for column in COLUMNS if column.name != schema.NSFW])
    plant(folder, lambda rows: None, shard=1, columns=columns)
    repair(folder)
    ((rule, text, _),) = found(folder)
    assert rule == "columns" and "00001-of-00003" in text


def test_a_file_that_cannot_be_examined_moves_no_place_of_another(folder):
    plant(folder, lambda rows: rows[7][schema.IMAGES][3].update(bytes=rows[5][schema.IMAGES][1]["bytes"]), shard=2)
    columns = pa.schema([column for column in COLUMNS if column.name != schema.NSFW])
    plant(folder, lambda rows: None, shard=0, columns=columns)
    repair(folder)
    name = "data/train-00002-of-00003.parquet"
    assert [(rule, text) for rule, text, _ in found(folder)][1:] == [
        ("duplicate image", f"{name}: row 7, image 3: same image as {name}: row 5, image 1")
    ]


def test_what_is_no_parquet_is_found(folder):
    parquets(folder)[1].write_bytes(b"PAR1 and nothing else PAR1")
    told = {rule: text for rule, text, _ in found(folder)}
    assert told.keys() == {"checksum", "parquet", "counts"}
    assert told["parquet"].startswith("data/train-00001-of-00003.parquet: cannot be read (")
    assert told["counts"] == "split train: 96 rows, the manifest says 160"


@pytest.mark.parametrize("name", [schema.SHEET, FIRST, "index/train-00001.npy"])
def test_another_checksum_is_found(folder, name):
    manifest = schema.read_manifest(folder)
    write_json(folder / schema.MANIFEST, replace(manifest, files=manifest.files | {name: "0" * 64}).as_json())
    ((rule, text, error),) = found(folder)
    assert rule == "checksum" and text.startswith(f"{name}: sha256 ") and "the manifest says 000000000000" in text
    assert error


@pytest.mark.parametrize("name", [schema.CARD, schema.SHEET, "index/train-00001.npy"])
def test_a_missing_file_is_found(folder, name):
    (folder / name).unlink()
    assert found(folder) == [("files", f"{name}: missing", True)]


def test_a_file_that_the_manifest_does_not_list_is_found(folder):
    name = schema.index_name("train", 1)
    (folder / name).unlink()
    repair(folder)
    assert found(folder) == [("files", f"dataset.json: does not list {name}", True)]


@pytest.mark.parametrize("listed", [True, False])
def test_an_edited_card_is_no_finding(folder, listed):
    """Prose is not data, whether or not the manifest lists the card that was published."""
    if not listed:
        manifest = schema.read_manifest(folder)
        write_json(folder / schema.MANIFEST, replace(manifest, files=manifest.data_files).as_json())
    (folder / schema.CARD).write_text("Known issues: none.")
    assert found(folder) == []


def test_a_flipped_byte_is_found_although_a_note_says_it_was_verified(folder):
    path = parquets(folder)[1]
    os.utime(path, (1e9, 1e9))
    schema.verify_file(folder, schema.read_manifest(folder), path.relative_to(folder).as_posix())
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))  # as a failing disk leaves it
    assert "checksum" in [rule for rule, _, _ in found(folder)]


def test_files_too_many_are_errors_where_they_may_be_read(folder):
    shutil.copy(parquets(folder)[0], folder / "data" / "train-00003-of-00004.parquet")
    (folder / "notes.txt").write_text("")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "note").write_text("")
    assert [(rule, text.split(":")[0], error) for rule, text, error in found(folder)] == [
        ("files", "data/train-00003-of-00004.parquet", True),
        ("files", "notes.txt", False),
    ]


def test_a_manifest_that_leads_out_of_its_folder_is_refused(folder):
    manifest = schema.read_manifest(folder)
    files = manifest.files | {"../outside": "0"}
    write_json(folder / schema.MANIFEST, replace(manifest, files=files).as_json())
    with pytest.raises(UserError, match=r"lists \.\./outside, which is outside"):
        found(folder)


def test_another_number_of_rows_is_found(folder):
    repair(folder, rows={"train": 161})
    assert found(folder) == [("counts", "split train: 160 rows, the manifest says 161", True)]


def test_another_number_of_images_is_found(folder):
    repair(folder, images_per_row=3)
    assert ("counts", "dataset.json: 3 images per row, the recipe says 4", True) in found(folder)


def test_another_recipe_json_is_found(folder):
    write_json(folder / "recipe.json", {"revision": "0" * 40, "recipe": RECIPE.declaration()})
    assert [rule for rule, _, _ in found(folder)] == ["recipe"]
    (folder / "recipe.json").unlink()
    assert [rule for rule, _, _ in found(folder)] == ["recipe"]


def test_a_revision_that_is_not_the_hash_of_its_recipe_is_found(folder):
    revision, recipe = "0" * 40, RECIPE.declaration()

    def reseed(rows):
        for row in rows:
            row[schema.SEEDS] = [image_seed(revision, row[schema.CAPTION_ID], k) for k in range(4)]

    for shard in range(3):
        plant(folder, reseed, shard, constants={"recipe": recipe, "revision": revision})
    repair(folder, revision=revision)
    write_json(folder / "recipe.json", {"recipe": recipe, "revision": revision})
    assert [rule for rule, _, _ in found(folder)] == ["revision"]


@pytest.mark.parametrize("name", ["captions", "images", "bytes", "nsfw_scored", "nsfw_above_zero", "failed"])
def test_statistics_that_do_not_add_up_are_found(folder, failing, tmp_path, name):
    for which in (folder, shutil.copytree(failing, tmp_path / "failing")):
        path = which / schema.STATISTICS
        told = json.loads(path.read_text())
        value = told["failed"] | {"odd": 1} if name == "failed" else told[name] + 1
        write_json(path, told | {name: value})
        ((rule, text, _),) = found(which)
        assert rule == "statistics" and f" {name} " in text


def tilted():
    """Captions whose images all begin at the same place of a schedule of three."""
    return [caption for caption in map(Caption, map("number {}".format, range(600)), "n" * 600, "n" * 600)
            if caption.caption_id % 3 == 0][:160]  # fmt: skip


def test_guidance_out_of_balance_is_found(tmp_path):
    recipe = replace(FAILING, captions=Listed(tilted, "tilted"), guidance=(2.0, 8.0, 4.0))
    told = found(build(recipe, tmp_path))
    assert [(rule, text.split(":")[0], error) for rule, text, error in told] == [
        ("balance", f"guidance {value}", True) for value in (2, 4, 8)
    ]
    assert told[0][1] == "guidance 2: 320 images, expected 213 ± 30"
    even = replace(recipe, guidance=(2.0, 8.0, 4.0, 1.0), version=2)
    assert found(build(even, tmp_path / "even")) == [], "four images go once round"


def test_images_that_could_not_be_drawn_are_no_fault(failing):
    statistics = json.loads((failing / schema.STATISTICS).read_text())
    assert statistics["failed"]["not finite"] > 50 and statistics["nsfw_above_zero"] > 50
    assert found(failing) == []


def test_many_findings_of_a_rule_are_counted_and_the_first_are_shown(numbered_dataset):
    told = found(numbered_dataset)
    assert {(rule, error) for rule, _, error in told} == {("blank", False)}
    assert len(told) == 11 and told[0][1].startswith(f"{FIRST}: row 0, image 0: ")
    assert told[-1][1] == "and 630 more of this kind"


def test_several_processes_find_the_same(folder):
    plant(folder, with_value(40, schema.SEEDS, at(2, 17)), shard=1)
    progress = []
    told = audit.check(folder, lambda *each: progress.append(each), processes=2)
    assert [finding.rule for finding in told] == ["seed"] and told == audit.check(folder, silent)
    assert [done for done, _, _ in progress] == [0, 64, 128, 160]


def test_a_finding_is_one_line_that_says_how_bad_it_is():
    assert str(audit.Finding("seed", "a: b")) == "error: a: b [seed]"
    assert str(audit.Finding("blank", "a: b", error=False)) == "warning: a: b [blank]"


def test_an_unfinished_folder_is_refused(folder):
    (folder / schema.MANIFEST).unlink()
    with pytest.raises(UserError, match="build did not finish"):
        audit.check(folder, silent)


def test_a_clean_evaluation_set_has_no_finding(evaluation):
    assert found(evaluation) == []


def test_faults_of_an_evaluation_set_are_found(evaluation, tmp_path):
    folder = shutil.copytree(evaluation, tmp_path / "copy")
    path = folder / "data" / "train-00000-of-00001.parquet"
    rows = pq.read_table(path)
    changed = rows.to_pylist()
    changed[66]["image"]["bytes"] = b"nothing"
    changed[68]["image"] = changed[69]["image"]
    shards.write_parquet(path, [pa.Table.from_pylist(changed, rows.schema)], rows.schema)
    manifest = schema.read_manifest(folder)
    files = manifest.files | {str(path.relative_to(folder)): file_sha256(path)}
    write_json(folder / schema.MANIFEST, replace(manifest, files=files, rows={"train": 71, "test": 5}).as_json())
    assert [(rule, text.split(".parquet: ")[-1]) for rule, text, _ in found(folder)] == [
        ("decode", "row 66: does not decode (not an image)"),
        ("counts", "split train: 70 rows, the manifest says 71"),
        ("duplicate image", "row 68, image 0"),
    ]


# A regenerated sample


@pytest.mark.parametrize(("count", "images"), [(1, 4), (9, 12), (640, 640)])
def test_regenerated_sample_is_equal(clean, count, images):
    sample = audit.regenerate_sample(clean, RECIPE, count, silent)
    assert (sample.images, sample.equal, sample.largest, sample.mean) == (images, images, 0, 0)
    assert sample.findings == []


def test_a_sample_has_the_failures_of_the_dataset(failing):
    sample = audit.regenerate_sample(failing, FAILING, 640, silent)
    assert sample.equal == sample.images == 640 and sample.findings == []


def test_changed_image_is_found_by_regeneration(folder):
    plant(folder, with_image(20, 1, lambda _: encode(np.full((64, 64, 3), 90, np.uint8), provenance.ALGORITHMIC)))
    plant(folder, with_value(31, schema.IMAGES, at(2, None)), shard=2)
    plant(folder, with_image(5, 0, lambda content: jpeg(pixels(content)[:32], xmp=XMP)), shard=2)
    plant(folder, with_image(6, 0, lambda content: content.replace(b"algorithmicM", b"elgorithmicM")), shard=2)
    sample = audit.regenerate_sample(folder, RECIPE, 640, silent)
    last = "data/train-00002-of-00003.parquet"
    assert [finding.text.split(": ")[:2] for finding in sample.findings] == [
        [FIRST, "row 20, image 1"],
        [last, "row 5, image 0"],
        [last, "row 6, image 0"],
        [last, "row 31, image 2"],
    ]
    assert sample.equal == 637


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff\xd8\xff\xe1"])
def test_undecodable_image_is_found_by_regeneration(folder, content):
    plant(folder, with_image(20, 1, lambda _: content))
    sample = audit.regenerate_sample(folder, RECIPE, 640, silent)
    assert {finding.text for finding in sample.findings if finding.rule == "regenerated"} == {
        f"{FIRST}: row 20, image 1: does not decode (not an image)"
    }


def test_low_bits_may_differ(folder):
    original = {}

    def change(content):
        original["image"] = pixels(content).astype(int)
        moved = np.clip(original["image"] + np.eye(64, dtype=int)[..., None] * 9, 0, 255)
        original["stored"] = jpeg(moved.astype(np.uint8), xmp=XMP)
        return original["stored"]

    plant(folder, with_image(20, 1, change))
    sample = audit.regenerate_sample(folder, RECIPE, 640, silent)
    difference = np.abs(pixels(original["stored"]) - original["image"])
    assert sample.findings == [] and sample.equal == 639
    assert sample.largest == difference.max() and sample.mean == pytest.approx(difference.mean() / 640)


def test_other_captions_are_drawn_with_another_seed(clean, monkeypatch):
    drawn = []
    monkeypatch.setattr(audit, "_regenerate", lambda recipe, rows, _: drawn.append(rows) or [(True, 0, 0.0)])
    for seed in (0, 0, 1):
        audit.regenerate_sample(clean, RECIPE, 280, silent, seed)
    sizes = [len(rows) for rows in drawn]
    assert sizes == [64, 6] * 3, "as in work units"
    first, again, other = ({where for rows in drawn[k : k + 2] for where, _ in rows} for k in (0, 2, 4))
    assert first == again != other and len(first) == len(other) == 70
    for where, row in drawn[0]:
        name, number = where.split(": row ")
        assert pq.read_table(clean / name)[schema.CAPTION][int(number)].as_py() == row[schema.CAPTION]


def test_a_sample_of_another_recipe_is_refused(clean):
    with pytest.raises(UserError, match="use the recipe and captions that the dataset was built from"):
        audit.regenerate_sample(clean, replace(RECIPE, seed=1), 4, silent)
    for count in (0, 641):
        with pytest.raises(UserError, match=f"a sample of 1 to 640 images, found {count}"):
            audit.regenerate_sample(clean, RECIPE, count, silent)


# Alignment

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a tiny architecture that open_clip knows from here on."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "synrep-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("synrep-tiny").state_dict(), folder / "tiny.pt")
    return str(folder / "tiny.pt")


def test_scores_are_the_cosines_of_images_and_their_captions(failing, weights, tmp_path):
    folder = shutil.copytree(failing, tmp_path / "copy")
    result = aligning.alignment(folder, "synrep-tiny", weights, "cpu", 50, silent, worst=3)
    model, _, transform = open_clip.create_model_and_transforms("synrep-tiny", pretrained=weights)
    model.eval()
    rows = pq.read_table(parquets(folder)[0]).to_pylist()
    table = pq.read_table(folder / aligning.FILE).to_pylist()
    others, tokenizer = [], open_clip.get_tokenizer("synrep-tiny")
    assert [row[schema.CAPTION_ID] for row in table] == [row[schema.CAPTION_ID] for row in rows]
    assert {row["model"] for row in table} == {"synrep-tiny/tiny.pt"}
    for number, (row, scored) in enumerate(zip(rows, table, strict=True)):
        unit = rows[number // 64 * 64 :][:64]
        following = unit[(number % 64 + 1) % len(unit)][schema.CAPTION]
        with torch.no_grad():
            text = model.encode_text(tokenizer([row[schema.CAPTION]]))[0]
            other = model.encode_text(tokenizer([following]))[0]
            for image, score in zip(row[schema.IMAGES], scored["scores"], strict=True):
                assert (image is None) == (score is None)
                if image:
                    seen = model.encode_image(transform(Image.open(io.BytesIO(image["bytes"])))[None])[0]
                    cosine = torch.cosine_similarity(seen, text, dim=0).item()
                    assert score == pytest.approx(100 * max(cosine, 0), abs=1e-3)
                    others.append(100 * max(torch.cosine_similarity(seen, other, dim=0).item(), 0))
    means = {k: np.mean(drawn) for k, row in enumerate(table) if (drawn := [s for s in row["scores"] if s is not None])}
    worst = sorted(means, key=means.get)[:3]
    assert [score for score, _ in result.worst] == pytest.approx([means[k] for k in worst], abs=1e-4)
    assert sorted(row[schema.CAPTION] for _, row in result.worst) == sorted(rows[k][schema.CAPTION] for k in worst)
    scores = [score for row in table for score in row["scores"] if score is not None]
    assert result.chance == pytest.approx(np.percentile(others, 95, method="inverted_cdf"), abs=0.011)
    assert result.below_chance == pytest.approx(np.mean(np.array(scores) < result.chance))
    assert result.images == len(scores) and result.mean == pytest.approx(np.mean(scores), abs=1e-3)
    assert found(folder) == [], "the scores are no file too many"


def test_undecodable_image_is_one_line_in_an_alignment(failing, weights, tmp_path):
    folder = shutil.copytree(failing, tmp_path / "copy")
    path = parquets(folder)[0]
    rows = pq.read_table(path).to_pylist()
    row, image = next((row, k) for row in rows for k, image in enumerate(row[schema.IMAGES]) if image)
    row[schema.IMAGES][image]["bytes"] = b"nothing"
    shards.write_parquet(path, [pa.Table.from_pylist(rows, COLUMNS)], COLUMNS)
    with pytest.raises(UserError, match=f"image {image} of caption .* does not decode \\(not an image\\); run"):
        aligning.alignment(folder, "synrep-tiny", weights, "cpu", 50, silent)
    assert not (folder / aligning.FILE).exists()


class Oracle:
    """Knows how well each caption fits: 40, and 10 for every tenth; the next caption always 0 to 20."""

    def __init__(self, *_):
        self.name, self.random = "oracle", np.random.default_rng(0)

    def __call__(self, rows):
        bad = [int(row[schema.CAPTION].split()[1]) % 10 == 3 for row in rows]
        own = [[10.0 + k if ignored else 40.0 for k in range(4)] for ignored in bad]
        return own, [self.random.uniform(0, 20, 4).tolist() for _ in rows]


def test_captions_that_the_generator_ignored_are_listed_and_can_be_seen(numbered_dataset, tmp_path, monkeypatch):
    folder = shutil.copytree(numbered_dataset, tmp_path / "copy")
    monkeypatch.setattr(aligning, "_Scorer", Oracle)
    told = []
    result = aligning.alignment(folder, "oracle", None, "cpu", 8, lambda *each: told.append(each), worst=5)
    assert [score for score, _ in result.worst] == [11.5] * 5
    assert [row[schema.CAPTION] for _, row in result.worst] == [f"number {n}" for n in (3, 13, 23, 33, 43)]
    assert result.chance == pytest.approx(19, abs=0.3) and result.below_chance == 0.1
    assert result.mean == pytest.approx(0.1 * 11.5 + 0.9 * 40) and result.images == 640
    assert [done for done, _, _ in told] == [64, 128, 160]
    contact_sheet.write([row for _, row in result.worst], tmp_path / "failures.png")
    with Image.open(tmp_path / "failures.png") as picture:
        assert picture.height == contact_sheet.GAP + 5 * (contact_sheet.CELL + contact_sheet.GAP)


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        (
            "ViT-B-33",
            "openai",
            r"unknown CLIP model 'ViT-B-33'; expected MODEL/WEIGHTS; the closest of \d+ models: ViT-B-32",
        ),
        ("ViT-B-32", "nope", "unknown weights 'nope' of CLIP model ViT-B-32; choose a file or one of: openai"),
        ("ViT-B-32", None, "unknown weights None"),
    ],
)
def test_an_unknown_model_is_one_line(clean, model, pretrained, message):
    with pytest.raises(UserError, match=message):
        aligning.alignment(clean, model, pretrained, "cpu", 8, silent)


def test_unavailable_weights_are_one_line(folder, monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("cannot reach\nthe Hub")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    with pytest.raises(UserError, match=r"cannot load CLIP model ViT-B-32/openai on cpu \(cannot reach the Hub\)"):
        aligning.alignment(folder, "ViT-B-32", "openai", "cpu", 8, silent)
    assert not (folder / aligning.FILE).exists()


def test_an_evaluation_set_has_no_alignment(evaluation):
    with pytest.raises(UserError, match="has labeled images"):
        aligning.alignment(evaluation, "ViT-B-32", "openai", "cpu", 8, silent)
