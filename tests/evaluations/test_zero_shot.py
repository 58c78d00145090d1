import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import open_clip.zero_shot_metadata
import pytest
import torchvision

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.catalog import HUB_COPIES
from benchmark.evaluations.prompts import FOLDER, class_key, ensemble_prompts, read_prompts, scenes_prompts
from benchmark.evaluations.scoring.cosines import cosines
from benchmark.evaluations.zero_shot import EVALUATIONS, REAL, SCENES, ZeroShot
from benchmark.interfaces import DatasetScores
from datasets_scripts.scenes import grammar
from tests.fixtures import evaluation_sets
from tests.fixtures.doubles import Double, constant, noise, numbered, png, write_scenes, write_split

FILES = {
    "aircraft": ("e42a876f37f0a661b8b97cd44fbaea3826493f72ed90e87c7e4d1884e1ebde65", 2, 100),
    "caltech101": ("5d6e7572694fa66fd680b2cae1cddf6af339e444281072345e0c4c26f3644bdd", 34, 102),
    "cars": ("9cbe4c15168cb4c0a20a28658aab37653da328b54436773be7694f5ea3b6c126", 8, 196),
    "cifar10": ("255ff41dacae957abf07727353bf498f1c0d8972c777db5ddc789acdff219e29", 18, 10),
    "cifar100": ("80db8d5df16e90ef9f16517fd457d837837c8e905d165bcc66443e93a82e233d", 18, 100),
    "dtd": ("6b51630edaf58f555442d94617f848de500dc9be105883521e5f7da1889f1a65", 8, 47),
    "eurosat": ("747fca0fa05f5a00a186faad64c48abef151bc2b97cdc4cc4112e8b658cb582c", 3, 10),
    "flowers": ("d77a7b6d2f430549e17f2bea4f3f779e617ba78097398e1cb9e2f9e7706b9e75", 1, 102),
    "food101": ("acbfb84339083ec1f50817007705775a9c2e522502c0740a38b4e797cd4d8654", 1, 101),
    "imagenet": ("7f34800698f43246e3bcd05e50ec0e5e9bec88bceac8c7be9e90bbbd18667c46", 80, 1000),
    "pets": ("3af6349a87f823c49d5fc47b60340b788d6d923751e99aa4f611f14cd8607f0a", 1, 37),
    "resisc45": ("01dfe41f95ac1f1b048afa72ef8bd528c04b56577ad5ad8922d13701ef47ed2b", 18, 45),
    "stl10": ("bcbe30e2e51b10522915476263460e364c4fdc7ac8b64a8619d8df8c3cf28f74", 2, 10),
    "sun397": ("eacc8d25d1c5d11a9aca924a5d97b90cd39275ff6f910a258295ff6beef16426", 2, 397),
    "voc2007": ("d8cef9522b40f37de1082018c5c9e2254a55996cacb912f2e59a3221516f622a", 1, 20),
}
"""The sha256, number of templates and of classes by file; changing a word changes scores."""


def file(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


IMAGENET = file("imagenet")["classes"]


def one(name, subject) -> DatasetScores:
    scores = ZeroShot(datasets=(name,))(subject)[name]
    assert isinstance(scores, DatasetScores), scores
    return scores


@pytest.mark.parametrize("name", FILES)
def test_prompt_files_are_pinned(name):
    sha256, templates, classes = FILES[name]
    content = (FOLDER / f"{name}.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256
    found = json.loads(content)
    assert (len(found["templates"]), len(found["classes"])) == (templates, classes)
    assert found["source"].startswith("openai/CLIP") and found["licence"] == "MIT"
    assert all(template.count("{}") == 1 for template in found["templates"])
    assert len(set(found["templates"])) == templates
    assert set(found.get("labels", {}).values()) <= set(found["classes"])
    row = catalog.DATASETS[name]
    assert row.classes == classes


def test_every_dataset_has_prompts():
    files = set(FOLDER.glob("*.json"))
    assert {path.stem for path in files} == {*REAL, "fairface", "scenes"} == {*FILES, "fairface", "scenes"}
    for name in (*REAL, *HUB_COPIES):
        assert len(EVALUATIONS[0].prompts(name).classes) == catalog.DATASETS[name].classes


def test_only_imagenet_has_classes_with_equal_names():
    for name in FILES:
        classes = file(name)["classes"]
        twice = sorted({c for c in classes if classes.count(c) > 1})
        assert twice == (["missile", "sunglasses"] if name == "imagenet" else [])
        if name != "imagenet":
            assert len({class_key(c) for c in classes}) == len(classes)


def test_prompts_of_imagenet_match_open_clip():
    found, theirs = file("imagenet"), open_clip.zero_shot_metadata
    assert found["classes"] == list(theirs.IMAGENET_CLASSNAMES)
    assert found["templates"] == [template("{}") for template in theirs.OPENAI_IMAGENET_TEMPLATES]


def test_the_vocabulary_of_scenes_matches_the_grammar():
    """The file has the words of the grammar, in its order."""
    assert file("scenes")["words"] == {
        "size": [*grammar.SIZES],
        "colour": [*grammar.COLOURS],
        "texture": [*grammar.TEXTURES],
        "shape": [*grammar.SHAPES],
        "background": [*grammar.BACKGROUNDS],
    }
    assert set(file("scenes")["group_colours"]) <= set(grammar.COLOURS)
    for name in SCENES:
        part, prompts = name.removeprefix("scenes-"), scenes_prompts(name)
        for word, texts in zip(prompts.classes, prompts.texts):
            assert {getattr(grammar.parse(text).first, part) for text in texts} == {word}
        everything = [text for texts in prompts.texts for text in texts]
        assert sorted(everything) == sorted(grammar.scene(at).caption for at in range(grammar.SINGLES))


FOLDERS = """BACKGROUND_Google Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver
binocular bonsai brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier
cougar_body cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly
electric_guitar elephant emu euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano
hawksbill headphone hedgehog helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster lotus
mandolin mayfly menorah metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid revolver
rhino rooster saxophone schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign
strawberry sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench
yin_yang"""
"""Folders in the archive of Caltech-101, in their order."""
CALTECH = FOLDERS.split()
EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "highway or road",
    "Industrial": "industrial buildings or commercial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings or homes or apartments",
    "River": "river",
    "SeaLake": "lake or sea",
}


def test_class_names_of_datasets_match_their_prompts():
    def found(name, labels):
        prompts = ensemble_prompts(name)
        return [prompts.classes[at] for at in prompts.class_indices(name, labels)]

    assert found("eurosat", list(EUROSAT)) == list(EUROSAT.values())
    assert found("caltech101", CALTECH) == file("caltech101")["classes"]
    assert found("caltech101", [name.lower() for name in CALTECH]) == file("caltech101")["classes"]
    cifar100 = [name.replace(" ", "_") for name in file("cifar100")["classes"]]
    assert cifar100[26] == "crab"
    cifar100[26] = "cra"  # sic, in the Hub's copy
    assert found("cifar100", cifar100) == file("cifar100")["classes"]
    flowers = torchvision.datasets.Flowers102.classes
    assert found("flowers", flowers) == file("flowers")["classes"]
    assert found("flowers", [str(at) for at in range(102)]) == file("flowers")["classes"]
    assert found("voc2007", catalog.DATASETS["voc2007"].names["label"]) == sorted(file("voc2007")["classes"])
    sun = file("sun397")["classes"]
    for prefix in ("/", ""):
        folders = [f"{prefix}{name[0]}/" + re.sub(" (in|out)door", r"/\1door", name).replace(" ", "_") for name in sun]
        assert f"{prefix}c/church/outdoor" in folders
        assert found("sun397", folders) == sun
    pets = sorted((name.lower().replace(" ", "_") for name in file("pets")["classes"]), reverse=True)
    assert [name.lower() for name in found("pets", pets)] == [name.replace("_", " ") for name in pets]
    assert found("aircraft", ["F/A-18" if n == "F/A-18" else n for n in file("aircraft")["classes"]])[73] == "F/A-18"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "lorry"],
            "without a match: lorry, truck;",
        ),
        (["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship"], "without a match: truck;"),
        ([*read_prompts("stl10")["classes"], "Truck"], "two labels of one class;"),
        ([str(at) for at in range(10)], "match: 0, 1, 2, 3, 4, 5 and 14 more; download"),
    ],
)
def test_classes_that_differ_from_the_prompts_are_an_error(labels, message):
    with pytest.raises(UserError, match=message) as error:
        ensemble_prompts("stl10").class_indices("stl10", labels)
    assert str(error.value).startswith("dataset stl10 and its prompts have different classes")


# ---------------------------------------------------------------- measured

NAMES = ("cifar10", "dtd-mteb", "flowers", "voc2007", "scenes-shape", "scenes-texture")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("zero-shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(evaluation_sets.NAMED, "dtd-mteb", tuple(file("dtd")["classes"]))
        for name in NAMES:
            evaluation_sets.write(name, root)
    return root


@pytest.fixture
def copies(folder, monkeypatch):
    evaluation_sets.use(NAMES, monkeypatch, folder)


def class_of_text(name):
    """Return a function from text to class index, and the class names, from the file or the grammar."""
    if name.startswith("scenes-"):
        words = {"scenes-shape": grammar.SHAPES, "scenes-texture": grammar.TEXTURES}[name]
        part = name.removeprefix("scenes-")
        return lambda text: words.index(getattr(grammar.parse(text).first, part)), list(words)
    found = file(name.removesuffix("-mteb"))
    texts = {
        t.replace("{}", c): at for t in found["templates"] for at, c in reversed(list(enumerate(found["classes"])))
    }
    names = [str(at) for at in range(len(found["classes"]))] if found.get("numbered") else found["classes"]
    return texts.__getitem__, names


def answering(name, answer=lambda at: at) -> Double:
    """Predict class `answer(true class)`: each class is an axis, its prompts have a little noise."""
    class_of, names = class_of_text(name)
    generator = np.random.default_rng(0)

    def image(images, row):
        labels = images.columns["label"][row]
        return sum(np.eye(len(names))[answer(names.index(label))] for label in np.atleast_1d(labels))

    def text(words):
        return np.eye(len(names))[class_of(words)] + 0.01 * generator.standard_normal(len(names))

    return Double(image, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_model_scores_one(copies, name):
    subject = answering(name)
    scores = one(name, subject)
    main = {"voc2007": "map11", "flowers": "mean_per_class"}.get(name, "top1")
    assert next(iter(scores.scores)) == main
    expected = {"map11", "map11_sklearn"} if name == "voc2007" else {"top1", "mean_per_class"}
    if name not in ("voc2007", "scenes-texture"):
        expected |= {"top5"}
    assert set(scores.scores) == expected
    assert {score.value for score in scores.scores.values()} == {1.0}
    assert all(score.low < 1 == score.high for score in scores.scores.values()) or name == "voc2007"
    assert scores.details.get("ties", 0) == 0
    if name.startswith("scenes-"):
        expected = {grammar.scene(at).caption for at in range(grammar.SINGLES)}
    else:
        found = file(name.removesuffix("-mteb"))
        expected = {template.replace("{}", c) for template in found["templates"] for c in found["classes"]}
        assert scores.details["templates"] == len(found["templates"])
    assert set(subject.texts_seen) == expected
    assert len(subject.texts_seen) == len(expected)
    assert len(subject.images_seen) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_model_is_never_above_chance(copies, name):
    scores = one(name, constant(48))
    assert next(iter(scores.scores.values())).value <= scores.chance
    if name != "voc2007":
        assert {score.value for score in scores.scores.values()} == {0.0}
        assert scores.details["ties"] == scores.dataset.n
    blind = one(name, answering(name, lambda at: 3))  # one prediction for every image
    assert next(iter(blind.scores.values())).value <= blind.chance + 1e-12


def test_a_dead_text_tower_ties_everywhere(copies, monkeypatch):
    """Zero vectors, the output of a zero projection, must not yield correct predictions."""
    for name in ("cifar10", "voc2007"):
        subject = noise(48)
        monkeypatch.setattr(subject, "text_embeddings", lambda texts: np.zeros((len(texts), 48), np.float32))
        scores = one(name, subject)
        assert next(iter(scores.scores.values())).value <= scores.chance + 1e-12
        if name == "cifar10":
            assert {score.value for score in scores.scores.values()} == {0.0}
            assert scores.details["ties"] == scores.dataset.n


def test_noise_is_at_chance(mirror):
    write_scenes(mirror, "scenes-objects", test=objects(1600))
    scores = one("scenes-shape", noise(32)).scores
    assert abs(scores["top1"].value - 1 / 8) < 0.04
    assert abs(scores["top5"].value - 5 / 8) < 0.05
    assert scores["top1"].low < 1 / 8 < scores["top1"].high


def objects(n):
    words = {"shape": grammar.SHAPES, "colour": tuple(grammar.COLOURS), "texture": grammar.TEXTURES}
    return {"id": [str(at) for at in range(n)]} | {key: [w[at % len(w)] for at in range(n)] for key, w in words.items()}


@pytest.mark.parametrize("name", ["cifar10", "scenes-shape", "dtd-mteb"])
def test_scores_match_a_reference_implementation(copies, name):
    vectors = {}

    def text(words):
        return vectors.setdefault(words, np.random.default_rng(len(vectors)).standard_normal(16) + 0.5)

    class_of, names = class_of_text(name)
    prompts = EVALUATIONS[0].prompts(name)
    subject = Double(lambda images, row: np.random.default_rng(1000 + row).standard_normal(16), text)
    scores = one(name, subject)
    images = subject.images_seen[0]
    assert len(subject.texts_seen) == sum(map(len, prompts.texts))
    weights = []
    for at in range(len(names)):
        own = [vectors[words].astype(np.float32) for words in vectors if class_of(words) == at]
        mean = np.mean([vector / np.linalg.norm(vector) for vector in own], axis=0)
        weights.append(mean / np.linalg.norm(mean))
    right, near, per_class = [], [], {label: [] for label in names}
    for row in range(len(images)):
        image = np.random.default_rng(1000 + row).standard_normal(16)
        cosine = [image @ weight / np.linalg.norm(image) for weight in weights]
        label = images.columns["label"][row]
        order = np.argsort(cosine)[::-1]
        right.append(names[order[0]] == label)
        near.append(label in [names[at] for at in order[:5]])
        per_class[label].append(right[-1])
    assert scores.scores["top1"].value == pytest.approx(np.mean(right))
    assert scores.scores["top5"].value == pytest.approx(np.mean(near))
    assert scores.scores["mean_per_class"].value == pytest.approx(np.mean([np.mean(v) for v in per_class.values()]))
    assert {label: score.value for label, score in scores.per_class.items()} == pytest.approx(
        {label: np.mean(v) for label, v in per_class.items()}
    )
    assert 0 < np.mean(right) < 1


@pytest.mark.parametrize("name", NAMES)
def test_values_reproduce_the_scores(copies, name):
    for subject in (noise(8), answering(name, lambda at: at // 2)):
        scores = one(name, subject)
        values = EVALUATIONS[0].values(name, scores.predictions)
        assert list(values) == list(scores.scores)
        assert values == {key: score.value for key, score in scores.scores.items()}
        assert all(len(column) == scores.dataset.n for column in scores.predictions.values())
        assert all(score.low <= score.value <= score.high for score in scores.scores.values())


def test_values_of_rows_without_a_class(copies):
    predictions = one("cifar10", answering("cifar10", lambda at: max(at, 2))).predictions
    rows = np.repeat(np.flatnonzero(predictions["label"] != 5), 2)
    rows = rows[predictions["label"][rows] != 0]
    values = EVALUATIONS[0].values("cifar10", {key: column[rows] for key, column in predictions.items()})
    assert values["mean_per_class"] == pytest.approx(7 / 8)
    assert values["top1"] == pytest.approx(7 / 8)
    assert values["top5"] <= 1


def test_swapped_class_names_change_the_score(copies, monkeypatch):
    subject = answering("cifar10")
    swap = {"airplane": "automobile", "automobile": "airplane"}
    changed = {**read_prompts("cifar10"), "labels": swap}
    monkeypatch.setattr("benchmark.evaluations.prompts.read_prompts", lambda name: changed)
    scores = one("cifar10", subject)
    assert scores.scores["top1"].value == pytest.approx(0.8)
    assert scores.per_class["airplane"].value == 0.0


def test_ties_are_wrong_and_worsen_the_rank(copies):
    """Images of class 0 are between classes 0 and 1; those of class 2 are equally close to six classes."""
    class_of, names = class_of_text("scenes-shape")

    def image(images, row):
        at = names.index(images.columns["label"][row])
        return np.eye(8)[[0, 1]].sum(0) if at == 0 else np.eye(8)[:6].sum(0) if at == 2 else np.eye(8)[at]

    scores = one("scenes-shape", Double(image, lambda text: np.eye(8)[class_of(text)]))
    n = scores.dataset.n // 8
    assert scores.details["ties"] == 2 * n
    assert scores.scores["top1"].value == 6 / 8
    assert scores.scores["top5"].value == 7 / 8
    label_of = {name: at for at, name in enumerate(scores.details["classes"])}
    ranks = scores.predictions["rank"]
    assert set(ranks[scores.predictions["label"] == label_of[names[0]]]) == {2}
    assert set(ranks[scores.predictions["label"] == label_of[names[2]]]) == {6}


@pytest.mark.slow
def test_imagenet_classes_with_equal_names_are_wrong_for_every_model(tmp_path, monkeypatch):
    evaluation_sets.mirror_of(["imagenet"], monkeypatch, tmp_path, test=1, train=1)
    code_of = dict(zip(IMAGENET, np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)))
    name_of = {t.replace("{}", name): name for t in file("imagenet")["templates"] for name in IMAGENET}
    subject = Double(
        lambda images, row: code_of[IMAGENET[images.columns["label_index"][row]]], lambda text: code_of[name_of[text]]
    )
    scores = one("imagenet", subject)
    assert scores.scores["top1"].value == pytest.approx(0.996)
    assert scores.scores["top5"].value == 1.0
    assert scores.details["ties"] == 4
    assert scores.details["classes_with_the_same_prompts"] == 2
    twins = [name for name, score in scores.per_class.items() if score.value == 0]
    assert sorted(map(int, twins)) == [at for at, c in enumerate(IMAGENET) if c in ("missile", "sunglasses")]
    assert scores.details["class_names"] == [IMAGENET[int(at)] for at in scores.details["classes"]]


def test_equal_vectors_have_equal_cosines_in_any_position():
    """Uses shapes for which a matrix product rounds copies of a column differently (OpenBLAS on x86)."""
    generator = np.random.default_rng(0)
    for images, classes, width in ((257, 500, 768), (13, 33, 512), (5, 101, 33)):
        of = generator.integers(0, 7, classes)
        vectors = generator.standard_normal((7, width))[of]
        found = cosines(generator.standard_normal((images, width)), vectors)
        for kind in range(7):
            assert (found[:, of == kind] == found[:, of == kind][:, :1]).all()


def test_a_hub_copy_with_names(mirror, monkeypatch):
    names = [name.lower().replace(" ", "_") for name in file("pets")["classes"]]
    names.sort()  # another order than the prompts'
    row = dataclasses.replace(catalog.DATASETS["pets"], rows={"test": 74})
    monkeypatch.setitem(catalog.DATASETS, "pets", row)
    features = {"label": {"names": names}}
    images = [png(numbered(at)) for at in range(74)]
    write_split(mirror / "hub" / row.repo / row.folder, "test", images, {"label": [at % 37 for at in range(74)]},
                features=features)  # fmt: skip
    axis = {name.lower(): at for at, name in enumerate(file("pets")["classes"])}

    def text(words):
        (breed,) = re.fullmatch(r"a photo of a (.*), a type of pet\.", words).groups()
        return np.eye(37)[axis[breed.lower()]]

    subject = Double(lambda images, row: np.eye(37)[axis[images.columns["label"][row].replace("_", " ")]], text)
    assert one("pets", subject).scores["mean_per_class"].value == 1.0


def test_the_real_cifar10():
    if not (Path(os.environ.get("SYNREP_DATA", "nowhere")) / "mteb/cifar10/data").is_dir():
        pytest.skip("no mteb/cifar10 in $SYNREP_DATA")
    scores = one("cifar10", answering("cifar10"))
    assert (scores.scores["top1"].value, scores.dataset.n) == (1.0, 10_000)


def test_skip_without_a_text_tower():
    subject = noise(4)
    assert EVALUATIONS[0].skip(subject) is None
    subject.embeds_texts = False
    assert EVALUATIONS[0].skip(subject).code == SkipCode.NO_TEXT_TOWER
