import io
import json
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import c2pa
import numpy as np
import PIL
import pytest
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from datasets_scripts.generation import diffusion, provenance
from datasets_scripts.generation import generate as generating
from datasets_scripts.generation.generate import COLUMNS
from datasets_scripts.recipe import Caption, image_guidance, image_seed
from datasets_scripts.scenes import renderer
from datasets_scripts.text_to_image import GeneratedImage
from tests.fixtures import c2pa_certificate
from tests.fixtures.small_datasets import NUMBERED, RECIPE, Numbers, captions, numbers, read_number


def unit(recipe, drawn, **options):
    """Generate a unit; return its rows, statistics and progress."""
    progress = []
    drawing = generating.generate(recipe, recipe.revision, drawn, **options)
    while True:
        try:
            progress.append(next(drawing))
        except StopIteration as end:
            return *end.value, progress


def generate(recipe, drawn):
    return unit(recipe, drawn)[0]


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
        assert row[schema.SEEDS] == [image_seed(RECIPE.revision, caption.caption_id, index) for index in range(4)]
        assert row[schema.GUIDANCE] == [image_guidance((2, 8, 4), caption.caption_id, index) for index in range(4)]
        assert row[schema.STATUS] == ["ok"] * 4 and row[schema.NSFW] == [None] * 4


def test_images_are_in_the_row_of_their_caption_at_their_index():
    table = generate(NUMBERED, numbers()[100:140])
    for number, images in zip(range(100, 140), table[schema.IMAGES].to_pylist(), strict=True):
        assert [read_number(pixels(image).mean((0, 1))) for image in images] == [(number, index) for index in range(4)]


def test_a_row_does_not_depend_on_its_unit():
    drawn = captions()[:6]
    together = generate(RECIPE, drawn).to_pylist()
    assert together[4:] == generate(RECIPE, drawn[4:]).to_pylist()
    assert together[::-1] == generate(RECIPE, drawn[::-1]).to_pylist()


def test_images_of_a_caption_differ_in_bytes_and_names():
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


@dataclass(frozen=True)
class Asked(Numbers):
    """Encodes seed and guidance as a color; every fifth image fails, the others have a score."""

    def __call__(self, captions, seeds, guidance):
        for place, (seed, value) in enumerate(zip(seeds, guidance, strict=True)):
            image = np.full((8, 8, 3), (seed % 251, 16 * value, 0), np.uint8)
            yield (
                GeneratedImage(None, "not finite") if place % 5 == 4 else GeneratedImage(image, nsfw=0.25 - place / 10)
            )


ASKED = replace(NUMBERED, text_to_image=Asked(), guidance=(2.0, 3.0, 8.0))


def test_images_use_the_seed_and_guidance_of_their_row(monkeypatch):
    monkeypatch.setattr(generating, "encode", lambda image, _: image.tobytes())
    table = generate(ASKED, numbers()[:10])
    for row in table.to_pylist():
        for image, seed, guidance in zip(row[schema.IMAGES], row[schema.SEEDS], row[schema.GUIDANCE], strict=True):
            assert image is None or tuple(image["bytes"][:2]) == (seed % 251, 16 * guidance)


def test_failed_image_is_null_with_its_status():
    table, facts, progress = unit(ASKED, numbers()[:10])
    images = [image for row in table[schema.IMAGES].to_pylist() for image in row]
    status = [each for row in table[schema.STATUS].to_pylist() for each in row]
    assert [place for place, image in enumerate(images) if image is None] == list(range(4, 40, 5))
    assert [place for place, each in enumerate(status) if each == "not finite"] == list(range(4, 40, 5))
    assert set(status) == {"ok", "not finite"}
    assert facts["images"] == 32 and facts["failed"] == {"not finite": 8}
    assert sum(images for images, _ in progress) == 40 and not any(units for _, units in progress)


def test_nsfw_scores_match_their_images():
    table, facts, _ = unit(ASKED, numbers()[:2])
    assert table[schema.NSFW].to_pylist()[0] == pytest.approx([0.25, 0.15, 0.05, -0.05])
    assert table[schema.NSFW].to_pylist()[1][0] is None
    assert facts["nsfw_above_zero"] == 3 and facts["nsfw_scored"] == 7


def test_unit_statistics_add_up():
    table, facts, _ = unit(ASKED, numbers()[:10])
    files = [image["bytes"] for row in table[schema.IMAGES].to_pylist() for image in row if image]
    assert (facts["captions"], facts["bytes"]) == (10, sum(map(len, files)))
    values = [value for row in table[schema.GUIDANCE].to_pylist() for value in row]
    assert facts["guidance"] == {str(value): values.count(value) for value in sorted(set(values))}
    assert {f"pillow {PIL.__version__}", f"numpy {np.__version__}"} <= set(facts["software"].split(", "))
    assert facts["device"] and "torch" not in facts["software"], "what is loaded but does not draw changes no byte"


def test_model_with_too_few_images_is_an_error():
    @dataclass(frozen=True)
    class Lazy(Numbers):
        def __call__(self, captions, seeds, guidance):
            yield from list(super().__call__(captions, seeds, guidance))[:-1]

    with pytest.raises(RuntimeError, match=r"expected 12 images, .* found 11"):
        unit(replace(NUMBERED, text_to_image=Lazy()), numbers()[:3])


def digital_source_type(content):
    """Return the digital source type with a generic XML parser."""
    with Image.open(io.BytesIO(content)) as image:
        packet = ElementTree.fromstring(image.info["xmp"])
    (description,) = packet.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return description.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"]


@pytest.mark.parametrize("iptc_source_type", [provenance.TRAINED, provenance.ALGORITHMIC])
def test_every_image_has_its_iptc_source_type(iptc_source_type):
    table = generate(replace(NUMBERED, text_to_image=Numbers(iptc_source_type=iptc_source_type)), numbers()[:3])
    for image in (image for row in table[schema.IMAGES].to_pylist() for image in row):
        found = digital_source_type(image["bytes"])
        assert found == f"http://cv.iptc.org/newscodes/digitalsourcetype/{iptc_source_type}"


def test_source_types_of_diffusion_model_and_renderer():
    assert diffusion.StableDiffusion().iptc_source_type == "trainedAlgorithmicMedia"
    assert renderer.Scenes().iptc_source_type == "algorithmicMedia"


def test_xmp_mark_is_small_and_changes_no_pixel():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    plain = io.BytesIO()
    Image.fromarray(image).save(plain, "JPEG", quality=generating.JPEG_QUALITY)
    marked = generating.encode(image, provenance.TRAINED)
    assert 0 < len(marked) - len(plain.getvalue()) < 500
    assert (pixels({"bytes": marked}) == pixels({"bytes": plain.getvalue()})).all()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """PEM files of a certificate chain for C2PA and of its key."""
    folder = tmp_path_factory.mktemp("c2pa")
    return c2pa_certificate.write(folder / "chain.pem", folder / "key.pem")


def test_c2pa_manifest_says_created_by_a_model(certificate):
    table, _, _ = unit(NUMBERED, numbers()[:1], c2pa=provenance.C2PA(*certificate))
    for image in table[schema.IMAGES].to_pylist()[0]:
        store = json.loads(c2pa.Reader("image/jpeg", io.BytesIO(image["bytes"])).json())
        manifest = store["manifests"][store["active_manifest"]]
        (actions,) = [a["data"]["actions"] for a in manifest["assertions"] if a["label"].startswith("c2pa.actions")]
        assert actions[0]["action"] == "c2pa.created"
        assert actions[0]["digitalSourceType"].endswith("/algorithmicMedia")
        problems = {status["code"] for status in store.get("validation_status", [])}
        assert problems <= {"signingCredential.untrusted"}, "a certificate that nobody trusts, and nothing else"
        assert digital_source_type(image["bytes"]), "the XMP mark stays"
        assert len(image["bytes"]) < 6_000, "no thumbnail"
    assert read_number(pixels(image).mean((0, 1))) == (0, 3)


def test_c2pa_without_a_key_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*chain\.pem: No such file"):
        unit(NUMBERED, numbers()[:1], c2pa=provenance.C2PA(tmp_path / "chain.pem", tmp_path / "key.pem"))


def test_c2pa_with_an_invalid_certificate_is_one_line(tmp_path):
    (tmp_path / "chain.pem").write_text("nothing")
    (tmp_path / "key.pem").write_text("nothing")
    with pytest.raises(UserError, match=r"cannot sign .*ES256"):
        unit(NUMBERED, numbers()[:1], c2pa=provenance.C2PA(tmp_path / "chain.pem", tmp_path / "key.pem"))
