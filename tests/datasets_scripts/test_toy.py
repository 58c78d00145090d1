"""The toy recipes: what their images show, and the model that is part of the package."""

from dataclasses import replace

import numpy as np
import pytest

from datasets_scripts import recipe, toy
from datasets_scripts.building.estimate import rates
from datasets_scripts.generation import pipelines
from datasets_scripts.scenes import grammar, renderer


def test_toy_is_drawn_by_the_bundled_model_on_cpu_cores_at_the_guidance_of_the_paper():
    assert toy.TOY.text_to_image == toy.DIFFUSION and toy.DIFFUSION.model in pipelines.BUNDLED
    assert (toy.TOY.images_per_caption, toy.TOY.guidance) == (10, recipe.GUIDANCE["small"])
    assert toy.DIFFUSION.cost.teraflops == 0 and list(rates(toy.TOY)) == ["CPU core"]
    assert toy.DIFFUSION.iptc_source_type == "trainedAlgorithmicMedia"
    assert "/" not in toy.DIFFUSION.name.replace(toy.DIFFUSION.model, ""), "no path of a machine is in the revision"


def test_the_bundled_model_has_the_revision_of_the_recipe():
    """A new model is another dataset: write the found revision into `toy.py` and run `python -m tests.test_pins`."""
    toy.DIFFUSION.verify()


@pytest.mark.slow
def test_toy_images_have_the_size_of_the_scenes():
    captions = [caption.text for caption in toy.TOY.captions.take(2)]
    for drawn in replace(toy.DIFFUSION, batch=2)(captions, [1, 2], [2.0, 3.0]):
        assert drawn.status == "ok" and drawn.image.shape == (grammar.SIZE, grammar.SIZE, 3) and drawn.nsfw is None


def test_every_caption_of_toy_real_is_true():
    captions = [caption.text for caption in toy.REAL.captions][:20]
    for seed, (caption, drawn) in enumerate(zip(captions, toy.REAL.text_to_image(captions, range(20), [0.0] * 20))):
        assert (drawn.image == renderer.render(caption, seed).image).all()


def test_a_quarter_of_mislabeled_captions_has_one_wrong_word():
    captions = [caption.text for caption in toy.REAL.captions][:1_000]
    wrong = 0
    for seed, caption in enumerate(captions):
        said, seen = grammar.parse(caption), grammar.parse(toy.depicted_caption(caption, seed))
        words = [getattr(said.first, word) != getattr(seen.first, word) for word in vars(said.first)]
        assert sum(words) <= 1
        assert replace(seen, first=said.first) == said
        wrong += sum(words)
    assert abs(wrong / 1_000 - toy.WRONG_FRACTION) < 0.05


def test_mislabeled_scenes_show_the_depicted_caption():
    captions = [caption.text for caption in toy.REAL.captions][:40]
    different = 0
    for seed, drawn in enumerate(toy.RECIPES["toy-noisy"].text_to_image(captions, range(40), [0.0] * 40)):
        depicted = toy.depicted_caption(captions[seed], seed)
        assert (drawn.image == renderer.render(depicted, seed).image).all()
        different += bool(np.any(drawn.image != renderer.render(captions[seed], seed).image))
    assert 0 < different < 40


def test_each_toy_recipe_is_another_dataset():
    assert len({one.revision for one in toy.RECIPES.values()}) == len({one.name for one in toy.RECIPES.values()}) == 3
