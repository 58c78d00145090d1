"""Rows of `make speed` about evaluations, each beside what its reference, or scikit-learn, does with the same features.

`python -m tests.speed.evaluations` prints them. Both ways give the same answers; that is checked before they are timed.
"""

import copy
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from threadpoolctl import threadpool_limits

from baselines.stablerep_plus import METHOD
from benchmark.evaluations.aro import Aro
from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.datasets.splits import IMAGE_SHA256
from benchmark.evaluations.few_shot import EVALUATIONS as FEW_SHOT
from benchmark.evaluations.few_shot import FewShot
from benchmark.evaluations.knn import vote
from benchmark.evaluations.scoring import captions
from benchmark.evaluations.solvers.episodes import sample_episodes
from benchmark.evaluations.solvers.prototypes import margins
from benchmark.interfaces import DatasetIdentity, LabeledImages, ViTConfig
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.models.loading.timm_layers import TimmNetwork
from benchmark.nn.encoders import build_vit
from benchmark.transforms.evaluation import EvaluationTransform
from tests.speed import timing

Row = Callable[[str, str, int, Callable[[], object], Callable[[], object]], str]

WORDS = ("man", "dog", "red", "small", "horse", "table", "holding", "near", "grass", "plate", "on", "a", "the", "two")


def few_shot(row: Row, protocol: FewShot, width: int) -> list[str]:
    """All episodes of a preset over 4,000 images of 40 classes; features have a common mean, as those of networks."""
    rng = np.random.default_rng(0)
    of_class = list(np.arange(4000).reshape(40, 100))
    centres = rng.standard_normal((40, width))
    features = (0.5 + 0.3 * np.repeat(centres, 100, 0) + rng.standard_normal((4000, width))).astype(np.float32)
    pools = [(of_class, protocol.shots + protocol.queries)]
    if not protocol.merged:
        pools = [([rows[:50] for rows in of_class], protocol.shots), ([rows[50:] for rows in of_class], 6)]
    episodes = sample_episodes(pools, protocol.ways, protocol.episodes, "speed", 0)
    loops = {"scikit-learn, an episode at a time": _centroids, "its code, an episode at a time": _reference}
    if protocol.merged:
        loops["a loop over queries"] = _queries
    found = []
    for name, loop in loops.items():
        ours = (margins(features, episodes, protocol.shots, protocol.centred) > 0).mean(axis=(1, 2))
        assert np.abs(ours - loop(features, episodes, protocol)).max() < 1.1 / episodes[0, :, protocol.shots :].size
        found.append(
            row(
                f"{protocol.preset}: {protocol.episodes:,} few-shot episodes, D {width}; beside {name}",
                "episodes/s",
                protocol.episodes,
                lambda: margins(features, episodes, protocol.shots, protocol.centred),
                lambda loop=loop: loop(features, episodes, protocol),
            )
        )
    return found


def _seen(features: np.ndarray, episode: np.ndarray, protocol: FewShot) -> tuple[np.ndarray, np.ndarray]:
    shots, queries = features[episode[:, : protocol.shots].ravel()], features[episode[:, protocol.shots :].ravel()]
    if protocol.centred:
        shots, queries = (part - shots.mean(0) for part in (shots, queries))
        shots, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (shots, queries))
    return shots, queries


def _centroids(features: np.ndarray, episodes: np.ndarray, protocol: FewShot) -> np.ndarray:
    labels = np.repeat(np.arange(protocol.ways), protocol.shots)
    truth = np.repeat(np.arange(protocol.ways), protocol.queries)
    found = []
    for episode in episodes:
        shots, queries = _seen(features, episode, protocol)
        found.append(NearestCentroid().fit(shots, labels).score(queries, truth))
    return np.array(found)


def _reference(features: np.ndarray, episodes: np.ndarray, protocol: FewShot) -> np.ndarray:
    """`ProtoNet.loss` of ssl-transfer and `evaluate_fewshot` of lgssl, with features in place of the encoder."""
    pool, found = torch.from_numpy(features), []
    for episode in torch.from_numpy(episodes):
        shots, queries = pool[episode[:, : protocol.shots].ravel()], pool[episode[:, protocol.shots :].ravel()]
        if protocol.centred:
            mean = shots.mean(dim=0, keepdim=True)
            shots, queries = (torch.nn.functional.normalize(part - mean, dim=-1) for part in (shots, queries))
        prototypes = shots.view(protocol.ways, protocol.shots, -1).mean(1)
        distances = torch.pow(queries[:, None] - prototypes[None], 2).sum(2)
        answers = torch.log_softmax(-distances, dim=1).view(protocol.ways, protocol.queries, -1).max(2).indices
        found.append(answers.eq(torch.arange(protocol.ways)[:, None]).float().mean().item())
    return np.array(found)


def _queries(features: np.ndarray, episodes: np.ndarray, protocol: FewShot) -> np.ndarray:
    found = []
    for episode in episodes:
        prototypes = np.stack([features[rows[: protocol.shots]].mean(0) for rows in episode])
        right = 0
        for way, rows in enumerate(episode):
            for query in features[rows[protocol.shots :]]:
                right += (((query - prototypes) ** 2).sum(1).argmin() == way).item()
        found.append(right / episode[:, protocol.shots :].size)
    return np.array(found)


def neighbours(row: Row) -> list[str]:
    """2,000 queries among 10,000 training images, four values of k."""
    rng = np.random.default_rng(0)
    centres, ks, temperature = 0.25 * rng.standard_normal((10, 384)), (20, 10, 100, 200), 0.07
    labels, truth = rng.integers(0, 10, 10_000), rng.integers(0, 10, 2000)
    train, test = (
        (0.5 + centres[of] + rng.standard_normal((len(of), 384))).astype(np.float32) for of in (labels, truth)
    )
    unit_train, unit_test = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test))

    def ours() -> dict[int, np.ndarray]:
        return vote(train, labels, test, ks, temperature)

    def sorting() -> dict[int, np.ndarray]:
        found: dict[int, list[np.ndarray]] = {k: [] for k in ks}
        for start in range(0, len(test), 256):
            similarity = unit_test[start : start + 256] @ unit_train.T
            nearest = np.argsort(-similarity, axis=1)[:, : max(ks)]
            weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / temperature)
            votes = np.eye(10)[labels[nearest]] * weights[:, :, None]
            for k in ks:
                found[k].append(votes[:, :k].sum(axis=1).argmax(axis=1))
        return {k: np.concatenate(parts) for k, parts in found.items()}

    def scikit_learn() -> dict[int, np.ndarray]:
        def weights(distance: np.ndarray) -> np.ndarray:
            return np.exp((1 - distance**2 / 2) / temperature)

        return {
            k: KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(unit_train, labels).predict(unit_test)
            for k in ks
        }

    found = []
    for name, theirs in {"NumPy, sorting all similarities": sorting, "scikit-learn": scikit_learn}.items():
        answers, others = ours(), theirs()
        assert all((answers[k] == others[k]).mean() > 0.999 for k in ks)
        what = f"kNN, k of 10 to 200, 10,000 training images, D 384; beside {name}"
        found.append(row(what, "queries/s", len(test), ours, theirs))
    return found


def photographs(count: int) -> list[bytes]:
    """JPEG files of 320 x 240 pixels."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def encoder(store: Path | None = None) -> FrozenEncoder:
    torch.manual_seed(0)
    model = METHOD.tiny().build(build_vit(ViTConfig(image_size=64, patch=8, width=192, depth=6, heads=3)))
    return FrozenEncoder(model, transform=EvaluationTransform(64), weights_sha256="speed", store=store)


def labelled(files: list[bytes], of_row: list[int], columns: dict[str, list[str]]) -> LabeledImages:
    def read(at: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(files[of_row[at]])).convert("RGB"))

    return LabeledImages("speed", DatasetIdentity("speed", "r1", "test", len(of_row), "ids"), read, columns)


def order_captions(row: Row) -> str:
    """COCO-Order with a 25th of its rows: 200 images, five rows each; 4 % of the texts are there more than once."""
    rng, count = np.random.default_rng(0), 1000
    files, aro, order = photographs(count // 5), Aro(), dataset("aro-coco-order").caption_choices
    texts = [" ".join(rng.choice(WORDS, 10)) for _ in range(5 * count)]
    for at in rng.choice(len(texts), round(len(texts) * (1 - 119_661 / 125_050)), replace=False):
        texts[at] = texts[at - at % 5]  # a shuffle that gave the true caption again
    columns = {name: texts[at::5] for at, name in enumerate(order)}
    of_row = [at // 5 for at in range(count)]
    images = labelled(files, of_row, columns | {IMAGE_SHA256: [str(number) for number in of_row]})
    subject = encoder()
    model, transform = subject._module, EvaluationTransform(64)

    def ours() -> np.ndarray:
        with mock.patch.object(captions, "open_split", lambda *_: images):
            found = captions.margins(subject, dataset("aro-coco-order"), captions.pre_caption)
        return aro.correct("aro-coco-order", found.columns)

    @torch.inference_mode()
    def theirs() -> np.ndarray:
        found = []
        for start in range(0, count, 16):  # the official batch
            at = range(start, min(start + 16, count))
            batch = torch.stack([transform(images.read(index)) for index in at])
            image_BD = model.image_layers(batch)["embedding"].numpy()
            options = [[captions.pre_caption(columns[name][index]) for index in at] for name in order]
            text_BKD = np.stack([model.embed_texts(option).numpy() for option in options], axis=1)
            cosine_BK = np.einsum("nd,nkd->nk", image_BD, text_BKD)
            found.append(cosine_BK[:, 0] > cosine_BK[:, 1:].max(axis=1))
        return np.concatenate(found)

    assert (ours() == theirs()).mean() > 0.99
    what = "ARO COCO-Order's duplication, small ViT and text tower; beside an image per row"
    return row(what, "rows/s", count, ours, theirs)


def groups(row: Row) -> str:
    """Three questions about the same faces (race and gender, race, gender), as FairFace is asked."""
    rng = np.random.default_rng(0)
    files = photographs(300)
    labels = [(race, gender) for race in WORDS[:7] for gender in ("man", "woman")]
    tasks = [[f"a photo of a {race} {gender}" for race, gender in labels]]
    tasks += [[f"a photo of a {name} person" for name in WORDS[:7]], ["a photo of a man", "a photo of a woman"]]
    images = labelled(files, list(range(300)), {"label": list(rng.choice(WORDS, 300))})

    def ask(subject: FrozenEncoder) -> list[np.ndarray]:
        return [(subject.image_embeddings(images) @ subject.text_embeddings(task).T).argmax(1) for task in tasks]

    def ours() -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            return ask(encoder(Path(folder)))

    def theirs() -> list[np.ndarray]:
        return ask(encoder())

    assert all((a == b).mean() > 0.98 for a, b in zip(ours(), theirs()))
    return row("three zero-shot tasks on 300 faces; beside a pass per task", "images/s", 300, ours, theirs)


def convolutions(row: Row) -> str:
    """A tile of 64 images at 224 pixels through an EfficientNet with random weights."""
    torch.manual_seed(0)
    network, transform = TimmNetwork(timm.create_model("tf_efficientnet_lite0"), 224), EvaluationTransform(224)
    plain = copy.deepcopy(network).eval()
    frozen = FrozenEncoder(network, transform=transform, weights_sha256="speed")
    tile = torch.randint(0, 256, (64, 3, 224, 224), dtype=torch.uint8)

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        return plain.image_layers(transform.normalize(tile))["output"]

    def ours() -> torch.Tensor:
        return frozen._encode(tile)["output"]

    assert (ours() - theirs()).norm() < 1e-5 * theirs().norm()
    what = "features of `tf_efficientnet_lite0`, channels_last; beside the plain memory format"
    return row(what, "images/s", len(tile), ours, theirs)


def rows(row: Row) -> list[str]:
    transfer, lgssl = FEW_SHOT
    shots = [line for width in (384, 768) for line in few_shot(row, transfer, width)]
    return [*shots, *few_shot(row, lgssl, 384), *neighbours(row), order_captions(row), groups(row), convolutions(row)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        print("\n".join(rows(timing.row)))
