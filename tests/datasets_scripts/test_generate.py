import io

import numpy as np
import pytest
from PIL import Image

from benchmark import schema
from datasets_scripts.generate import COLUMNS, generate
from datasets_scripts.recipe import Caption
from tests.small import NUMBERED, RECIPE, captions, numbers, read_number


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(image["bytes"])))


def test_rows_are_the_captions_in_order_with_seeds_and_guidance():
    drawn = captions()[:5]
    table = generate(RECIPE, drawn)
    assert table.schema.equals(COLUMNS)
    for caption, row in zip(drawn, table.to_pylist(), strict=True):
        assert row[schema.CAPTION_ID] == caption.caption_id
        assert [row[name] for name in (schema.CAPTION, schema.SOURCE, schema.SOURCE_ID)] == [
            caption.text,
            caption.source,
            caption.source_id,
        ]
        assert row[schema.SEEDS] == [RECIPE.image_seed(caption.caption_id, index) for index in range(4)]
        assert row[schema.GUIDANCE] == [2.0, 8.0, 4.0, 2.0]


def test_images_stand_in_the_row_of_their_caption_at_their_index():
    table = generate(NUMBERED, numbers()[100:140])
    for number, images in zip(range(100, 140), table[schema.IMAGES].to_pylist(), strict=True):
        assert [read_number(pixels(image).mean((0, 1))) for image in images] == [(number, index) for index in range(4)]


def test_a_row_does_not_depend_on_its_unit():
    drawn = captions()[:6]
    together = generate(RECIPE, drawn).to_pylist()
    assert together[4:] == generate(RECIPE, drawn[4:]).to_pylist()
    assert together[::-1] == generate(RECIPE, drawn[::-1]).to_pylist()


def test_images_of_a_caption_differ_and_are_named_apart():
    table = generate(RECIPE, captions()[:20])
    images = [image for row in table[schema.IMAGES].to_pylist() for image in row]
    assert len({image["bytes"] for image in images}) == len({image["path"] for image in images}) == 80
    assert all(Image.open(io.BytesIO(image["bytes"])).format == "JPEG" for image in images)


@pytest.mark.parametrize("caption_id", [-1, -(2**63), 2**63 - 1, 0])
def test_name_of_an_image_is_its_caption_id_in_hexadecimal(monkeypatch, caption_id):
    monkeypatch.setattr(Caption, "caption_id", caption_id)
    (images,) = generate(NUMBERED, numbers()[:1])[schema.IMAGES].to_pylist()
    stem, index = images[2]["path"].removesuffix(".jpg").split("-")
    assert (int(stem, 16) - caption_id) % 2**64 == 0 and len(stem) == 16 and index == "2"
