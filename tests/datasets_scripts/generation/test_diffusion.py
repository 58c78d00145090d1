"""Stable Diffusion and other pipelines, with random weights of the real classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from benchmark.errors import UserError
from datasets_scripts.generation import diffusion
from datasets_scripts.generation.diffusion import Diffusers, StableDiffusion
from datasets_scripts.text_to_image import Cost
from tests.fixtures import tiny_diffusion
from tests.fixtures.tiny_diffusion import SIDE

pytestmark = pytest.mark.slow

STEPS = 6
CAPTIONS = ["a cat"] * 3 + ["a dog on a mat"] * 3 + ["a cat"]
SEEDS = [2**64 - 1, 7, 2**63, 11, 5, 6, 12]
GUIDANCE = [2.0, 3.0, 8.0, 2.0, 1.0, 12.0, 4.5]
FIRST = StableDiffusion(model="", revision="", steps=STEPS, size=SIDE, stored=SIDE, dtype="float32", batch=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_diffusion.stable_diffusion(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tiny(folder):
    return replace(FIRST, model=folder)


@pytest.fixture(scope="module")
def pipeline(folder):
    """The pipeline of diffusers with the same weights and DDIM, without a safety checker."""
    loaded = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    loaded.scheduler = DDIMScheduler.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def noise(seed):
    """Return the noise of a seed, computed with NumPy only."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return torch.from_numpy(generator.standard_normal((1, 4, SIDE // 2, SIDE // 2), np.float32))


def single(pipeline, caption, seed, guidance, **options):
    """Generate one image with the pipeline of diffusers."""
    return pipeline(
        [caption],
        latents=noise(seed),
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        height=SIDE,
        width=SIDE,
        output_type="np",
        **options,
    )


def mixed(tiny):
    """Return the latents of six images with different guidance, generated in one batch."""
    networks = diffusion._networks(tiny)
    with torch.no_grad():
        return networks._denoise(networks.encode(CAPTIONS[:6]), networks.noise(SEEDS[:6]), GUIDANCE[:6])


def test_batch_with_per_image_guidance_matches_single_pipeline_runs(tiny, pipeline):
    latents = mixed(tiny)
    for place in range(6):
        options = {"latents": noise(SEEDS[place]), "guidance_scale": GUIDANCE[place], "output_type": "latent"}
        alone = pipeline(CAPTIONS[place], num_inference_steps=STEPS, height=SIDE, width=SIDE, **options).images[0]
        assert (latents[place] - alone).abs().max() < 1e-5, GUIDANCE[place]


def test_guidance_moves_the_image(tiny):
    """Guidance must have an effect, otherwise the previous test is meaningless."""
    two, eight = (next(tiny(["a cat"], [1], [value])).image.astype(int) for value in (2.0, 12.0))
    assert np.abs(two - eight).max() > 3


def test_images_match_the_pipeline_in_input_order(tiny, pipeline):
    drawn = list(tiny(CAPTIONS, SEEDS, GUIDANCE))
    assert len(drawn) == len(CAPTIONS)
    for place, result in enumerate(drawn):
        alone = single(pipeline, CAPTIONS[place], SEEDS[place], GUIDANCE[place]).images[0]
        difference = np.abs(alone * 255 - result.image)
        assert result.status == "ok" and difference.max() < 0.502, place


def test_v_prediction_model_matches_its_pipeline(tmp_path):
    """Stable Diffusion 2.1 predicts velocity."""
    name = tiny_diffusion.stable_diffusion(tmp_path, checker=False, prediction="v_prediction")
    own = StableDiffusionPipeline.from_pretrained(name)
    own.scheduler = DDIMScheduler.from_config(own.scheduler.config)
    own.set_progress_bar_config(disable=True)
    (drawn,) = replace(FIRST, model=name)(["a cat"], [3], [4.0])
    assert np.abs(single(own, "a cat", 3, 4.0).images[0] * 255 - drawn.image).max() < 0.51
    assert drawn.nsfw is None, "there is no checker"


def test_an_image_depends_on_caption_seed_and_guidance_and_not_on_its_batch(tiny):
    drawn = [result.image.astype(int) for result in tiny(CAPTIONS, SEEDS, GUIDANCE)]
    turned = [result.image.astype(int) for result in tiny(CAPTIONS[::-1], SEEDS[::-1], GUIDANCE[::-1])][::-1]
    for one, other in zip(drawn, turned, strict=True):
        assert np.abs(one - other).max() <= 1
    changed = list(tiny(CAPTIONS, [*SEEDS[:-1], 13], GUIDANCE))
    assert np.abs(changed[-1].image.astype(int) - drawn[-1]).max() > 1


def test_generation_is_deterministic(tiny):
    once, again = ([result.image.tobytes() for result in tiny(CAPTIONS, SEEDS, GUIDANCE)] for _ in range(2))
    assert once == again


def test_each_caption_is_encoded_once(tiny, monkeypatch):
    networks = diffusion._networks(tiny)
    encoded = []
    encode = networks.encode
    monkeypatch.setattr(networks, "encode", lambda captions: encoded.extend(captions) or encode(captions))
    list(tiny(CAPTIONS, SEEDS, GUIDANCE))
    assert encoded == ["a cat", "a dog on a mat"]


def test_batches_are_padded_to_one_shape_and_padding_is_dropped(tiny, monkeypatch):
    networks = diffusion._networks(tiny)
    shapes = []
    denoise = networks._denoise
    monkeypatch.setattr(
        networks, "_denoise", lambda *args: shapes.append([len(each) for each in args]) or denoise(*args)
    )
    assert len(list(tiny(CAPTIONS, SEEDS, GUIDANCE))) == 7
    assert shapes == [[4, 4, 4]] * 2
    assert list(diffusion.padded_batches(range(7), 4)) == [[0, 1, 2, 3], [4, 5, 6, 6]]


def test_next_batch_is_launched_before_the_previous_is_returned(tiny, monkeypatch):
    """On a GPU, the CPU finishes images during the generation of the next batch."""
    networks = diffusion._networks(tiny)
    happened = []
    launch = networks.launch
    monkeypatch.setattr(networks, "launch", lambda *args: happened.append("launch") or launch(*args))
    for _ in tiny(CAPTIONS, SEEDS, GUIDANCE):
        happened.append("image")
    assert happened == ["launch", "launch", *["image"] * 7]


def test_unguided_sampling_runs_the_network_once_per_step(tiny, monkeypatch):
    networks = diffusion._networks(tiny)
    rows = []
    unet = networks.unet
    monkeypatch.setattr(networks, "unet", lambda seen, *args, **kw: rows.append(len(seen)) or unet(seen, *args, **kw))
    list(tiny(CAPTIONS[:4], SEEDS[:4], [1.0] * 4))
    assert rows == [4] * STEPS
    rows.clear()
    list(tiny(CAPTIONS[:4], SEEDS[:4], [1.0, 2.0, 1.0, 1.0]))
    assert rows == [8] * STEPS


def test_noise_is_sampled_on_cpu_in_float32(tiny):
    networks = diffusion._networks(tiny)
    drawn = networks.noise([2**64 - 1, 5])
    assert drawn.dtype == torch.float32 and drawn.device.type == "cpu"
    assert torch.equal(drawn[1:], noise(5)) and torch.equal(drawn[:1], noise(2**64 - 1))
    assert abs(float(drawn.mean())) < 0.1 and abs(float(drawn.std()) - 1) < 0.1


def test_all_64_seed_bits_are_used(tiny):
    """torch's CPU generator would produce the same noise for all of these seeds."""
    seeds = [5 + (k << 32) for k in range(4)]
    drawn = diffusion._networks(tiny).noise(seeds)
    assert len({each.numpy().tobytes() for each in drawn}) == 4
    images = [result.image.tobytes() for result in tiny(["a cat"] * 4, seeds, [2.0] * 4)]
    assert len(set(images)) == 4


def test_cost_matches_counted_flops():
    """TFLOP of one image on the real configurations: 82.8 at 512 pixels, 220.7 at 768 and 18.6 at 256."""
    first = StableDiffusion()
    assert first.cost.teraflops == pytest.approx(82.8, rel=0.001)
    assert replace(first, size=768).cost.teraflops == pytest.approx(220.7, rel=0.1)
    assert replace(first, size=256).cost.teraflops == pytest.approx(18.6, rel=0.1)
    assert replace(first, steps=25).cost.teraflops == pytest.approx(25 * 2 * 0.803 + 2.515, rel=0.001)
    assert first.cost.bytes == 18_000 and replace(first, stored=512).cost.bytes - 1_000 == 4 * 17_000
    on_cpu = replace(first, core_seconds=0.1).cost
    assert (on_cpu.teraflops, on_cpu.core_seconds, on_cpu.bytes) == (0.0, 0.1, 18_000)


@pytest.mark.parametrize("special", [-1.0, 1.0], ids=["special care everywhere", "special care nowhere"])
def test_nsfw_score_matches_the_safety_checker(tiny, pipeline, folder, monkeypatch, special):
    """Thresholds are set such that the checker flags half of the images."""
    seeds, captions = list(range(24)), ["a cat"] * 24
    checker = diffusion._networks(tiny).pipeline.safety_checker
    checker.special_care_embeds_weights.data.fill_(special)
    middle = np.median([result.nsfw for result in tiny(captions, seeds, [6.0] * 24)])
    before = checker.concept_embeds_weights.data.clone()
    monkeypatch.setattr(checker.concept_embeds_weights, "data", before + middle)
    monkeypatch.setattr(pipeline, "safety_checker", checker)
    drawn = list(tiny(captions, seeds, [6.0] * 24))
    flagged = []
    for seed, result in zip(seeds, drawn, strict=True):
        checked = single(pipeline, "a cat", seed, 6.0)
        flagged.append(checked.nsfw_content_detected[0])
        if abs(result.nsfw) > 0.003:  # the checker resizes images with another routine
            assert (result.nsfw > 0) == flagged[-1], result.nsfw
        assert result.image.any(), "a flagged image is kept"
    scores = np.array([result.nsfw for result in drawn])
    assert any(flagged) and not all(flagged) and (np.abs(scores) > 0.003).sum() > 12


def test_non_finite_image_has_a_status_and_others_are_generated(tiny, monkeypatch):
    networks = diffusion._networks(tiny)
    denoise = networks._denoise

    def broken(*args):
        latents = denoise(*args)
        latents[2] = float("nan")
        return latents

    monkeypatch.setattr(networks, "_denoise", broken)
    drawn = list(tiny(CAPTIONS[:4], SEEDS[:4], GUIDANCE[:4]))
    assert [result.status for result in drawn] == ["ok", "ok", "not finite", "ok"]
    assert [result.image is None for result in drawn] == [False, False, True, False]


def test_images_are_resized_with_pillow_bicubic(tiny):
    large, small = (next(iter(each(["a cat"], [1], [2.0]))).image for each in (tiny, replace(tiny, stored=20)))
    assert large.shape == (SIDE, SIDE, 3) and small.shape == (20, 20, 3)
    expected = Image.fromarray(large).resize((20, 20), Image.Resampling.BICUBIC)
    assert (np.asarray(expected) == small).all()


def test_long_captions_are_truncated(tiny):
    (drawn,) = tiny(["a cat on a mat " * 60], [1], [2.0])
    assert drawn.image.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "x"},
        {"revision": "x"},
        {"steps": 51},
        {"size": 256},
        {"stored": 512},
        {"dtype": "float16"},
        {"batch": 8},
    ],
    ids=str,
)
def test_every_pixel_setting_is_in_the_name(change):
    assert replace(StableDiffusion(), **change).name != StableDiffusion().name


def test_default_is_the_sampler_of_the_paper_on_a_pinned_model():
    draw = StableDiffusion()
    assert draw.model == "stable-diffusion-v1-5/stable-diffusion-v1-5" and len(draw.revision) == 40
    assert (draw.steps, draw.size, draw.stored) == (50, 512, 256)
    assert "DDIM 50 steps eta 0" in draw.name


def test_other_pipelines_use_their_own_scheduler(folder):
    cost = Cost(bytes=1_000, teraflops=1.0)
    drawer = Diffusers(
        cost=cost, model=folder, revision="", terms=(), steps=STEPS, size=SIDE, stored=SIDE, dtype="float32", batch=2
    )
    own = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    own.set_progress_bar_config(disable=True)
    drawn = list(drawer(CAPTIONS, SEEDS, GUIDANCE))
    for place, result in enumerate(drawn):
        alone = own(
            CAPTIONS[place],
            generator=torch.Generator().manual_seed(SEEDS[place]),
            guidance_scale=GUIDANCE[place],
            num_inference_steps=STEPS,
            height=SIDE,
            width=SIDE,
            output_type="np",
        ).images[0]
        assert np.abs(alone * 255 - result.image).max() < 0.51, place


def test_missing_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    missing = replace(FIRST, model="nobody/nothing", revision="0" * 40)
    with pytest.raises(UserError, match=r"^cannot load nobody/nothing at revision 0+: it is not in the cache"):
        list(missing(["a cat"], [1], [2.0]))


def test_invalid_model_folder_is_one_line(tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot load .*choose another model in the recipe"):
        list(replace(FIRST, model=str(tmp_path))(["a cat"], [1], [2.0]))


def test_networks_compile_to_one_graph_each(folder):
    """As on a GPU: no graph breaks, and no recompilation for later batches."""
    whole = replace(FIRST, model=folder, steps=STEPS + 1)  # networks of its own
    plain = [result.image.astype(int) for result in whole(CAPTIONS, SEEDS, GUIDANCE)]
    networks = diffusion._networks(whole)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    networks.unet = torch.compile(networks.unet, fullgraph=True, backend="eager")
    networks.decode = torch.compile(networks.decode, fullgraph=True, backend="eager")
    compiled = [result.image.astype(int) for result in whole(CAPTIONS, SEEDS, GUIDANCE)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(plain, compiled, strict=True))
    diffusion._networks.cache_clear()
