import copy
import io
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import write_json
from datasets_scripts.inspection import contact_sheet
from tests.fixtures.small_datasets import read_number

STEP = contact_sheet.CELL + contact_sheet.GAP


@pytest.fixture(scope="module")
def rows(numbered_dataset):
    """Five captions of the second file; one image of the third could not be drawn."""
    path = numbered_dataset / schema.shard_name("train", 1, 3)
    rows = pq.read_table(path).slice(7, 5).to_pylist()
    rows[2][schema.IMAGES][1], rows[2][schema.STATUS][1] = None, "not finite"
    return rows


def cell(picture, row, column):
    left, top = contact_sheet.GAP + contact_sheet.TEXT + column * STEP, contact_sheet.GAP + row * STEP
    return np.asarray(picture.crop((left, top, left + contact_sheet.CELL, top + contact_sheet.CELL)))


def label_off(cell_HW3):
    """Without the corner that says which guidance an image has."""
    return cell_HW3[24:]


def text_of(picture, row):
    """The caption's part of the picture, dark where there is ink."""
    top = contact_sheet.GAP + row * STEP
    return (
        np.asarray(
            picture.convert("L").crop((0, top, contact_sheet.GAP + contact_sheet.TEXT, top + contact_sheet.CELL))
        )
        < 128
    )


def test_every_image_stands_in_the_row_of_its_caption_at_its_index(rows):
    picture = contact_sheet.render(rows)
    assert picture.size == (contact_sheet.GAP + contact_sheet.TEXT + 4 * STEP, contact_sheet.GAP + 5 * STEP)
    for row in range(5):
        for column in range(4):
            if (row, column) != (2, 1):
                colour = label_off(cell(picture, row, column)).mean((0, 1))
                assert read_number(colour) == (64 + 7 + row, column)


def test_an_undecodable_image_is_crossed_out(rows):
    before, damaged = contact_sheet.render(rows), copy.deepcopy(rows)
    damaged[1][schema.IMAGES][2]["bytes"] = b"nothing"
    picture = contact_sheet.render(damaged)
    assert (cell(picture, 1, 1) == cell(before, 1, 1)).all()
    assert (np.diagonal(label_off(cell(picture, 1, 2)), 24).T == 128).all(), "a gray line"
    assert np.median(cell(picture, 1, 2)) == 255


def test_an_image_is_shown_whole_and_as_it_is(small_dataset):
    rows = pq.read_table(next(small_dataset.glob("data/*.parquet"))).slice(3, 2).to_pylist()
    picture = contact_sheet.render(rows)
    for row in range(2):
        for column, stored in enumerate(rows[row][schema.IMAGES]):
            image = Image.open(io.BytesIO(stored["bytes"]))
            shown = Image.fromarray(cell(picture, row, column)).resize(image.size, Image.Resampling.BOX)
            difference = np.abs(np.asarray(shown).astype(int) - np.asarray(image))
            assert difference[12:].mean() < 3, "but for the label"


def test_a_wide_image_keeps_its_shape(rows):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), (200, 30, 30)).save(buffer, "PNG")
    row = rows[0] | {schema.IMAGES: [{"bytes": buffer.getvalue()}], schema.GUIDANCE: [1.0]}
    shown = cell(contact_sheet.render([row]), 0, 0)
    assert (shown[24:64] == (200, 30, 30)).all() and (shown[64:] == 255).all()


def test_an_image_that_was_not_drawn_is_crossed_out_and_says_why(rows):
    shown = cell(contact_sheet.render(rows), 2, 1)
    assert (shown[np.arange(40, 127), np.arange(40, 127)] == 128).all(), "a grey diagonal"
    assert (shown[100:120, 20:60] == 255).all(), "on white"
    assert (shown[4:24, 4:80] < 50).any(), "the reason"


def test_the_guidance_stands_in_the_corner_of_each_image(rows):
    shown = cell(contact_sheet.render(rows), 1, 0)
    other = cell(contact_sheet.render([rows[0], rows[1] | {schema.GUIDANCE: [7.5, 0.0, 0.0, 0.0]}]), 1, 0)
    assert (label_off(shown) == label_off(other)).all() and (shown[:24] != other[:24]).any()
    assert (shown[:24] > 240).all(-1).any(), "white letters"


def test_a_long_caption_is_cut_and_stays_in_its_place(rows):
    short = contact_sheet.render(rows)
    long = [row | {schema.CAPTION: "a very long caption " * 40} if k == 1 else row for k, row in enumerate(rows)]
    picture = contact_sheet.render(long)
    for row in (0, 2, 3, 4):
        assert (text_of(picture, row) == text_of(short, row)).all(), "it does not run into another caption"
    ink = text_of(picture, 1)
    lines = (np.diff(ink.any(1).astype(int), prepend=0) == 1).sum()
    assert lines <= contact_sheet.MAX_LINES and ink.any(1)[: contact_sheet.CELL // 2].any()
    for column in range(4):
        assert (cell(picture, 1, column) == cell(short, 1, column)).all(), "nor into the images"


def test_no_rows_give_an_empty_sheet():
    assert contact_sheet.render([]).size == (contact_sheet.GAP + contact_sheet.TEXT, contact_sheet.GAP)


def test_the_card_shows_none_that_the_safety_checker_would_have_hidden(numbered_dataset, tmp_path, rows):
    table = pq.read_table(numbered_dataset / schema.shard_name("train", 0, 3))
    kept = table.to_pylist()
    for number in (0, 3):
        kept[number][schema.NSFW] = [None, None, 0.01, -1.0]
    kept[4][schema.NSFW] = [-0.01, 0.0, None, -1.0]
    pq.write_table(table.from_pylist(kept, table.schema), tmp_path / "some.parquet")
    shown = contact_sheet.card_rows(tmp_path / "some.parquet")
    assert [row[schema.CAPTION] for row in shown] == [f"number {n}" for n in (1, 2, 4, 5, 6, 7)]


def test_a_sheet_on_disk_is_the_picture(rows, tmp_path):
    contact_sheet.write(rows, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert (np.asarray(picture) == np.asarray(contact_sheet.render(rows))).all()
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_damaged_file_and_a_wrong_number_of_rows_are_one_line(numbered_dataset, tmp_path):
    folder = shutil.copytree(numbered_dataset, tmp_path / "copy")
    manifest = schema.read_manifest(folder)
    write_json(folder / schema.MANIFEST, replace(manifest, rows={"train": 10**12}).as_json())
    with pytest.raises(UserError, match="has 160 rows, its manifest says 1,000,000,000,000"):
        contact_sheet.random_rows(folder, 3, 0)
    write_json(folder / schema.MANIFEST, manifest.as_json())
    path = folder / schema.shard_name("train", 1, 3)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet cannot be read \(.*\); build or download"):
        contact_sheet.random_rows(folder, 3, 0)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        contact_sheet.random_rows(folder, 3, 0)


def test_a_changed_image_is_not_shown(numbered_dataset, tmp_path):
    folder = shutil.copytree(numbered_dataset, tmp_path / "copy")
    path = folder / schema.shard_name("train", 1, 3)
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1  # in an image
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet has sha256 .*, the manifest says"):
        contact_sheet.random_rows(folder, 160, 0)
