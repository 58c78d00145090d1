"""Every official experiment at every size: it can be run, and compares what it should, at equal compute."""

import json
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from benchmark import plugins, schema
from benchmark.errors import UserError
from benchmark.experiments import _scales, demo, find, smoke
from benchmark.experiments._scales import SCALES, UNKNOWN_REVISION
from benchmark.interfaces import Experiment, Method
from benchmark.nn.encoders import build_vit
from benchmark.records import create
from datasets_scripts import recipe
from datasets_scripts.captions.prepare import PreparedCaptions
from datasets_scripts.generation.real_images import RealImages
from datasets_scripts.recipe import Recipe

FILES = ("ablations", "language", "main")
EVERY = [f"{file}-{size}" for file in FILES for size in SCALES]
DECLARED = [
    name
    for file in plugins.names("benchmark.experiments")
    for name in (
        [f"{file}-{size}" for size in SCALES]
        if callable(plugins.load("benchmark.experiments", file, "experiment").EXPERIMENTS)
        else [file]
    )
]
"""Every file in the folder, at every size."""
TOY_SIZES = [size for size in SCALES if SCALES[size].toy_world]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dataset and no captions are on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)


def recipe_of(experiment: Experiment) -> Recipe:
    return recipe.find(experiment.dataset.rpartition("/")[2])


def comparisons(experiments: tuple[Experiment, ...]) -> dict[str, list[Experiment]]:
    groups = groupby(experiments, lambda each: each.name.split("/")[0])
    return {name: list(group) for name, group in groups}


SCENES = "scenes"
"""Name of the one corpus of the toy world."""


def is_real(experiment: Experiment) -> bool:
    return "-real" in experiment.dataset


@pytest.mark.parametrize("name", EVERY)
def test_names_are_unique_lower_case_and_say_file_size_and_method(name: str) -> None:
    declared = find(name)
    names = [each.name for each in declared]
    assert len(set(names)) == len(names) > 4
    for each in declared:
        row = "untrained" if each.method == "untrained" else f"{each.method}-[a-z0-9]+"
        assert re.fullmatch(rf"{name}-[a-z0-9-]+/{row}", each.name)
    assert len(comparisons(declared)) == len({each.split("/")[0] for each in names})  # side by side


@pytest.mark.slow
def test_no_two_files_or_sizes_share_a_name() -> None:
    names = [each.name for name in DECLARED for each in find(name)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", DECLARED)
def test_every_run_can_be_run(name: str) -> None:
    """A batch holds whole captions, the dataset has enough of them, and enough images of each."""
    for each in find(name):
        data, sampling = recipe_of(each), each.settings.sampling
        assert data.repo == each.dataset
        captions = each.schedule.captions_per_batch(sampling)
        assert 2 <= captions <= data.captions.expected_count, each.name
        assert sampling.images <= data.images_per_caption, each.name
        assert each.schedule.steps >= 150
        assert sampling.augmentations
        assert type(each.settings).__module__ == f"baselines.{each.method}"


@pytest.mark.parametrize("name", DECLARED)
def test_compute_is_equal_within_a_comparison(name: str) -> None:
    for comparison, rows in comparisons(find(name)).items():
        one_method = len({row.method for row in rows}) == 1
        if not ("-epochs" in comparison and one_method):
            assert len({row.schedule for row in rows}) == 1, comparison
        if not (comparison.endswith("-encoder") and one_method):
            assert len({row.encoder for row in rows}) == 1, comparison


@pytest.mark.parametrize("name", EVERY)
def test_real_images_are_one_per_caption_and_for_methods_that_need_no_more(name: str) -> None:
    """In the toy world, there are ten for methods that need more."""
    real = [each for each in find(name) if is_real(each)]
    assert real
    for each in real:
        several = each.settings.sampling.images > 1
        assert not several or f"-real-{SCENES}/" in each.name
        assert recipe_of(each).images_per_caption == (10 if several else 1)


@pytest.mark.parametrize("name", EVERY)
def test_real_and_synthetic_differ_in_the_dataset_alone(name: str) -> None:
    pairs = {each.name.removesuffix("-real"): each for each in find(name) if each.name.endswith("-real")}
    found = {each.name: each for each in find(name)}
    for stem, real in pairs.items():
        if synthetic := found.get(f"{stem}-syn"):
            same = replace(synthetic, name=real.name, dataset=real.dataset, revision=real.revision)
            assert same == real and synthetic.dataset != real.dataset
            assert recipe_of(synthetic).images_per_caption == recipe_of(real).images_per_caption
            assert recipe_of(synthetic).captions.expected_count == recipe_of(real).captions.expected_count


@pytest.mark.parametrize("name", EVERY)
def test_the_revision_is_the_recipes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caption list counts as prepared."""
    monkeypatch.setattr(PreparedCaptions, "version", property(lambda self: f"{self.source.name} {self.count}"))
    monkeypatch.setattr(RealImages, "name", property(lambda self: "real images of some tars"))
    declared = find(name)
    assert [each.revision for each in declared] == [recipe_of(each).revision for each in declared]
    of = {each.dataset: each.revision for each in declared}
    assert len(set(of.values())) == len(of)


@pytest.mark.parametrize("name", EVERY)
def test_fingerprints_are_reproducible_and_unique(name: str) -> None:
    once, again = find(name), find(name)
    assert [create.fingerprint(each) for each in once] == [create.fingerprint(each) for each in again]
    assert len({create.fingerprint(each) for each in once}) == len(once)
    assert create.fingerprint(once[0]) != create.fingerprint(replace(once[0], revision="another"))


@pytest.mark.parametrize(("size", "processes"), [("100k", 1), ("1m", 8), ("full", 8), ("full", 32), ("full", 64)])
def test_the_processes_that_a_size_is_meant_for_share_its_batches(size: str, processes: int) -> None:
    for row in find(f"ablations-{size}") + (find(f"main-{size}") if processes < 64 else ()):
        assert row.schedule.captions_per_batch(row.settings.sampling) % processes == 0, row.name


# What is compared


@pytest.mark.parametrize("size", SCALES)
def test_methods_of_the_main_tables(size: str) -> None:
    clips = {"clip-real", "clip-syn"}
    expected = clips | {"simclr-real", "simclr-syn", "stablerep-syn"}
    groups = {
        name: {row.name.split("/")[1] for row in rows} for name, rows in comparisons(find(f"main-{size}")).items()
    }
    wanted = {}
    at_1x = {"stablerep_plus-syn", "mae-real", "mae-syn", "untrained"}
    for corpus in (SCENES,) if size in TOY_SIZES else ("cc12m", "redcaps"):
        for times, more in ((1, at_1x), (2, set()), (3, set())):
            wanted[f"main-{size}-{corpus}-{times}x"] = expected | more
            wanted[f"main-{size}-{corpus}-{times}x-published"] = clips
    assert groups == wanted and list(groups) == list(wanted)


MILLIONS = {"cc12m": 8.3, "redcaps": 10.5, "cc3m": 2.7, "laion": 8.3}
"""De-duplicated captions, in millions."""
EPOCHS_OF_SIX = {"cc12m": (15, 31, 46), "redcaps": (13, 27, 40), "laion": (15,)}
"""Epochs of the released README, over captions with six images each."""
DECLARED = {
    # comparison at full size: views in millions, images per caption and guidance of each synthetic dataset
    **{
        f"main-full-{corpus}-{times}x": (
            EPOCHS_OF_SIX[corpus][times - 1] * MILLIONS[corpus] * 6,
            {"simclr-syn": (1, 8), "clip-syn": (1, 2), "stablerep-syn": (10, 2, 3)}
            | ({"stablerep_plus-syn": (10, 2, 3), "mae-syn": (1, 6)} if times == 1 else {}),
        )
        for corpus in ("cc12m", "redcaps")
        for times in (1, 2, 3)
    },
    **{
        f"main-full-{corpus}-{times}x-published": (35 * times * pairs * 1, {"clip-syn": (1, 2)})
        for corpus, pairs in (("cc12m", 10.0), ("redcaps", 11.7))
        for times in (1, 2, 3)
    },
    "language-full-captions": (15 * 8.3 * 6, {f"stablerep_plus-{n}m": (2, 2) for n in (1, 3, 10, 20, 50)}),
    "language-full-guidance": (15 * 8.3 * 6, {f"clip-w{w}": (1, w) for w in (1, 2, 3, 4, 6, 8, 10)}),
    "language-full-guidance-published": (35 * 10.0 * 1, {f"clip-w{w}": (1, w) for w in (1, 2, 3, 4, 6, 8, 10)}),
    "ablations-full-positives": (
        35 * 2.7 * 2,
        {"simclr-m1": (10, 2, 3)} | {f"stablerep-m{m}": (10, 2, 3) for m in (2, 4, 6, 8, 10)},
    ),
    "ablations-full-guidance-scale": (
        35 * 2.7 * 2,
        {f"{method}-w{w}": (1, w) for method in ("simclr", "mae") for w in (2, 3, 4, 6, 8, 10, 12)},
    ),
    "ablations-full-real-cc3m": (
        35 * 2.7 * 2,
        {f"{method}-syn": (1, 6 if method == "mae" else 8) for method in ("simclr", "mae", "byol", "mocov3", "dino")},
    ),
}


@pytest.mark.parametrize("comparison", DECLARED)
def test_views_images_and_guidance_are_the_papers(comparison: str) -> None:
    """Views are epochs x pairs x views of a pair in an epoch."""
    millions, synthetic = DECLARED[comparison]
    rows = find(comparison)
    assert {row.schedule.views for row in rows} == {round(millions * 1e6)}
    data = {row.name.split("/")[1]: recipe_of(row) for row in rows if not is_real(row)}
    assert {row: (each.images_per_caption, *each.guidance) for row, each in data.items()} == synthetic


def test_long_schedules_without_downsampling_are_declared_on_both_corpora() -> None:
    for corpus, comparison in (("cc12m", "ablations-full-epochs"), ("redcaps", "ablations-full-epochs-redcaps")):
        rows = find(comparison)
        assert {recipe_of(row).name for row in rows} == {corpus}
        views = [round(epochs * MILLIONS[corpus] * 6e6) for epochs in EPOCHS_OF_SIX[corpus]]
        assert [row.schedule.views for row in rows] == views
        assert {row.settings.sampling.augmentation.downsample for row in rows} == {0.0}


@pytest.mark.parametrize("size", [size for size in SCALES if size != "full"])
def test_clip_sees_half_of_the_views_where_epochs_are_not_the_papers(size: str) -> None:
    groups = comparisons(find(f"main-{size}") + find(f"language-{size}"))
    published = {name: rows for name, rows in groups.items() if name.endswith("-published")}
    assert len(published) == (4 if size in TOY_SIZES else 7)
    for name, rows in published.items():
        equal = {row.name.split("/")[1]: row for row in groups[name.removesuffix("-published")]}
        for row in rows:
            same = equal[row.name.split("/")[1]]
            assert row.schedule.views * 2 == same.schedule.views
            assert replace(row, name=same.name, schedule=same.schedule) == same
            assert row.schedule.batch_views == same.schedule.batch_views


def test_captions_are_cleaned_alike_for_every_method() -> None:
    """The paper de-duplicates StableRep's only; here a method's dataset has the captions of every other."""
    for comparison in ("main-full-cc12m-1x", "main-full-redcaps-1x"):
        counts = {recipe_of(row).captions.expected_count for row in find(comparison)}
        assert counts == {round(MILLIONS[comparison.split("-")[2]] * 1e6)}


def test_schedules_at_full_size_are_the_released_readmes() -> None:
    """35, 70 and 105 epochs of two views of 10.0 M and 11.7 M pairs, as near as whole epochs of StableRep come."""
    epochs = {"cc12m": (10.0e6, [37.35, 77.19, 114.54]), "redcaps": (11.7e6, [35.0, 72.7, 107.7])}
    for corpus, (pairs, wanted) in epochs.items():
        for times, expected in enumerate(wanted, 1):
            (schedule,) = {each.schedule for each in find(f"main-full-{corpus}-{times}x")}
            assert schedule.batch_views == 32 * 43 * 6
            assert schedule.views / 2 / pairs == pytest.approx(expected, abs=0.05)


def test_longer_schedules_are_multiples_where_nothing_is_published() -> None:
    for size in (size for size in SCALES if size != "full"):
        views = [each.schedule.views for each in find(f"ablations-{size}-epochs")]
        assert [count / views[0] for count in views] == [1, 2, 3]


@pytest.mark.parametrize("size", SCALES)
def test_images_per_caption_are_varied_at_a_fixed_number_of_images(size: str) -> None:
    rows = find(f"ablations-{size}-images")
    data = [recipe_of(row) for row in rows]
    assert [each.images_per_caption for each in data] == [1, 2, 4, 8, 10]
    assert {each.images_per_caption * each.captions.expected_count for each in data} == {SCALES[size].images}
    assert [row.method for row in rows] == ["simclr", *["stablerep"] * 4]
    assert [row.settings.sampling.images for row in rows] == [1, 2, 4, 6, 6]
    assert [row.settings.sampling.views for row in rows] == [2, 2, 4, 6, 6]


@pytest.mark.parametrize("size", SCALES)
def test_positives_are_varied_in_a_fixed_batch_of_one_dataset(size: str) -> None:
    simclr, *rows = find(f"ablations-{size}-positives")
    assert (simclr.method, simclr.settings.sampling.images, simclr.settings.sampling.crops) == ("simclr", 1, 2)
    assert [row.settings.sampling.images for row in rows] == [2, 4, 6, 8, 10]
    assert len({(row.dataset, row.schedule) for row in (simclr, *rows)}) == 1
    assert len({replace(row.settings, sampling=rows[0].settings.sampling) for row in rows}) == 1
    assert recipe_of(rows[0]).images_per_caption == 10


@pytest.mark.slow
@pytest.mark.parametrize("size", SCALES)
def test_guidance_and_encoders_are_varied_alone(size: str) -> None:
    rows = find(f"ablations-{size}-guidance")
    assert [row.method for row in rows] == ["stablerep"] * 3 + ["simclr"] * 3
    for method in (rows[:3], rows[3:]):
        assert [recipe_of(row).guidance for row in method] == [recipe.GUIDANCE[k] for k in ("small", "large", "mixed")]
        assert len({replace(row, name="", dataset="", revision="") for row in method}) == 1
    assert [row.dataset for row in rows[:3]] == [row.dataset for row in rows[3:]]
    base, large = find(f"ablations-{size}-encoder")
    assert replace(large, name=base.name, encoder=base.encoder) == base
    assert sum(p.numel() for p in build_vit(large.encoder).parameters()) > 2 * sum(
        p.numel() for p in build_vit(base.encoder).parameters()
    )
    for comparison in (f"language-{size}-guidance", f"language-{size}-guidance-published"):
        clips = find(comparison)
        assert [recipe_of(row).guidance for row in clips[1:]] == [(float(w),) for w in (1, 2, 3, 4, 6, 8, 10)]
        assert is_real(clips[0]) and {row.method for row in clips} == {"clip"}
    sweep = find(f"ablations-{size}-guidance-scale")
    for method, start in (("simclr", 0), ("mae", 8)):
        one = sweep[start : start + 8]
        assert {row.method for row in one} == {method} and is_real(one[0])
        assert [recipe_of(row).guidance for row in one[1:]] == [(float(w),) for w in (2, 3, 4, 6, 8, 10, 12)]


def test_figure_3_has_five_methods_on_two_corpora() -> None:
    groups = comparisons(find("ablations-full"))
    for corpus in ("cc3m", "cc12m"):
        rows = groups[f"ablations-full-real-{corpus}"]
        assert {row.method for row in rows} == {"simclr", "mae", "byol", "mocov3", "dino"}
        guidance = {row.method: recipe_of(row).guidance for row in rows if not is_real(row)}
        assert guidance == dict.fromkeys(("simclr", "byol", "mocov3", "dino"), (8.0,)) | {"mae": (6.0,)}


@pytest.mark.parametrize("size", TOY_SIZES)
def test_the_trained_methods_see_real_and_synthetic_images_in_the_toy_world(size: str) -> None:
    rows = find(f"ablations-{size}-real-{SCENES}")
    assert sorted({row.method for row in rows}) == [
        "byol", "clip", "dino", "mae", "mocov3", "simclr", "slip", "stablerep", "stablerep_plus", "supcon",
    ]  # fmt: skip
    assert [is_real(row) for row in rows] == [True, False] * (len(rows) // 2)
    guidance = {row.method: recipe_of(row).guidance for row in rows if not is_real(row)}
    assert {guidance[method] for method in ("stablerep", "stablerep_plus", "supcon")} == {recipe.GUIDANCE["small"]}
    assert guidance["clip"] == guidance["slip"] == (2.0,)


def test_both_sizes_of_the_toy_world_train_on_the_same_datasets_which_are_drawn_in_an_hour() -> None:
    """Fifteen images a second, or more, are drawn on two cores."""
    drawn = {
        size: {row.dataset for file in FILES for row in find(f"{file}-{size}") if not is_real(row)}
        for size in TOY_SIZES
    }
    assert len(drawn) == 2 and len({frozenset(datasets) for datasets in drawn.values()}) == 1
    recipes = [recipe.find(repo.rpartition("/")[2]) for repo in drawn["small"]]
    assert sum(each.images_per_caption * each.captions.expected_count for each in recipes) < 60_000
    assert {row.dataset for row in (*find("smoke"), *find("demo"))} <= drawn["small"]


@pytest.mark.parametrize("size", SCALES)
def test_the_toy_world_has_three_seeds(size: str) -> None:
    seeds = {row.seeds for file in FILES for row in find(f"{file}-{size}")}
    assert seeds == {(0, 1, 2) if size in TOY_SIZES else (0,)}


def test_the_demo_compares_four_methods_with_one_seed_at_equal_views_of_the_same_images() -> None:
    rows = demo.EXPERIMENTS
    assert [row.method for row in rows] == ["stablerep", "simclr", "clip", "untrained"]
    assert len({(row.dataset, row.schedule, row.encoder, row.seeds) for row in rows}) == 1
    assert rows[0].seeds == (0,) and rows[0].encoder == SCALES["smoke"].encoder
    assert recipe_of(rows[0]).captions.expected_count * recipe_of(rows[0]).images_per_caption <= 3_000


@pytest.mark.parametrize("size", SCALES)
def test_captions_are_counted_alike_for_both_methods(size: str) -> None:
    rows = find(f"language-{size}-captions")
    counts = {
        method: [recipe_of(row).captions.expected_count for row in rows if row.method == method]
        for method in ("stablerep_plus", "clip")
    }
    assert counts["stablerep_plus"] == counts["clip"] == sorted(counts["clip"])
    synthetic = [row for row in rows if row.method == "stablerep_plus"]
    assert all(row.settings.sampling.images == 2 for row in synthetic)
    assert {recipe_of(row).guidance for row in synthetic} == {(2.0,)}
    assert len(counts["clip"]) == (5 if size == "full" else 3)


@pytest.mark.slow
def test_the_papers_encoders_at_full_size() -> None:
    base, large = (row.encoder for row in find("ablations-full-encoder"))
    millions = [sum(p.numel() for p in build_vit(each).parameters()) / 1e6 for each in (base, large)]
    assert millions == pytest.approx([85.8, 303.3], abs=0.1)


# Methods at their sizes


@pytest.mark.parametrize("name", [name for name in EVERY if name.split("-")[1] not in TOY_SIZES])
def test_methods_are_their_papers_but_for_what_is_studied(name: str) -> None:
    for each in find(name):
        method: Method = plugins.load("baselines", each.method, "method").METHOD
        sampling = replace(each.settings.sampling, images=method.sampling.images)
        downsample = sampling.augmentation.downsample
        assert downsample == (0.05 if each.method == "stablerep" and name.startswith("main") else 0.0)
        sampling = replace(sampling, augmentation=replace(sampling.augmentation, downsample=0.0))
        assert replace(each.settings, sampling=sampling) == method


@pytest.mark.parametrize("name", plugins.names("baselines"))
def test_strong_crops_keep_the_object_and_not_always_its_color_in_the_toy_world(name: str) -> None:
    """All strong crops of a method are changed; weak ones and all other settings are not."""
    method: Method = plugins.load("baselines", name, "method").METHOD
    own, made = method.tiny(), _scales.tiny(method)
    pairs = list(zip(own.sampling.augmentations, made.sampling.augmentations, strict=True))
    for before, after in pairs:
        strong = before.jitter > 0
        own_values = (before.scale, before.flip, before.grayscale)
        assert (after.scale, after.flip, after.grayscale) == (((0.6, 1.0), 0.0, 0.5) if strong else own_values)
        assert replace(after, scale=before.scale, flip=before.flip, grayscale=before.grayscale) == before
    assert replace(made, sampling=own.sampling) == own
    (declared,) = [each for each in smoke.EXPERIMENTS if each.method == name]
    assert declared.settings == made


def test_asymmetric_methods_are_among_those_tried() -> None:
    further = {name: plugins.load("baselines", name, "method").METHOD.sampling.further for name in ("byol", "dino")}
    assert all(len(each) == 1 and each[0].jitter > 0 for each in further.values())


# Missing captions


def test_without_captions_a_revision_says_so_and_the_toy_worlds_are_known() -> None:
    assert {each.revision for each in find("main-10k")} == {UNKNOWN_REVISION}
    declared = [each for name in FILES for size in TOY_SIZES for each in find(f"{name}-{size}")]
    assert UNKNOWN_REVISION not in {each.revision for each in declared}


def test_captions_are_found_in_the_local_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions that `data/` lacks are found in $SYNREP_DATA."""
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path / "mirror"))
    version = property(lambda self: "mirrored" if self.root == tmp_path / "mirror" else self._read_report()["sha256"])
    monkeypatch.setattr(PreparedCaptions, "version", version)
    declared = find("ablations-10k-positives")[0]
    assert declared.revision == recipe.find("cc3m-10k", tmp_path / "mirror").revision != UNKNOWN_REVISION


def test_a_dataset_that_is_here_without_its_captions_has_its_own_revision(tmp_path: Path) -> None:
    made = recipe.find("cc3m-10k")
    declaration = {
        "name": made.name, "version": 1, "captions": "of another machine", "images_per_caption": 10,
        "guidance": [2.0, 3.0], "seed": 0,
    }  # fmt: skip
    folder = tmp_path / "data" / made.repo
    folder.mkdir(parents=True)

    def write(**changes: object) -> str:
        manifest = schema.Manifest(made.repo, "f" * 40, {"train": 9}, 10, {}, declaration | changes)
        (folder / schema.MANIFEST).write_text(json.dumps(manifest.as_json()))
        return find("ablations-10k-positives")[0].revision

    assert write() == "f" * 40
    assert write(guidance=[8.0, 10.0]) == write(images_per_caption=4) == write(version=2) == UNKNOWN_REVISION


# Unknown names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch", f"unknown experiment 'nosuch'; choose one of: {', '.join(plugins.names('benchmark.experiments'))}"),
        ("main", "experiment main needs a size, found none; choose one of: main-smoke, main-small, main-10k, "),
        ("main-", "experiment main needs a size, found none"),
        ("main-2k", "experiment main needs a size, found '2k'"),
        ("mainly-10k", "unknown experiment 'mainly-10k'"),
        ("smoke-10k", "unknown experiment 'smoke-10k'"),
        ("main-10k-cc3m-1x", "'main-10k-cc3m-1x'; did you mean main-10k-cc12m-1x"),
        ("_scales", "unknown experiment '_scales'"),
    ],
)  # fmt: skip
def test_an_unknown_experiment_is_one_line_with_the_choices(name: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        find(name)


def test_a_comparison_is_a_part_of_its_file() -> None:
    assert find("smoke") == smoke.EXPERIMENTS
    whole = find("ablations-smoke")
    parts = [find(name) for name in comparisons(whole)]
    assert tuple(each for part in parts for each in part) == whole
