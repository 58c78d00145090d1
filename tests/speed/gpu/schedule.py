"""The parts, the most valuable first, with the seconds after which each is stopped; most need fewer."""

from tests.speed.gpu import decoders, features, generation, probes, training
from tests.speed.gpu.card import card
from tests.speed.gpu.parts import Part
from tests.speed.gpu.sizes import Sizes

RATE = ("ms", "views_per_second", "tflops", "share_of_peak")
PROFILE = ("kernels_ms", "attention")


def parts(sizes: Sizes) -> list[Part]:
    """All parts for these sizes; the step on several GPUs where there are several."""
    peak = ("copy_gb_per_second", "host_to_device_gb_per_second", "peak_tflops", "sustained_tflops")
    segmentation = [key for preset in decoders.PRESETS for key in (preset.preset, f"{preset.preset}_hours")]
    networks = ("unet_error", "unet_ms", "unet_tflops", *PROFILE, "vae_ms", "vae_tflops")
    images = (*networks, "images_per_second", "tflops", "share_of_peak", "plain_images_per_second", "times_plain")
    variants = [
        Part(
            f"step-{scope}-{backend.lower()}",
            50 if scope == "blocks" else 90,
            training.variant(scope, backend),
            (*RATE, *PROFILE),
        )
        for scope in training.SCOPES
        for backend in sizes.attention
    ]
    several = Part("several", 45, training.several, ("processes", *RATE))
    return [
        Part("card", 30, card, ("date", "card", "driver", "versions", *peak)),
        Part("correct", 70, training.correct, ("views_difference", "loss_error", "features_error")),
        Part("step", 75, training.step, ("apply_ms", *RATE, "with_apply_ms", *PROFILE, "apply_kernels_ms")),
        Part("loop", 110, training.whole_loop, ("workers", *RATE)),
        Part("images", 220, generation.whole, images),
        Part("reading", 40, training.reading, ("views_per_second",)),
        Part("features", 110, features.alone, ("features_error", "images_per_second", "tflops", "share_of_peak")),
        Part("jpegs", 60, features.from_jpegs, ("features_error", "threads", "images_per_second")),
        Part("memory", 70, training.memory, ("peak_gb", "mb_per_view")),
        Part("sliced", 120, training.sliced_loop, ("workers", *RATE)),
        Part("decoders", 100, decoders.decoders, ("threads", "crops_per_second", *segmentation)),
        *variants,
        Part("knn", 30, probes.neighbors, ("seconds", "queries_per_second", "right")),
        Part("heads", 25, probes.heads, ("ms_per_step", "hours_of_heads", "right")),
        Part("logistic", 60, probes.regression, ("penalties", "of", "seconds", "seconds_per_product")),
        Part("losses", 20, training.losses, ("loss_ms", "mb")),
        Part("saving", 20, training.saving, ("seconds_per_save", "gb", "share_of_time_at_most")),
        Part("networks", 170, generation.static, ("networks",)),
        *[several] * (sizes.processes > 1),
    ]
