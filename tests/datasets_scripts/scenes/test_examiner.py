"""What the examiner reads, what it was trained on, and how it is trained."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from benchmark.images import decode_image
from datasets_scripts import recipe
from datasets_scripts.generation import provenance
from datasets_scripts.generation.generate import encode
from datasets_scripts.scenes import evaluation_sets, examiner, grammar, renderer, train_examiner
from datasets_scripts.scenes.examiner import Factors

PAIR = "a large red striped star {} a small blue plain circle on sand"


def rendered(captions: list[str]) -> tuple[np.ndarray, Factors]:
    scenes = [grammar.parse(caption) for caption in captions]
    renderings = [renderer.render(caption, number) for number, caption in enumerate(captions)]
    return np.stack([each.image for each in renderings]), examiner.truth(scenes, renderings)


@pytest.mark.parametrize(
    ("relation", "layout", "order"),
    [("left of", 1, ["star", "circle"]), ("right of", 1, ["circle", "star"]),
     ("above", 2, ["star", "circle"]), ("below", 2, ["circle", "star"])],
)  # fmt: skip
def test_slot_a_is_the_left_or_the_upper_object(relation: str, layout: int, order: list[str]) -> None:
    _, true = rendered([PAIR.format(relation)])
    assert true.layout.tolist() == [layout]
    assert [grammar.SHAPES[each] for each in true.attributes[0, :, 3]] == order
    axis = layout - 1
    assert true.position[0, 0, axis] < true.position[0, 1, axis]
    assert np.isnan(true.rotation[0]).tolist() == [shape == "circle" for shape in order]
    reds = [(hue + 180) % 360 - 180 for hue, shape in zip(true.hue[0], order) if shape == "star"]
    assert -8 <= reds[0] <= 4


def test_the_shipped_examiner_reads_renderings() -> None:
    """Weights learned from other images than rendered ones do not."""
    images, true = train_examiner.rendered_batch("test", 0)
    found = examiner.read(images)
    for name, score in train_examiner.accuracy(found, true).items():
        assert score.value > 0.98, name
    errors = train_examiner.errors(found, true)
    assert errors["position, pixels"] < 1
    assert errors["rotation, degrees"] < 2
    assert errors["hue, degrees"] < 3
    absent = true.layout == 0
    assert (found.attributes[absent, 1] == -1).all()
    assert np.isnan(found.hue[absent, 1]).all()


def test_reading_depends_neither_on_the_batch_nor_on_the_order() -> None:
    images, _ = rendered([grammar.scene(number * 100_003).caption for number in range(6)])
    together = examiner.read(images)
    alone = Factors.concatenate([examiner.read(images[n : n + 1]) for n in range(6)])
    assert (together.attributes == alone.attributes).all()
    np.testing.assert_allclose(together.position, alone.position, atol=1e-3)


def test_the_weights_name_the_renderer_of_this_version() -> None:
    with safe_open(examiner.WEIGHTS, "pt") as file:
        assert file.metadata() == train_examiner.declaration()
    assert f"world {grammar.VERSION}" in train_examiner.declaration()["images"]
    assert examiner.WEIGHTS.stat().st_size < 2e6


def test_training_images_are_renderings_of_the_declared_seeds() -> None:
    images, true = train_examiner.TrainingBatches()[3]
    for place in (0, 1, 2, 3, 95):
        number = 3 * train_examiner.BATCH + place
        scene, seed = train_examiner.scene("train", number), train_examiner.image_seed("train", number)
        rendering = renderer.render(scene.caption, seed)
        smoothed = place // 2 % 2 == 1
        expected = train_examiner.smooth(rendering.image, seed) if smoothed else rendering.image
        assert (images[place] == expected).all()
        assert true.layout[place] == examiner.slots(scene)[0]
        assert (scene.second is None) == (number % 2 == 1)
        assert grammar.BACKGROUNDS[true.background[place]] == scene.background


def test_a_smoothed_copy_is_smoother_and_still_the_same_scene() -> None:
    image = renderer.render(PAIR.format("above"), 0).image
    copy = train_examiner.smooth(image, 0)
    roughness = [np.abs(np.diff(each.astype(float), axis=1)).mean() for each in (image, copy)]
    assert roughness[1] < 0.8 * roughness[0]
    assert np.abs(image.astype(float) - copy).mean() < 10


def test_no_image_of_the_examiner_is_one_of_a_dataset() -> None:
    count = train_examiner.STEPS * train_examiner.BATCH
    own = {train_examiner.image_seed("train", number) for number in range(count)}
    held_out = {train_examiner.image_seed("test", number) for number in range(train_examiner.TEST_BATCHES * 96)}
    others = {
        recipe.seed_of(name, split, number)
        for name in evaluation_sets.SETS
        for split in ("train", "test")
        for number in range(3_000)
    }
    for name in ("toy", "toy-real"):
        chosen = recipe.find(name)
        others |= {
            recipe.image_seed(chosen.revision, caption.caption_id, k)
            for caption in chosen.captions
            for k in range(chosen.images_per_caption)
        }
    assert len(own) == count
    assert not own & held_out
    assert not (own | held_out) & others


def test_what_an_image_does_not_show_has_no_loss() -> None:
    network = examiner.Examiner().eval()
    images, true = rendered(["a small red plain circle on sand"])
    found = {name: values.detach() for name, values in network(examiner.as_input(images)).items()}
    before = train_examiner.losses(found, true)
    for name in grammar.ATTRIBUTES:
        found[name][:, 1] += 9 * torch.randn_like(found[name][:, 1])
    found["measures"][:, 1] += 9
    found["measures"][:, 0, 2] += 9  # the rotation of a circle
    assert train_examiner.losses(found, true) == before
    found["measures"][:, 0, 0] += 9
    assert train_examiner.losses(found, true)["measures"] > before["measures"] + 1


@pytest.mark.slow
def test_training_is_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_examiner, "BATCH", 8)
    lines: list[dict[str, float]] = []
    first, second = (train_examiner.train(2, lines.append).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [line["step"] for line in lines] == [0, 1, 0, 1]
    assert lines[0]["colour"] == pytest.approx(np.log(len(grammar.COLOURS)), rel=0.2)


@pytest.mark.slow
def test_jpeg_of_quality_90_does_not_change_what_is_read() -> None:
    images, true = train_examiner.rendered_batch("test", 1)
    copies = [decode_image(encode(image, provenance.ALGORITHMIC)) for image in images]
    scores = train_examiner.accuracy(examiner.read(np.stack(copies)), true)
    assert min(score.value for score in scores.values()) > 0.97
