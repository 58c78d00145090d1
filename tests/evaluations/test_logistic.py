"""The solver beside scikit-learn's, finite differences, and the inputs that break solvers."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from benchmark.evaluations._logistic import Solution, sweep

PATH = tuple(10.0 ** np.linspace(-5, 6, 12))


def data(n=240, d=20, k=5, seed=0, apart=0.6):
    generator = np.random.default_rng(seed)
    label = np.concatenate([np.arange(k), generator.integers(0, k, n - k)])
    x = generator.standard_normal((n, d)) @ generator.standard_normal((d, d)) / np.sqrt(d)
    return x + apart * generator.standard_normal((k, d))[label], label


def objective(x, label, c, weights_DK, bias_K):
    logits_NK = x @ weights_DK + bias_K
    loss = (logsumexp(logits_NK, axis=1) - logits_NK[np.arange(len(x)), label]).mean()
    return loss + np.square(weights_DK).sum() / (2 * c * len(x))


def solve(x, target, cs, **knobs) -> list[Solution]:
    return list(sweep(x, target, cs, **{"tolerance": 1e-8, "max_iterations": 2000, **knobs}))


@pytest.mark.parametrize("shape", [(240, 20, 5), (60, 100, 6), (300, 8, 3)])
def test_every_penalty_reaches_scikit_learns_optimum(shape):
    x, label = data(*shape)
    for found in solve(x, label, PATH):
        theirs = LogisticRegression(C=found.c, tol=1e-12, max_iter=50_000).fit(x, label)
        best = objective(x, label, found.c, theirs.coef_.T, theirs.intercept_)
        assert found.converged
        assert found.objective == pytest.approx(objective(x, label, found.c, found.weights_DK, found.bias_K), rel=1e-9)
        assert found.objective <= best * (1 + 1e-6)
        if found.c <= 100:  # the objective is flat beyond
            assert found.weights_DK == pytest.approx(theirs.coef_.T, abs=2e-3 * np.abs(theirs.coef_).max())
            assert (found.logits(x).argmax(1) == theirs.predict(x)).mean() > 0.99


def test_several_labels_are_binary_fits():
    x, _ = data()
    target = np.random.default_rng(1).random((240, 3)) < 1 / (1 + np.exp(-x[:, :3]))
    for found in solve(x, target, (1e-3, 0.1, 1.0, 30.0), link="sigmoid"):
        for k in range(3):
            theirs = LogisticRegression(C=found.c, tol=1e-12, max_iter=50_000).fit(x, target[:, k])
            assert found.weights_DK[:, k] == pytest.approx(theirs.coef_[0], abs=2e-3 * np.abs(theirs.coef_).max())
            assert found.bias_K[k] == pytest.approx(theirs.intercept_[0], abs=5e-3)


def test_the_gradient_it_reports_is_the_objectives():
    x, label = data(40, 4, 3)
    (found,) = solve(x, label, (0.5,), max_iterations=2)
    flat = np.concatenate([found.weights_DK.ravel(), found.bias_K])

    def at(values):
        return objective(x, label, 0.5, values[:12].reshape(4, 3), values[12:])

    assert found.gradient == pytest.approx(np.abs(approx_fprime(flat, at, 1e-7)).max(), rel=1e-2, abs=1e-6)


def test_a_fit_that_is_cut_short_says_so():
    x, label = data(apart=0.1)
    (found,) = solve(x, label, (1e4,), max_iterations=2)
    assert not found.converged
    assert found.iterations <= 3


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_converged_means_within_the_tolerance_of_the_optimum(tolerance):
    x, label = data(seed=3)
    best = [found.objective for found in solve(x, label, PATH, tolerance=1e-11)]
    for found, optimum in zip(solve(x, label, PATH, tolerance=tolerance), best):
        assert found.converged
        assert 0 <= found.objective - optimum + 1e-12 * optimum <= tolerance * found.objective


def test_a_start_and_the_path_change_no_optimum():
    x, label = data()
    path = solve(x, label, (0.01, 0.1, 1.0))
    (cold,) = solve(x, label, (1.0,))
    (warm,) = solve(x, label, (1.0,), start=path[1])
    for other in (path[2], warm):
        assert other.weights_DK == pytest.approx(cold.weights_DK, abs=1e-3)
        assert other.objective == pytest.approx(cold.objective, rel=1e-7)


@pytest.mark.parametrize("case", ["dead", "doubled", "constant", "huge", "tiny", "separable", "wide", "two", "shifted"])
def test_inputs_that_break_solvers(case):
    x, label = data(120, 12, 4)
    changed = {
        "dead": lambda: np.hstack([x, np.zeros((120, 2))]),
        "doubled": lambda: np.hstack([x, x]),
        "constant": lambda: np.full((120, 12), 0.3),
        "huge": lambda: 1e4 * x,
        "tiny": lambda: 1e-4 * x,
        "separable": lambda: np.eye(4)[label] * 5 + 0.01 * x[:, :4],
        "wide": lambda: np.hstack([x, np.random.default_rng(0).standard_normal((120, 200))]),
        "two": lambda: x,
        "shifted": lambda: x + 100.0,
    }[case]()
    if case == "two":
        label = label % 2
    for found in solve(changed, label, (1e-5, 1e-2, 1.0, 1e3, 1e6)):
        assert found.converged
        assert np.isfinite(found.weights_DK).all() and np.isfinite(found.bias_K).all()
        assert found.objective == pytest.approx(
            objective(changed, label, found.c, found.weights_DK, found.bias_K), rel=1e-4, abs=1e-9
        )
    if case == "constant":
        share = np.bincount(label) / len(label)
        assert np.exp(found.logits(changed)[0] - logsumexp(found.logits(changed)[0])) == pytest.approx(share, abs=1e-4)


def test_a_class_without_rows_is_never_predicted():
    x, label = data(k=3)
    with_gap = np.where(label == 2, 3, label)
    found, plain = solve(x, with_gap, (1.0,), classes=5)[0], solve(x, label, (1.0,))[0]
    logits = found.logits(x)
    assert set(logits.argmax(1)) == {0, 1, 3}
    assert logits[:, [0, 1, 3]] == pytest.approx(plain.logits(x), abs=1e-3)


def test_solutions_do_not_share_memory_and_repeat_to_the_bit():
    x, label = data()
    first, second = solve(x, label, PATH), solve(x, label, PATH)
    for one, other in zip(first, second):
        assert np.array_equal(one.weights_DK, other.weights_DK) and np.array_equal(one.bias_K, other.bias_K)
    assert not np.array_equal(first[0].weights_DK, first[1].weights_DK)


def test_features_that_are_not_finite_are_refused():
    x, label = data()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        solve(x, label, (1.0,))
