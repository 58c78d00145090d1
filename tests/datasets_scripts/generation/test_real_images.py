"""Real images of the user: tars -> captions -> a dataset in the published schema, without a synthetic mark."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts import cc3m, recipe
from datasets_scripts.building import build
from datasets_scripts.captions.prepare import prepare as prepare_captions
from datasets_scripts.captions.sources import sources
from datasets_scripts.generation import provenance, real_images
from datasets_scripts.inspection import audit, examine

NAMES = ("red", "green", "blue", "grey", "pink")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 210),
    "grey": (99, 99, 99),
    "pink": (240, 120, 180),
}


def silent(*args):
    pass


def picture(colour, size=(300, 200), format="JPEG"):
    """Encode an image: a vertical ramp of a color (not blank), an eighth on the left and right black."""
    width, height = size
    pixels = np.linspace(0.6, 1, height)[:, None, None] * np.array(colour)[None, None].repeat(width, 1)
    pixels[:, : width // 8] = pixels[:, -width // 8 :] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format)
    return buffer.getvalue()


def tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def folder(data):
    return data / "originals" / "cc3m-wds"


@pytest.fixture
def tars(tmp_path):
    """Two tars: captions as text and JSON, and as JSON only; one image is a PNG, one caption is a duplicate."""
    first = {}
    for number, name in enumerate(NAMES[:3]):
        key = f"00000{number:04d}"
        first[f"{key}.jpg"] = picture(COLOURS[name])
        first[f"{key}.json"] = json.dumps({"caption": "not this one", "key": key}).encode()
        first[f"{key}.txt"] = f"a {name}  thing\n".encode()
    tar(folder(tmp_path) / "00000.tar", first)
    second = {
        "./a/one.json": json.dumps({"caption": "a grey thing", "url": "https://example.org/x"}).encode(),
        "./a/one.png": picture(COLOURS["grey"], (64, 128), "PNG"),
        "./a/two.jpeg": picture(COLOURS["pink"]),
        "./a/two.txt": b"a pink thing",
        "./a/three.jpg": picture((1, 2, 3)),
        "./a/three.txt": b"a red thing",
        "./a/four.txt": b"a thing without an image",
    }
    tar(folder(tmp_path) / "00001.tar", second)
    return tmp_path


def prepare(data):
    return prepare_captions(cc3m.REAL_SOURCE, folder(data), data / "captions" / "cc3m-real", silent)


@pytest.fixture
def built(tars):
    prepare(tars)
    return build.build(recipe.find("cc3m-real", tars), tars, [""], silent)


def test_captions_are_read_from_tars_with_image_locations(tars):
    report = prepare(tars)
    assert (report["kept"], report["dropped"]["duplicate"], report["dropped"]["no image"]) == (5, 1, 1)
    read = list(recipe.find("cc3m-real", tars).captions)
    assert [each.text for each in read] == [f"a {name} thing" for name in NAMES]
    for caption in read:
        name, offset, length = caption.source_id.split(":")
        content = (folder(tars) / name).read_bytes()[int(offset) : int(offset) + int(length)]
        assert Image.open(io.BytesIO(content)).format in {"JPEG", "PNG"}


@pytest.mark.slow
def test_each_caption_has_its_own_image_at_the_stored_size(built):
    data = CaptionImageDataset(built, recipe.find("cc3m-real", built.parents[1]).revision)
    assert (len(data), data.images_per_caption) == (5, 1)
    for row, text in enumerate(data.captions):
        image = data.image(row, 0)
        assert image.shape == (256, 256, 3)
        middle = image[96:160, 96:160].mean((0, 1))
        wanted = np.array(COLOURS[text.split()[1]]) * 0.8
        assert np.abs(middle - wanted).max() < 12, text


@pytest.mark.slow
def test_images_are_center_cropped_with_their_aspect_ratio(built):
    """From 300 x 200 to 256 x 256: 50 pixels are cropped on each side, including the black border of 37."""
    data = CaptionImageDataset(built, recipe.find("cc3m-real", built.parents[1]).revision)
    assert data.image(0, 0)[128, :, 0].min() > 120


@pytest.mark.slow
def test_real_images_have_no_mark_and_the_card_says_real(built):
    data = CaptionImageDataset(built, schema.read_manifest(built).revision)
    for row in range(len(data)):
        content = data.image_bytes(row, 0)
        assert b"DigitalSourceType" not in content and not examine.MARK.search(content)
    card = (built / schema.CARD).read_text()
    assert "Every image is real" in card and "is synthetic**" not in card and "Mark of origin" not in card
    assert "- synthetic" not in card.split("---")[1]
    assert "No right to redistribute it was granted" in card.replace("\n", " ")
    assert provenance.is_synthetic(recipe.find("toy-real").declaration())


@pytest.mark.slow
def test_check_finds_a_mark_on_a_real_image(tars):
    prepare(tars)
    chosen = recipe.find("cc3m-real", tars)
    marked = replace(chosen, text_to_image=replace(chosen.text_to_image, iptc_source_type=provenance.TRAINED))
    found = audit.check(build.build(marked, tars, [""], silent), silent)
    assert {finding.rule for finding in found if finding.error} == {"mark"}
    assert "its XMP marks it as synthetic, but it is a real image" in found[0].text
    again = audit.regenerate_sample(tars / chosen.repo, chosen, 5, silent)
    assert {finding.rule for finding in again.findings} == {"source type"}


@pytest.mark.slow
def test_check_finds_missing_marks_of_images_declared_synthetic(built, monkeypatch):
    assert [finding for finding in audit.check(built, silent) if finding.error] == []
    sampled = audit.regenerate_sample(built, recipe.find("cc3m-real", built.parents[1]), 5, silent)
    assert (sampled.images, sampled.equal, sampled.findings) == (5, 5, [])
    monkeypatch.setattr(
        provenance, "REAL_PREFIX", "something else"
    )  # as if it were declared synthetic: every image lacks a mark
    assert {finding.rule for finding in audit.check(built, silent) if finding.error} == {"mark"}


def test_revision_covers_every_tar(tars):
    prepare(tars)
    before = recipe.find("cc3m-real", tars).revision
    tar(folder(tars) / "00002.tar", {"x.jpg": picture((9, 9, 9)), "x.txt": b"one more thing"})
    with pytest.raises(UserError, match="has captions of another origin"):
        prepare(tars)
    for file in (tars / "captions" / "cc3m-real").iterdir():
        file.unlink()
    prepare(tars)
    assert recipe.find("cc3m-real", tars).revision != before


def test_revision_covers_the_image_bytes(tars):
    """Other pixels at the same location, with the same captions, are another dataset."""
    prepare(tars)
    chosen = recipe.find("cc3m-real", tars)
    before, captions_before = chosen.revision, chosen.captions.version
    path = folder(tars) / "00000.tar"
    content = bytearray(path.read_bytes())
    content[512 + 400] ^= 1  # within the first image, behind its header in the tar
    path.write_bytes(content)
    for file in chosen.captions.folder.iterdir():  # type: ignore[attr-defined]
        file.unlink()
    prepare(tars)
    assert chosen.captions.version == captions_before
    assert chosen.revision != before


@pytest.mark.slow
def test_undecodable_image_is_null_with_its_status(tmp_path):
    files = {"a.jpg": picture((200, 9, 9)), "a.txt": b"good", "b.jpg": b"no image", "b.txt": b"bad"}
    tar(folder(tmp_path) / "0.tar", files)
    prepare(tmp_path)
    built = build.build(recipe.find("cc3m-real", tmp_path), tmp_path, [""], silent)
    data = CaptionImageDataset(built, schema.read_manifest(built).revision)
    assert list(data.rows_with_images()) == [data.captions.index("good")]
    assert json.loads((built / schema.STATISTICS).read_text())["failed"] == {real_images.DAMAGED: 1}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda path: path.unlink(),
            "cannot read .*00000.tar .*put the tars from which the captions were prepared there",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "00000.tar is shorter than when its captions were"),
    ],
)
def test_missing_or_truncated_tar_is_one_line(break_it, said, tars):
    prepare(tars)
    chosen = recipe.find("cc3m-real", tars)
    break_it(folder(tars) / "00000.tar")
    with pytest.raises(UserError, match=said):
        list(chosen.text_to_image([f"a {name} thing" for name in NAMES], [0] * 5, [0.0] * 5))


def test_tars_in_subfolders_are_refused(tars):
    tar(folder(tars) / "more" / "00000.tar", {"x.jpg": picture((9, 9, 9)), "x.txt": b"one more thing"})
    prepare(tars)
    with pytest.raises(UserError, match=r"more/00000.tar is in a subfolder"):
        recipe.find("cc3m-real", tars).revision  # noqa: B018


def test_invalid_uses_of_real_images_are_one_line(tars):
    with pytest.raises(
        UserError, match=r"captions of cc3m-real are not prepared .*run `synrep data captions cc3m-real --data "
    ):
        recipe.find("cc3m-real", tars).revision  # noqa: B018
    prepare(tars)
    with pytest.raises(UserError, match="a caption has only one real image; remove -l"):
        list(recipe.find("cc3m-real-l2", tars).text_to_image(["a red thing"] * 2, [0, 1], [0.0, 0.0]))
    with pytest.raises(UserError, match="C2PA signatures are for synthetic images"):
        build.start(recipe.find("cc3m-real", tars), tars, provenance.C2PA(tars, tars))


@pytest.mark.parametrize("name", ["cc3m", "cc12m", "redcaps", "laion-50m"])
def test_every_source_has_a_recipe_of_real_images(name):
    found = recipe.find(f"{name}-real-10k")
    assert (found.name, found.images_per_caption, found.captions.expected_count) == (f"{name}-real-10k", 1, 10_000)
    real = sources()[found.captions.source.name]  # type: ignore[attr-defined]
    assert real.repo is None and real.folder == f"originals/{name.removesuffix('-50m')}-wds"
    assert not any(terms.commercial for terms in found.text_to_image.terms)
