"""Real images of the user: tars -> captions -> a dataset in the published schema, without a synthetic mark."""

import io
import itertools
import json
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.ExifTags import Base

from benchmark import schema
from benchmark.errors import UserError
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts import cc3m, recipe
from datasets_scripts.building import build
from datasets_scripts.captions.prepare import prepare as prepare_captions
from datasets_scripts.captions.sources import sources
from datasets_scripts.generation import generate, provenance, real_images
from datasets_scripts.inspection import audit, examine
from datasets_scripts.recipe import caption_id

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
    for row in range(len(data)):
        text, image = data.caption(row), data.images(row, [0])[0]
        assert image.shape == (256, 256, 3)
        middle = image[96:160, 96:160].mean((0, 1))
        wanted = np.array(COLOURS[text.split()[1]]) * 0.8
        assert np.abs(middle - wanted).max() < 12, text


@pytest.mark.slow
def test_images_are_center_cropped_with_their_aspect_ratio(built):
    """From 300 x 200 to 256 x 256: 50 pixels are cropped on each side, including the black border of 37."""
    data = CaptionImageDataset(built, recipe.find("cc3m-real", built.parents[1]).revision)
    assert data.images(0, [0])[0][128, :, 0].min() > 120


@pytest.mark.slow
def test_real_images_have_no_mark_and_the_card_says_real(built):
    data = CaptionImageDataset(built, schema.read_manifest(built).revision)
    for row in range(len(data)):
        content = bytes(data.encoded_images(row, [0])[0])
        assert b"DigitalSourceType" not in content and not examine.MARK.search(content)
    card = (built / schema.CARD).read_text()
    assert "None was generated" in card and "is synthetic**" not in card and "Mark of origin" not in card
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
    assert [data.caption(row) for row in data.rows_without_images] == ["bad"] and len(data) == 2
    assert json.loads((built / schema.STATISTICS).read_text())["failed"] == {real_images.DAMAGED: 1}


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def converted(data, content):
    """Return the image that a build makes from an encoded one."""
    tar(folder(data) / "0.tar", {"a.jpg": content, "a.txt": b"one"})
    prepare(data)
    (made,) = recipe.find("cc3m-real", data).text_to_image(["one"], [0], [0.0])
    return made


def test_a_photograph_is_upright(tmp_path):
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:150] = (220, 40, 40)
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    lying = encoded(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    image = converted(tmp_path, lying).image
    assert image[:120].mean((0, 1)) == pytest.approx((220, 40, 40), abs=3)
    assert image[136:].mean() < 3


def test_a_black_logo_on_transparent_is_seen(tmp_path):
    pixels = np.zeros((256, 256, 4), np.uint8)
    pixels[100:200, 50:150, 3] = 255
    image = converted(tmp_path, encoded(Image.fromarray(pixels), "PNG")).image
    assert (image[100:200, 50:150] == 0).all() and image.sum() == 255 * 3 * (256**2 - 100**2)


def test_a_16_bit_ramp_is_a_ramp(tmp_path):
    ramp = (np.arange(256) * 257).astype(np.uint16)[None].repeat(256, 0)
    image = converted(tmp_path, encoded(Image.fromarray(ramp), "PNG")).image
    assert (image == np.arange(256)[None, :, None]).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_range_are_null(tmp_path, dtype):
    ramp = np.linspace(0, 1, 64).astype(dtype)[None].repeat(64, 0)
    made = converted(tmp_path, encoded(Image.fromarray(ramp), "TIFF"))
    assert (made.image, made.status) == (None, real_images.DAMAGED)


def test_an_image_of_too_many_pixels_is_null(tmp_path):
    made = converted(tmp_path, encoded(Image.new("1", (8, 8)), "PPM").replace(b"8 8", b"90000 90000"))
    assert (made.image, made.status) == (None, real_images.DAMAGED)


# Tars that are replaced after their captions were read


def replace_tar(path, files, like=None):
    """Replace a tar with another, as a second download does; `like` gives its times."""
    new = path.with_name("new")
    tar(new, files)
    if like:
        os.utime(new, ns=(like.st_atime_ns, like.st_mtime_ns))
    new.replace(path)


@pytest.fixture
def swapped(tars):
    """Prepared captions of tars of which one then has the same pairs under the same names in another order."""
    prepare(tars)
    keys = [f"00000{number:04d}" for number in range(3)]
    contents = {
        f"{key}.{suffix}": content
        for key, name in zip(keys, reversed(NAMES[:3]))
        for suffix, content in (
            ("jpg", picture(COLOURS[name])),
            ("json", json.dumps({"caption": "not this one", "key": key}).encode()),
            ("txt", f"a {name}  thing\n".encode()),
        )
    }
    shutil.copy2(folder(tars) / "00000.tar", tars / "original.tar")
    replace_tar(folder(tars) / "00000.tar", contents, (tars / "original.tar").stat())
    return tars


REPLACED = r"00000\.tar is not what its captions were read from: expected sha256 \w+, found \w+; put that tar back, or"


def test_a_tar_in_another_order_is_refused(swapped):
    """It has the size and the time of the one whose captions were read, and images at about the same places."""
    chosen = recipe.find("cc3m-real", swapped)
    original, new = (path.stat() for path in (swapped / "original.tar", folder(swapped) / "00000.tar"))
    assert (original.st_size, original.st_mtime_ns) == (new.st_size, new.st_mtime_ns)
    with pytest.raises(UserError, match=REPLACED):
        list(chosen.text_to_image(["a red thing"], [0], [0.0]))
    list(chosen.text_to_image(["a grey thing"], [0], [0.0]))  # in the other tar


@pytest.mark.slow
def test_a_build_from_a_replaced_tar_is_refused_and_finished_with_the_original(swapped):
    chosen = recipe.find("cc3m-real", swapped)
    with pytest.raises(UserError, match=REPLACED):
        build.build(chosen, swapped, [""], silent)
    assert not (swapped / chosen.repo / schema.MANIFEST).exists()
    shutil.copy2(swapped / "original.tar", folder(swapped) / "00000.tar")
    built = build.build(chosen, swapped, [""], silent)
    data = CaptionImageDataset(built, chosen.revision)
    for row in range(len(data)):
        text = data.caption(row)
        middle = data.images(row, [0])[0][96:160, 96:160].mean((0, 1))
        assert np.abs(middle - np.array(COLOURS[text.split()[1]]) * 0.8).max() < 12, text


@pytest.mark.slow
def test_a_tar_replaced_after_a_build_is_named_by_a_check_with_a_sample(built):
    data = built.parents[1]
    replace_tar(folder(data) / "00000.tar", {"a.jpg": picture((1, 2, 3)), "a.txt": b"other"})
    with pytest.raises(UserError, match=REPLACED):
        audit.regenerate_sample(built, recipe.find("cc3m-real", data), 5, silent)


@pytest.mark.slow
def test_a_wrong_image_is_found_by_a_check_with_a_sample(tars, monkeypatch):
    """As from an earlier version, which read replaced tars."""
    prepare(tars)
    chosen = recipe.find("cc3m-real", tars)
    read = real_images.RealImages._read_bytes
    shift = dict(itertools.pairwise(each.source_id for each in chosen.captions))
    with monkeypatch.context() as patch:
        patch.setattr(
            real_images.RealImages, "_read_bytes", lambda self, place, tars: read(self, shift.get(place, place), tars)
        )
        job = build.start(chosen, tars)
        built = build.run_share(job, 0, 1, silent)
    assert not [finding for finding in audit.check(built, silent) if finding.rule != "duplicate image"]
    assert len(audit.regenerate_sample(built, chosen, 5, silent).findings) == 4


def many(count, first=0):
    """Return files of pairs with tiny images, each of its own gray."""
    return {
        name: content
        for number in range(first, first + count)
        for name, content in (
            (f"{number:03d}.png", encoded(Image.new("L", (16, 16), number), "PNG")),
            (f"{number:03d}.txt", f"gray {number}".encode()),
        )
    }


@pytest.mark.slow
def test_a_build_goes_on_after_a_tar_was_replaced_and_put_back(tmp_path):
    """The first of two shares is built; its tar is then removed, which the second share does not read."""
    first, second = (folder(tmp_path) / name for name in ("0.tar", "1.tar"))
    tar(first, many(64))
    tar(second, many(36, first=64))
    prepare(tmp_path)
    chosen = recipe.find("cc3m-real", tmp_path)
    assert build.run_share(build.start(chosen, tmp_path), 0, 2, silent) is None
    content = second.read_bytes()
    replace_tar(second, many(36, first=100), second.stat())
    for _ in range(2):
        with pytest.raises(UserError, match=r"1\.tar is not what its captions were read from"):
            build.run_share(build.start(chosen, tmp_path), 1, 2, silent)
    second.write_bytes(content)
    first.unlink()
    built = build.run_share(build.start(chosen, tmp_path), 1, 2, silent)
    data = CaptionImageDataset(built, chosen.revision)
    for row in range(100):
        assert data.images(row, [0])[0].mean().round() == int(data.caption(row)[5:])


def test_a_build_does_not_go_on_with_the_captions_of_other_tars(swapped):
    chosen = recipe.find("cc3m-real", swapped)
    job = build.start(chosen, swapped)
    shutil.rmtree(swapped / "captions")
    prepare(swapped)
    with pytest.raises(UserError, match="contains a dataset of another recipe"):
        build.start(recipe.find("cc3m-real", swapped), swapped)
    with pytest.raises(UserError, match="the captions of cc3m-real were prepared again during its build"):
        list(generate.generate(job.recipe, job.revision, job.read_captions(0)))


def test_captions_prepared_again_are_read_again(swapped):
    before = recipe.find("cc3m-real", swapped)
    list(before.text_to_image(["a grey thing"], [0], [0.0]))
    shutil.rmtree(swapped / "captions")
    prepare(swapped)
    (made,) = recipe.find("cc3m-real", swapped).text_to_image(["a red thing"], [0], [0.0])
    assert made.image[96:160, 96:160].mean((0, 1)) == pytest.approx(np.array(COLOURS["red"]) * 0.8, abs=12)


def test_a_tar_that_changes_in_the_same_process_is_read_again(tars):
    prepare(tars)
    chosen, path = recipe.find("cc3m-real", tars), folder(tars) / "00000.tar"
    list(chosen.text_to_image(["a red thing"], [0], [0.0]))
    before, content = path.stat(), bytearray(path.read_bytes())
    content[512 + 400] ^= 1
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system is coarse
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=REPLACED):
        list(chosen.text_to_image(["a red thing"], [0], [0.0]))


def test_a_tar_is_hashed_once_per_process(tars, monkeypatch):
    prepare(tars)
    hashed = []
    digest = real_images.hashlib.file_digest
    monkeypatch.setattr(
        real_images.hashlib, "file_digest", lambda file, name: hashed.append(file.name) or digest(file, name)
    )
    for _ in range(2):
        list(recipe.find("cc3m-real", tars).text_to_image([f"a {name} thing" for name in NAMES], [0] * 5, [0.0] * 5))
    assert [os.path.basename(name) for name in hashed] == ["00000.tar", "00001.tar"]  # noqa: PTH119


def test_tars_are_only_read(tars):
    """They may be on a read-only disk."""
    prepare(tars)
    state = {path: path.stat().st_mtime_ns for path in (folder(tars), *folder(tars).iterdir())}
    for path in state:
        path.chmod(0o555)
    list(recipe.find("cc3m-real", tars).text_to_image(["a red thing"], [0], [0.0]))
    assert state == {path: path.stat().st_mtime_ns for path in (folder(tars), *folder(tars).iterdir())}
    folder(tars).chmod(0o755)


def test_locations_that_were_not_hashed_are_refused(tars):
    prepare(tars)
    chosen = recipe.find("cc3m-real", tars)
    path = tars / "captions" / "cc3m-real" / "captions.parquet"
    table = pq.read_table(path)
    first, second, *others = table["source_id"].to_pylist()
    pq.write_table(table.set_column(3, table.schema.field(3), [[second, first, *others]]), path)
    with pytest.raises(UserError, match=r"captions.parquet does not match captions.json"):
        list(chosen.text_to_image(["a red thing"], [0], [0.0]))


def test_a_caption_that_is_not_prepared_is_refused(tars):
    prepare(tars)
    chosen = recipe.find("cc3m-real", tars)
    for text in ("a thing of another dataset", max((str(n) for n in range(99)), key=caption_id)):
        with pytest.raises(UserError, match=f"caption '{text}' is not in .*; build the dataset again"):
            list(chosen.text_to_image([text], [0], [0.0]))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda path: path.unlink(),
            "cannot read .*00000.tar .*put the tars from which the captions were prepared there",
        ),
        (
            lambda path: (path.unlink(), os.mkfifo(path)),
            r"cannot read .*00000.tar \(not a regular file\); put the tars",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "00000.tar is not what its captions were read from"),
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
