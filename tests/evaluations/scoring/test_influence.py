"""Influence values compared with a bootstrap of the scores, for every evaluation, on predictions of real models."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from benchmark import plugins
from benchmark.analysis import paired
from benchmark.evaluations import presets
from benchmark.evaluations.scoring import influence
from benchmark.evaluations.scoring.segmentation import prediction_columns
from benchmark.interfaces import Evaluation
from benchmark.records import predictions

RESULTS = Path(__file__).parents[3] / "results/predictions"
RESAMPLINGS = 1500
CASES = (
    ("linear_probe", "synclr", "digits", "smoke/clip/2/0", "smoke/mae/2/0"),
    ("knn", "dino", "digits", "smoke/clip/2/0", "smoke/mae/2/0"),
    ("few_shot", "ssl-transfer", "digits", "smoke/clip/2/0", "smoke/mae/2/0"),
    ("zero_shot", "openai", "scenes-shape", "smoke/clip/2/0", "smoke/slip/2/0"),
    ("fairface", "synrep-joint", "scenes-groups", "smoke/clip/2/0", "smoke/slip/2/0"),
    ("aro", "synrep-strict", "scenes-relation", "smoke/clip/2/0", "smoke/slip/2/0"),
    ("retrieval", "karpathy", "scenes-order", "smoke/clip/2/0", "smoke/slip/2/0"),
)

Answers = Mapping[str, np.ndarray]


def resampled(answers: Answers, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of each resampling of whole units."""
    n = len(next(iter(answers.values())))
    unit_N = np.unique(answers["unit"], return_inverse=True)[1] if "unit" in answers else np.arange(n)
    rows = np.split(np.argsort(unit_N, kind="stable"), np.cumsum(np.bincount(unit_N))[:-1])
    for _ in range(RESAMPLINGS):
        yield np.concatenate([rows[unit] for unit in generator.integers(0, len(rows), len(rows))])


def bootstrapped(evaluation: Evaluation, dataset: str, first: Answers, second: Answers) -> dict[str, float]:
    """Return, by score, the variance of the difference over paired resamplings."""
    found: dict[str, list[float]] = {}
    for rows in resampled(first, np.random.default_rng(0)):
        one, other = (
            evaluation.values(dataset, {name: part[rows] for name, part in each.items()}) for each in (first, second)
        )
        for score in one:
            found.setdefault(score, []).append(one[score] - other[score])
    return {score: float(np.var(values)) for score, values in found.items()}


def compare(evaluation: Evaluation, dataset: str, first: Answers, second: Answers, rel: float = 0.16) -> None:
    """Compare with the bootstrap; four standard deviations of its variance are 15 %."""
    found = paired.sample_variances(evaluation, dataset, first, second)
    expected = bootstrapped(evaluation, dataset, first, second)
    assert found.keys() == expected.keys() == evaluation.values(dataset, first).keys()
    for score, variance in expected.items():
        assert found[score] == pytest.approx(variance, rel=rel), score


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset", "dataset", "first", "second"), CASES)
def test_the_variance_of_a_difference_matches_a_bootstrap(
    name: str, preset: str, dataset: str, first: str, second: str
) -> None:
    answers = [predictions.read_file(RESULTS / key / f"{name}.{preset}/{dataset}.parquet") for key in (first, second)]
    compare(presets(name)[preset], dataset, answers[0], answers[1])


def margins(generator: np.random.Generator, shift: float) -> Answers:
    """Return ARO's or SugarCrepe's columns: 200 images of three correlated rows, in five groups."""
    shared = np.random.default_rng(9).normal(size=200)
    margin_N = np.repeat(shared, 3) + generator.normal(size=600) + shift
    columns = {"row": np.arange(600), "unit": np.repeat(np.arange(200), 3), "margin": margin_N}
    return columns | {"group": np.arange(600) % 5, "official": np.arange(600) % 5 < 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preset", "dataset"), [("aro", "official", "aro-vg-relation"), ("sugarcrepe", "sugar-crepe", "sugarcrepe")]
)
def test_rows_of_one_image_are_one_cluster(name: str, preset: str, dataset: str) -> None:
    generator = np.random.default_rng(1)
    first, second = margins(generator, 0.3), margins(generator, 0.0)
    compare(presets(name)[preset], dataset, first, second)


@pytest.mark.slow
def test_captions_of_one_image_are_one_cluster_of_any_size() -> None:
    generator = np.random.default_rng(2)
    captions_U = generator.integers(4, 7, 150)
    unit_T = np.repeat(np.arange(150), captions_U)

    def answers() -> Answers:
        best = generator.integers(1, 30, 150)[unit_T]
        ranks = {"rank": generator.integers(1, 30, len(unit_T)), "best_rank": best}
        return {"row": np.arange(len(unit_T)), "unit": unit_T, "captions": captions_U[unit_T], **ranks}

    compare(presets("retrieval")["karpathy"], "flickr30k", answers(), answers())


@pytest.mark.slow
def test_the_variance_of_mean_average_precision_matches_a_bootstrap() -> None:
    generator = np.random.default_rng(3)
    truth = {f"label_{k}": generator.random(300) < 0.3 for k in range(3)}

    def answers(noise: float) -> Answers:
        scores = {f"score_{k}": truth[f"label_{k}"] + noise * generator.normal(size=300) for k in range(3)}
        return {"row": np.arange(300), **truth, **scores}

    compare(presets("linear_probe")["synclr"], "voc2007", answers(0.5), answers(0.8))


@pytest.mark.slow
def test_the_variance_of_segmentation_matches_a_bootstrap_over_images() -> None:
    generator = np.random.default_rng(5)
    labeled_NK = generator.integers(0, 60, (200, 14)) * (generator.random((200, 14)) < 0.5)

    def answers(right: float) -> Answers:
        intersection_NK = generator.binomial(labeled_NK, generator.beta(8 * right, 8 - 8 * right, (200, 1)))
        wrong_NK = generator.integers(0, 20, (200, 14))
        return prediction_columns(np.stack([intersection_NK, intersection_NK + wrong_NK, labeled_NK], axis=1))

    compare(presets("segmentation")["capi-logreg"], "scenes-masks", answers(0.7), answers(0.6))


def test_every_evaluation_is_tested() -> None:
    """A score with neither influence nor weighted values would have no significance test."""
    tried = {name for name, *_ in CASES} | {"sugarcrepe", "segmentation"}
    assert tried == set(plugins.names("benchmark.evaluations"))


# The values themselves


def numeric(score: Callable[[np.ndarray], float], n: int) -> np.ndarray:
    """Compute influence values by finite differences: the change of a score if a row gets a little more weight."""
    step, even = 1e-6, np.full(n, 1 / n)
    return np.array([(score((1 - step) * even + step * np.eye(n)[row]) - score(even)) / step for row in range(n)]) / n


def test_values_are_the_derivatives_by_weights() -> None:
    generator = np.random.default_rng(4)
    value_N, weight_N = generator.random(12), generator.uniform(0.5, 2, 12)
    group_N = np.array([0, 0, 0, 0, 2, 2, 2, 2, 3, 3, 3, 3])
    plain = numeric(lambda share_N: float(share_N @ value_N), 12)
    assert influence.mean_influence(value_N) == pytest.approx(plain, abs=1e-6)
    ratio = numeric(lambda share_N: float((share_N * weight_N) @ value_N / (share_N @ weight_N)), 12)
    assert influence.weighted_mean_influence(value_N, weight_N) == pytest.approx(ratio, abs=1e-6)

    def macro(share_N: np.ndarray) -> float:
        shares = [share_N * (group_N == group) for group in (0, 2, 3)]
        return float(np.mean([share @ value_N / share.sum() for share in shares]))

    unbiased = np.sqrt(4 / 3)
    assert influence.macro_mean_influence(value_N, group_N) == pytest.approx(unbiased * numeric(macro, 12), abs=1e-6)


def test_the_variance_of_a_mean_is_exact() -> None:
    value_N = np.random.default_rng(5).random(50)
    assert np.square(influence.mean_influence(value_N)).sum() == pytest.approx(value_N.var() / 50)


def test_a_group_of_one_row_has_no_variance() -> None:
    assert influence.macro_mean_influence(np.array([1.0, 0.0, 1.0]), np.array([0, 1, 1]))[0] == 0.0
