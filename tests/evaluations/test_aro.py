import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.aro import EVALUATIONS, Aro
from benchmark.evaluations.datasets.catalog import DATASETS
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.scoring.captions import distinct_crops
from benchmark.interfaces import DatasetScores
from benchmark.models import load
from tests.fixtures.doubles import Double, constant, noise, number_of, numbered, png, write_manifest, write_split

N = 12
STRICT, OFFICIAL = EVALUATIONS
RELATION, ORDER = Aro(datasets=("scenes-relation",)), Aro(datasets=("scenes-order",))
TRUE = [f"object {row} above it" for row in range(N)]
FALSE = [f"it above object {row}" for row in range(N)]


def framed(number: int, x: int, y: int) -> bytes:
    """Return an image with `number` in a box of 3 x 2 pixels and 999 around it."""
    image = numbered(999, size=8)
    image[y : y + 2, x : x + 3] = numbered(number)[0, 0]
    return png(image)


def write_relation(root, boxes=None, true=TRUE, images=None):
    folder = root / "data" / "synrep-bench" / "scenes-relation"
    boxes = boxes or [(row % 5, row % 6, 3, 2) for row in range(N)]
    images = images or [framed(row, *box[:2]) for row, box in enumerate(boxes)]
    columns = {
        **{name: list(side) for name, side in zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), zip(*boxes))},
        "true_caption": list(true),
        "false_caption": FALSE,
        "relation_name": ["above"] * 4 + ["below"] * 8,
    }
    write_split(folder / "data", "test", images, columns)
    write_manifest(folder, "synrep-bench/scenes-relation", {"test": N})


def write_order(root):
    folder = root / "data" / "synrep-bench" / "scenes-order"
    columns = {"correct_caption": TRUE}
    columns |= {f"hard_text_{k}": [f"{text} {k}" for text in FALSE] for k in (1, 2, 3, 4)}
    write_split(folder / "data", "test", [png(numbered(row)) for row in range(N)], columns)
    write_manifest(folder, "synrep-bench/scenes-order", {"test": N})


def images_of(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def measure(subject, evaluation=RELATION) -> DatasetScores:
    ((name, scores),) = evaluation(subject).items()
    assert isinstance(scores, DatasetScores)
    assert list(evaluation.values(name, scores.predictions).items()) == [
        (score, part.value) for score, part in scores.scores.items()
    ]
    return scores


def reader(right=lambda number: True) -> Double:
    """Return a model that reads the number in the image and prefers the true caption if `right(number)`."""

    def image(images, row):
        return np.eye(2 * N)[number_of(images.read(row))]

    def text(caption):
        number = int(caption.split("object ")[1].split()[0])
        expected = caption.startswith("object") == right(number)
        return np.eye(2 * N)[number if expected else number + N]

    return Double(image, text)


def test_a_perfect_model_scores_one_on_the_cropped_box(mirror):
    write_relation(mirror)
    scores = measure(reader())
    assert scores.scores["micro"].value == scores.scores["macro"].value == 1.0
    assert (scores.scores["micro"].n, scores.chance, scores.details["ties"]) == (N, 0.5, 0)
    assert scores.details["cropped"] is True


def test_micro_averages_rows_and_macro_averages_relations(mirror):
    write_relation(mirror)
    scores = measure(reader(lambda number: number < 4))
    assert scores.scores["micro"].value == pytest.approx(4 / 12)
    assert scores.scores["macro"].value == pytest.approx(1 / 2)
    assert {name: (score.value, score.n) for name, score in scores.per_class.items()} == {
        "above": (1.0, 4),
        "below": (0.0, 8),
    }
    assert (scores.predictions["margin"] > 0).tolist() == [row < 4 for row in range(N)]


@pytest.mark.parametrize("dimensions", [5, 33, 96])
def test_a_constant_model_scores_zero(mirror, dimensions):
    write_relation(mirror)
    write_order(mirror)
    for evaluation in (RELATION, ORDER):
        scores = measure(constant(dimensions), evaluation)
        assert scores.scores["micro"].value == 0.0
        assert scores.details["ties"] == N
        assert (scores.predictions["margin"] == 0).all()


def test_a_tie_is_wrong(mirror):
    """Row 3 has equal captions, which no model can distinguish."""
    write_relation(mirror, true=[FALSE[3] if row == 3 else text for row, text in enumerate(TRUE)])
    scores = measure(reader())
    assert scores.scores["micro"].value == pytest.approx(11 / 12)
    assert scores.details["ties"] == scores.details["false_caption_equals_true"] == 1
    assert scores.predictions["margin"][3] == 0


def test_the_true_caption_must_beat_all_four_false_ones(mirror):
    write_order(mirror)
    assert measure(reader(), ORDER).scores["micro"].value == 1.0
    assert measure(reader(), ORDER).chance == 0.2
    for rival in (1, 2, 3, 4):
        subject = reader()
        text = subject._text
        subject._text = lambda caption, text=text, rival=rival: (
            3 * np.eye(2 * N)[int(caption.split()[3])] if caption.endswith(f" {rival}") else text(caption) + 0.1
        )
        assert measure(subject, ORDER).scores["micro"].value == 0.0


@pytest.mark.slow
def test_noise_is_at_chance(mirror):
    write_relation(mirror)
    write_order(mirror)
    for evaluation, chance in ((RELATION, 1 / 2), (ORDER, 1 / 5)):
        shares = [measure(noise(16, seed), evaluation).scores["micro"].value for seed in range(60)]
        assert abs(np.mean(shares) - chance) < 0.06


def test_margin_is_the_difference_of_cosines(mirror):
    write_relation(mirror)
    scores, subject = measure(noise(16, 5)), noise(16, 5)
    crops, image_of = distinct_crops(open_split("scenes-relation", "test"), DATASETS["scenes-relation"])
    images = subject.image_embeddings(crops)[image_of]
    texts = subject.text_embeddings([*TRUE, *FALSE])
    expected = np.einsum("nd,nd->n", images, texts[:N]) - np.einsum("nd,nd->n", images, texts[N:])
    assert scores.predictions["margin"] == pytest.approx(expected, abs=1e-6)


def test_each_image_and_box_is_encoded_once(mirror):
    boxes = [(0, 0, 3, 2), (4, 4, 3, 2)] * 6
    both = numbered(999, size=8)
    both[:2, :3], both[4:6, 4:7] = numbered(0)[0, 0], numbered(1)[0, 0]
    write_relation(mirror, boxes, images=[png(both)] * N)
    crops, image_of = distinct_crops(open_split("scenes-relation", "test"), DATASETS["scenes-relation"])
    assert len(crops) == crops.identity.n == 2
    assert image_of.tolist() == [0, 1] * 6
    assert [number_of(crops.read(row)) for row in (0, 1)] == [0, 1]
    details = measure(noise(4)).details
    assert (details["distinct_images"], details["distinct_texts"]) == (2, 2 * N)


def test_an_error_names_the_row_of_a_box_outside_the_image(mirror):
    images = [framed(row, 0, 0) for row in range(N)]
    write_relation(mirror, [(0, 0, 3, 2)] * 5 + [(8, 0, 3, 2)] + [(0, 0, 3, 2)] * 6, images=images)
    with pytest.raises(UserError, match=r"scenes-relation row 5: box x 8, y 0, .* image of 8 x 8 pixels"):
        measure(reader())
    write_relation(mirror, [(-1, -1, 3, 2)] * N, images=images)  # partly outside: black there, as in the official code
    crops, _ = distinct_crops(open_split("scenes-relation", "test"), DATASETS["scenes-relation"])
    crop = crops.read(0)
    assert crop.shape == (2, 3, 3)
    assert not crop[0].any() and not crop[:, 0].any()
    assert (crop[1, 1:] == images_of(images[0])[0, :2]).all()


def test_the_identity_depends_on_captions_and_boxes(mirror):
    write_relation(mirror)
    first = open_split("scenes-relation", "test").identity.ids_sha256
    write_relation(mirror, true=[*TRUE[:-1], "another"])
    second = open_split("scenes-relation", "test").identity.ids_sha256
    write_relation(mirror, boxes=[(0, 0, 3, 2)] * N)
    assert len({first, second, open_split("scenes-relation", "test").identity.ids_sha256}) == 3


def test_skip_without_a_text_tower():
    subject = noise(4)
    assert STRICT.skip(subject) is None
    subject.embeds_texts = False
    assert STRICT.skip(subject).code == SkipCode.NO_TEXT_TOWER


def test_feature_files_have_a_row_per_distinct_crop(mirror):
    """As documented in docs/guide/evaluation.md; the error names the file."""
    write_relation(mirror, boxes=[(row // 2 % 5, row // 2 % 6, 3, 2) for row in range(N)], images=[framed(0, 0, 0)] * N)
    crops, _ = distinct_crops(open_split("scenes-relation", "test"), DATASETS["scenes-relation"])
    texts = [*TRUE, *FALSE]
    folder = mirror / "features"
    (folder / "scenes-relation").mkdir(parents=True)
    np.save(folder / "scenes-relation" / "other.npy", np.ones((1, 3), np.float32))
    card = {"name": "mine", "layer": "embedding", "transform": {"zoom": 1.0, "interpolation": "bicubic"}}
    (folder / "features.json").write_text(json.dumps(card))
    vectors = [[1.0, 0.0]] * N + [[0.0, 1.0]] * N
    pq.write_table(pa.table({"text": texts, "embedding": vectors}), folder / "texts.parquet")
    with pytest.raises(UserError, match=r"no file .*scenes-relation/test, distinct crops\.embedding\.npy, which"):
        measure(load(str(folder)).model)
    path = folder / crops.name / f"{crops.identity.split}.embedding.npy"
    assert path.name == "test, distinct crops.embedding.npy" and len(crops) == N // 2
    np.save(path, np.tile(np.float32([2, 1]), (N, 1)))
    with pytest.raises(UserError, match=rf"expected {N // 2} rows for split test, distinct crops of .*, found {N}"):
        measure(load(str(folder)).model)
    np.save(path, np.tile(np.float32([2, 1]), (N // 2, 1)))
    assert measure(load(str(folder)).model).scores["micro"].value == 1.0
