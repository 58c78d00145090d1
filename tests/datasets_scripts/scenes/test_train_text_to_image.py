"""Training of the text-to-image model: pairing, seeds, guidance, resumption, and the shipped folder."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors import safe_open
from torch import nn
from transformers import CLIPTokenizer

from benchmark.files import read_json
from datasets_scripts import recipe
from datasets_scripts.generation.pipelines import BUNDLED
from datasets_scripts.scenes import diffusion_networks, evaluation_sets, grammar, renderer, train_examiner
from datasets_scripts.scenes import train_text_to_image as trainer

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def words():
    return trainer.tokenizer()


# Captions and images


def test_every_word_of_the_grammar_is_one_token(words):
    texts = {grammar.scene(index).caption for index in range(0, grammar.CAPTIONS, 200_003)}
    texts |= {grammar.scene(index).caption for index in range(0, grammar.SINGLES, 5)}
    for text in texts:
        assert len(words(text).input_ids) == len(text.split()) + 2, text
    assert max(len(text.split()) for text in texts) + 2 <= diffusion_networks.TOKENS


def test_other_words_are_spelled_and_long_texts_truncated(words):
    assert words.convert_ids_to_tokens(words("A dog").input_ids)[1:-1] == ["a", "d", "o", "g</w>"]
    assert trainer.tokenize(words, ["sand " * 10_000, ""]).shape == (2, diffusion_networks.TOKENS)


def test_tokens_are_those_of_the_pipeline(words):
    pipeline = trainer.assemble(trainer.autoencoder(), trainer.Denoiser(words), words)
    text = grammar.scene(5_000_000).caption
    encoded_1TD, empty_1TD = pipeline.encode_prompt(text, "cpu", 1, True)
    with torch.no_grad():
        expected_2TD = pipeline.text_encoder(trainer.tokenize(words, [text, ""])).last_hidden_state
    torch.testing.assert_close(torch.cat([encoded_1TD, empty_1TD]), expected_2TD)


class Thumbnails(nn.Module):
    """In place of an autoencoder: the latents are the image at an eighth of its size."""

    device = torch.device("cpu")

    def encode(self, images_B3HW):
        mean = nn.functional.avg_pool2d(images_B3HW, 8)
        return type("Output", (), {"latent_dist": type("Posterior", (), {"mean": mean})})


def test_latents_and_captions_of_a_row_belong_together(words):
    numbers = range(40, 70)
    latents_NChw = trainer.encode_latents(Thumbnails(), numbers)
    tokens_NT = trainer.encode_captions(words, numbers)
    assert len(tokens_NT) == len(numbers) + 1
    for row, number in enumerate(numbers):
        text = " ".join(words.convert_ids_to_tokens(tokens_NT[row], skip_special_tokens=True))
        image = renderer.render(text, trainer.image_seed(number)).image / 127.5 - 1
        np.testing.assert_allclose(
            latents_NChw[row].numpy(), image.reshape(8, 8, 8, 8, 3).mean((1, 3)).transpose(2, 0, 1), atol=1e-5
        )
    assert words.convert_ids_to_tokens(tokens_NT[-1], skip_special_tokens=True) == []


def test_half_of_the_captions_have_two_objects_and_all_words_occur():
    scenes = [grammar.parse(trainer.caption(number)) for number in range(2_000)]
    assert abs(sum(scene.second is not None for scene in scenes) / 2_000 - grammar.PAIR_FRACTION) < 0.04
    assert {scene.relation for scene in scenes} == {None, *grammar.RELATIONS}
    things = [thing for scene in scenes for thing in scene.objects]
    for factor, known in grammar.ATTRIBUTES.items():
        assert {getattr(thing, factor) for thing in things} == set(known)
    assert {scene.background for scene in scenes} == set(grammar.BACKGROUNDS)


def test_no_evaluation_image_is_a_training_image():
    """Seeds of all evaluation images and of a dataset's against those of all training images."""
    images = max(trainer.LATENTS, trainer.AUTOENCODER.steps * trainer.AUTOENCODER.batch)
    training = {trainer.image_seed(number) for number in range(-32, images)}
    assert len(training) == images + 32
    counts = {"scenes-objects": ("train", "test"), "scenes-pairs": ("train", "test")}
    for name in evaluation_sets.SETS:
        for split in counts.get(name, ("test",)):
            assert training.isdisjoint(recipe.seed_of(name, split, number) for number in range(3_000))
    assert training.isdisjoint(train_examiner.image_seed("train", number) for number in range(150_000))
    for name in ("toy", "toy-real"):
        found = recipe.find(name)
        seeds = {recipe.image_seed(found.revision, caption.caption_id, 0) for caption in found.captions}
        assert training.isdisjoint(seeds)


# Losses


class Listener(nn.Module):
    """In place of the denoiser: notes its inputs."""

    def __init__(self):
        super().__init__()
        self.unet = type("UNet", (), {"device": torch.device("cpu")})
        self.heard = []

    def forward(self, noisy_BChw, timesteps_B, tokens_BT):
        self.heard.append((noisy_BChw, timesteps_B, tokens_BT))
        return noisy_BChw


def test_steps_pair_latents_with_their_captions_and_drop_a_tenth(monkeypatch):
    """Latents carry their row as a constant; without noise, it must be the row of the tokens."""
    count = 500
    monkeypatch.setattr(trainer, "DENOISER", dataclasses.replace(trainer.DENOISER, steps=60))
    monkeypatch.setattr(trainer.DDIMScheduler, "add_noise", lambda self, latents, noise, timesteps: latents)
    rows = torch.arange(count, dtype=torch.float32)
    tokens = torch.cat([torch.arange(count), torch.tensor([-1])])[:, None]
    listener = Listener()
    losses = trainer.denoiser_losses(listener, rows[:, None, None, None].expand(-1, 8, 8, 8), tokens, 0)
    assert len(list(losses)) == 60
    rows_heard = torch.cat([noisy[:, 0, 0, 0] for noisy, _, _ in listener.heard])
    tokens_heard = torch.cat([tokens[:, 0] for _, _, tokens in listener.heard])
    dropped = tokens_heard == -1
    assert (tokens_heard[~dropped] == rows_heard[~dropped]).all()
    assert len(rows_heard.unique()) > count * 0.9
    assert abs(dropped.float().mean() - trainer.CAPTION_DROPOUT) < 0.02


def test_the_velocity_of_pure_noise_is_minus_the_image_and_of_an_image_its_noise():
    """Salimans and Ho: v = alpha noise - sigma latents; the schedule ends at alpha 0."""
    schedule = trainer.scheduler()
    latents, noise = torch.randn(2, 1, 8, 8, 8)
    last = torch.tensor([999])
    assert torch.equal(schedule.add_noise(latents, noise, last), noise)
    torch.testing.assert_close(schedule.get_velocity(latents, noise, last), -latents)
    first = schedule.get_velocity(latents, noise, torch.tensor([0]))
    assert (first - noise).abs().max() < 0.05 * latents.abs().max()


def test_a_perfect_denoiser_has_no_loss():
    latents, schedule = torch.randn(64, 8, 8, 8), trainer.scheduler()
    alpha_T = schedule.alphas_cumprod**0.5

    def oracle(noisy, timesteps, tokens):
        """Return the velocity that leads to the known latents, except in pure noise, where it is minus the latents."""
        alpha = alpha_T[timesteps].view(-1, 1, 1, 1)
        sigma = (1 - alpha**2) ** 0.5
        return (alpha * noisy - latents) / sigma

    loss = trainer.denoiser_loss(oracle, schedule, latents, torch.zeros(64, 20), torch.Generator().manual_seed(0))
    assert loss < 1e-6
    half = trainer.denoiser_loss(
        lambda *inputs: oracle(*inputs) + 0.5, schedule, latents, torch.zeros(64, 20), torch.Generator().manual_seed(0)
    )
    assert half == pytest.approx(0.25, abs=1e-3)


def test_objects_weigh_more_than_the_background():
    class Identity:
        def encode(self, images):
            zero = torch.zeros(len(images), 1)
            posterior = type("P", (), {"mean": images * 0, "std": images * 0, "kl": lambda self: zero[:, 0]})
            return type("O", (), {"latent_dist": posterior()})

        def decode(self, latents):
            return type("O", (), {"sample": latents})

    images, coverage = torch.full((1, 3, 2, 2), 0.5), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    loss = trainer.autoencoder_loss(Identity(), images, coverage, torch.zeros(1, 3, 2, 2))
    assert loss == pytest.approx(0.5 * (1 + trainer.OBJECT_WEIGHT / 4))


def test_the_learning_rate_rises_linearly_and_falls_as_half_a_cosine():
    stage = trainer.Stage("test", steps=1_000, batch=1, learning_rate=2.0, warmup=100)
    assert stage.learning_rate_at(0) == pytest.approx(0.02)
    assert stage.learning_rate_at(500) == pytest.approx(1.0)
    assert stage.learning_rate_at(999) == pytest.approx(0, abs=1e-4)


@torch.no_grad()
def test_standardized_latents_have_unit_variance_and_the_same_reconstructions():
    torch.manual_seed(0)
    vae = trainer.autoencoder()
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    before = vae.encode(images).latent_dist
    noise = torch.randn(before.mean.shape)
    decoded = vae.decode(before.mean + before.std * noise).sample
    std_C, mean_C = torch.std_mean(before.mean, (0, 2, 3))
    trainer.standardize(vae, mean_C, std_C)
    after = vae.encode(images).latent_dist
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.decode(after.mean + after.std * noise).sample, decoded, atol=1e-4, rtol=1e-3)


# Training


def test_a_killed_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "LOG_STEPS", 2)
    monkeypatch.setattr(trainer, "SAMPLE_STEPS", 3)
    stage = trainer.Stage("test", steps=8, batch=4, learning_rate=0.1, warmup=2)

    def run(folder, killed_at=None):
        torch.manual_seed(0)
        network = nn.Linear(3, 1)

        def losses(start):
            for step in range(start, stage.steps):
                if step == killed_at:
                    raise KeyboardInterrupt
                inputs = torch.randn(stage.batch, 3, generator=trainer.generator(stage, step))
                yield (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()

        trainer.train(stage, network, losses, folder, lambda: trainer.sheet(torch.zeros(16, 3, 8, 8)))
        return network.state_dict(), [entry["loss"] for entry in json.loads((folder / "test_log.json").read_text())]

    whole, log = run(tmp_path / "whole")
    for killed_at in (1, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / str(killed_at), killed_at)
        resumed, resumed_log = run(tmp_path / str(killed_at))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole), killed_at
        assert log == resumed_log
    again, _ = run(tmp_path / "whole")
    assert all(torch.equal(whole[name], again[name]) for name in whole), "a finished training is kept"
    assert not torch.equal(whole["weight"], torch.load(tmp_path / "whole/test.pt")["network"]["weight"]), "averaged"


# The shipped folder

FOLDER = BUNDLED["synrep-bench/scenes-diffusion"]


def test_the_shipped_networks_are_those_of_the_script(words):
    denoiser = trainer.Denoiser(words)
    for name, network in {
        "vae": trainer.autoencoder(),
        "unet": denoiser.unet,
        "text_encoder": denoiser.text_encoder,
    }.items():
        (path,) = (FOLDER / name).glob("*.safetensors")
        with safe_open(path, "pt") as file:
            shipped = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            assert {file.get_slice(key).get_dtype() for key in shipped} == {"F16"}
        declared = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        assert shipped == {key: shape for key, shape in declared.items() if "position_ids" not in key}, name
    shipped_schedule = DDIMScheduler.from_pretrained(FOLDER / "scheduler")
    assert torch.equal(shipped_schedule.alphas_cumprod, trainer.scheduler().alphas_cumprod)
    for name in ("prediction_type", "timestep_spacing", "clip_sample", "set_alpha_to_one"):
        assert shipped_schedule.config[name] == trainer.scheduler().config[name]
    assert AutoencoderKL.load_config(FOLDER / "vae")["scaling_factor"] == 1.0
    shipped_words = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    texts = ["a large red striped star left of a small blue plain circle on the night sky", "", "a dog"]
    assert torch.equal(trainer.tokenize(shipped_words, texts), trainer.tokenize(words, texts))


def test_the_log_is_that_of_the_whole_training():
    log = read_json(ROOT / "results" / "scenes" / "text_to_image_log.json")
    for stage in (trainer.AUTOENCODER, trainer.DENOISER):
        steps = [entry["step"] for entry in log[stage.name]]
        assert steps == list(range(trainer.LOG_STEPS, stage.steps + 1, trainer.LOG_STEPS))
        assert log[stage.name][-1]["loss"] < 0.3 * log[stage.name][0]["loss"]
    hours = sum(log[stage.name][-1]["seconds"] for stage in (trainer.AUTOENCODER, trainer.DENOISER)) / 3600
    assert hours < 2.5


def test_the_card_states_the_measured_fidelity():
    measured = read_json(ROOT / "results" / "scenes" / "trade_off.json")["guidance"]["3"]["factors"]
    card = (FOLDER / "README.md").read_text()
    for name, share in measured.items():
        value, low, high = (f"{100 * share[key]:.1f}" for key in ("value", "low", "high"))
        assert f"| {name} | {value} [{low}, {high}] |" in card
