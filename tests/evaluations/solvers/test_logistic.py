from collections.abc import Callable
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from benchmark.evaluations.solvers import chunks
from benchmark.evaluations.solvers.logistic import Solution, sweep

N, D, K = 90, 7, 4
PENALTIES = (1e-4, 1e-2, 1.0, 1e2, 1e4)


def features(n: int = N, d: int = D, seed: int = 0) -> np.ndarray:
    """Return correlated dimensions of different scales and nonzero means."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) / np.arange(1, d + 1) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


X_ND = features()
LABEL_N = np.argmax(2 * features()[:, :K] + np.random.default_rng(1).gumbel(size=(N, K)), axis=1)
MANY_NK = features()[:, :K] + np.random.default_rng(2).logistic(size=(N, K)) > [0, 0.5, 1, -1]


def fit(x_ND: np.ndarray = X_ND, target: np.ndarray = LABEL_N, c: float = 1.0, **options) -> Solution:
    return next(sweep(x_ND, target, [c], **options))


def objective(x_ND: np.ndarray, target: np.ndarray, weights_DK: np.ndarray, bias_K: np.ndarray, c: float) -> float:
    logits_NK = x_ND @ weights_DK + bias_K
    if target.ndim == 1:
        loss_N = np.logaddexp.reduce(logits_NK, axis=1) - logits_NK[np.arange(len(x_ND)), target]
    else:
        loss_N = np.logaddexp(0, np.where(target, -1, 1) * logits_NK).sum(axis=1)
    return float(loss_N.mean() + np.sum(weights_DK**2) / (2 * c * len(x_ND)))


def gradient(x_ND: np.ndarray, target: np.ndarray, weights_DK: np.ndarray, bias_K: np.ndarray, c: float) -> np.ndarray:
    """Return the gradient (D + 1, K), the bias last."""
    logits_NK = x_ND @ weights_DK + bias_K
    if target.ndim == 1:
        p_NK = np.exp(logits_NK - np.logaddexp.reduce(logits_NK, axis=1, keepdims=True))
        p_NK[np.arange(len(x_ND)), target] -= 1
    else:
        p_NK = 1 / (1 + np.exp(-logits_NK)) - target
    return np.vstack([x_ND.T @ p_NK / len(x_ND) + weights_DK / (c * len(x_ND)), p_NK.mean(axis=0)])


def oracle(x_ND: np.ndarray, label_N: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    model = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=100_000).fit(x_ND, label_N)
    return model.coef_.T, model.intercept_


def same_optimum(found: Solution, x_ND: np.ndarray, target: np.ndarray, weights_DK: np.ndarray, bias_K: np.ndarray):
    assert found.converged
    assert found.objective == pytest.approx(objective(x_ND, target, weights_DK, bias_K, found.c), rel=1e-6)
    largest = np.abs(weights_DK).max()
    np.testing.assert_allclose(found.weights_DK, weights_DK, rtol=1e-3, atol=1e-3 * largest)
    np.testing.assert_allclose(found.bias_K, bias_K, rtol=1e-3, atol=1e-3 * np.abs(bias_K).max())


def in_chunks(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """Compute in chunks of so many numbers, however small the whole."""
    monkeypatch.setattr(chunks, "WHOLE", 0)
    monkeypatch.setattr(chunks, "CHUNK", {"cpu": numbers})


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most that torch has allocated at once during `work`."""
    options = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True, "acc_events": True}
    with torch.profiler.profile(**options) as recorded:
        work()
    events = recorded.profiler.kineto_results.events()
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


@pytest.mark.parametrize("chunk", [None, 100])
@pytest.mark.parametrize("c", PENALTIES)
def test_softmax_is_scikit_learns_optimum(c: float, chunk: int | None, monkeypatch):
    if chunk:
        in_chunks(monkeypatch, chunk)
    same_optimum(fit(c=c), X_ND, LABEL_N, *oracle(X_ND, LABEL_N, c))


@pytest.mark.parametrize("c", PENALTIES)
def test_softmax_is_scikit_learns_optimum_with_more_dimensions_than_rows(c: float):
    wide_ND = features(N, 2 * N, seed=5)
    weights_DK, bias_K = oracle(wide_ND, LABEL_N, c)
    found = fit(wide_ND, c=c)
    assert found.objective == pytest.approx(objective(wide_ND, LABEL_N, weights_DK, bias_K, c), rel=1e-6)
    np.testing.assert_allclose(found.weights_DK, weights_DK, rtol=1e-3, atol=1e-3 * np.abs(weights_DK).max())


@pytest.mark.parametrize("c", PENALTIES)
def test_each_label_is_scikit_learns_binary_optimum(c: float):
    found = fit(target=MANY_NK, c=c, link="sigmoid")
    each = [oracle(X_ND, label_N, c) for label_N in MANY_NK.T]
    weights_DK, bias_K = (np.concatenate(parts, axis=-1) for parts in zip(*each))
    same_optimum(found, X_ND, MANY_NK, weights_DK, bias_K)
    for label, (weights_D1, bias_1) in enumerate(each):
        label_N1 = MANY_NK[:, [label]]
        best = objective(X_ND, label_N1, weights_D1, bias_1, c)
        mine = objective(X_ND, label_N1, found.weights_DK[:, [label]], found.bias_K[[label]], c)
        assert mine == pytest.approx(best, rel=1e-6)


def test_two_classes_are_scikit_learns_at_half_the_penalty():
    label_N = (LABEL_N > 1).astype(int)
    weights_D1, bias_1 = oracle(X_ND, label_N, 2.0)
    found = fit(target=label_N, c=1.0)
    np.testing.assert_allclose(found.weights_DK @ [-1, 1], weights_D1[:, 0], rtol=1e-3, atol=1e-4)
    assert found.bias_K @ [-1, 1] == pytest.approx(bias_1[0], rel=1e-3)


@pytest.mark.parametrize(("target", "link"), [(LABEL_N, "softmax"), (MANY_NK, "sigmoid")])
class TestBothLinks:
    def test_a_warm_fit_is_the_cold_one(self, target: np.ndarray, link: str):
        for warm in sweep(X_ND, target, PENALTIES, link=link, tolerance=1e-12):
            cold = fit(target=target, c=warm.c, link=link, tolerance=1e-12)
            begun = fit(target=target, c=warm.c, link=link, tolerance=1e-12, start=cold)
            assert begun.iterations <= 2 < cold.iterations
            for other in (cold, begun):
                assert warm.objective == pytest.approx(other.objective, rel=1e-11)
                np.testing.assert_allclose(warm.weights_DK, other.weights_DK, rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(warm.bias_K, other.bias_K, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("size", [8, 29, 30])
    def test_chunks_have_the_same_optimum(self, target: np.ndarray, link: str, size: int, monkeypatch):
        """90 rows in chunks of 8 or 29 and a smaller last one, and in chunks of 30."""
        whole = list(sweep(X_ND, target, PENALTIES, link=link, tolerance=1e-10))
        in_chunks(monkeypatch, size * K)
        assert len(chunks.row_chunks(N, K)) == -(-N // size)
        for found, expected in zip(sweep(X_ND, target, PENALTIES, link=link, tolerance=1e-10), whole):
            assert found.converged
            assert found.objective == pytest.approx(expected.objective, rel=1e-9)
            np.testing.assert_allclose(found.weights_DK, expected.weights_DK, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(found.bias_K, expected.bias_K, rtol=1e-3, atol=1e-5)
            slope_DK = gradient(X_ND, target, found.weights_DK, found.bias_K, found.c)
            assert found.gradient == pytest.approx(np.abs(slope_DK).max(), rel=1e-6, abs=1e-14)

    def test_memory_grows_with_the_features_only(self, target: np.ndarray, link: str, monkeypatch):
        """Features and targets in float64 and float32: with 128 classes, logits would be 512 bytes or more a row."""
        in_chunks(monkeypatch, 4000)
        peaks = []
        for rows in (300, 600):
            x_ND, label_N = np.resize(X_ND, (rows, D)), np.arange(rows) % 128
            wide = label_N if link == "softmax" else np.eye(128, dtype=bool)[label_N]
            peaks.append(peak_bytes(lambda: fit(x_ND, wide, link=link, max_iterations=6)))  # noqa: B023
        targets = 16 if link == "softmax" else 2 * 128
        assert peaks[1] - peaks[0] < 300 * (12 * (D + 1) + targets) * 1.1

    def test_reports_its_objective_and_gradient(self, target: np.ndarray, link: str):
        for limit in (1, 5):
            found = fit(target=target, c=10.0, link=link, max_iterations=limit)
            where = X_ND, target, found.weights_DK, found.bias_K, 10.0
            assert not found.converged and found.iterations <= limit
            assert found.objective == pytest.approx(objective(*where), rel=1e-12)
            slope_DK = gradient(*where)
            assert found.gradient == pytest.approx(np.abs(slope_DK).max(), rel=1e-9)
            for row, column in ((0, 0), (D - 1, 2), (D, 1)):
                nudge_DK = np.zeros((D + 1, K))
                nudge_DK[row, column] = 1e-5
                up, down = (
                    objective(X_ND, target, found.weights_DK + s * nudge_DK[:D], found.bias_K + s * nudge_DK[D], 10.0)
                    for s in (1, -1)
                )
                assert (up - down) / 2e-5 == pytest.approx(slope_DK[row, column], rel=1e-5, abs=1e-9)

    @pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
    def test_the_gap_is_within_the_tolerance(self, target: np.ndarray, link: str, tolerance: float):
        cs = (1e-2, 1.0, 1e2, 1e4)
        loose = sweep(X_ND, target, cs, link=link, tolerance=tolerance)
        best = sweep(X_ND, target, cs, link=link, tolerance=1e-13)
        for found, optimum in zip(loose, best):
            assert found.converged and optimum.converged
            assert -1e-12 <= found.objective / optimum.objective - 1 <= tolerance

    def test_the_bound_is_the_duality_gap(self, target: np.ndarray, link: str):
        tolerance = 1e-4
        for found in sweep(X_ND, target, PENALTIES, link=link, tolerance=tolerance):
            slope_DK = gradient(X_ND, target, found.weights_DK, found.bias_K, found.c)[:D]
            assert np.sum(slope_DK**2) * found.c * N / 2 <= tolerance * found.objective

    def test_classes_keep_their_columns(self, target: np.ndarray, link: str):
        order = np.array([2, 0, 3, 1])
        moved = order[target] if link == "softmax" else target[:, np.argsort(order)]
        plain, other = fit(target=target, link=link), fit(target=moved, link=link)
        np.testing.assert_allclose(other.weights_DK[:, order], plain.weights_DK, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other.bias_K[order], plain.bias_K, rtol=1e-4, atol=1e-5)

    def test_two_runs_are_bitwise_equal(self, target: np.ndarray, link: str):
        for one, two in zip(*(sweep(X_ND, target, PENALTIES, link=link) for _ in range(2))):
            assert one.weights_DK.tobytes() == two.weights_DK.tobytes()
            assert one.bias_K.tobytes() == two.bias_K.tobytes()

    def test_solutions_do_not_change_later(self, target: np.ndarray, link: str):
        sums = [(found, found.weights_DK.sum(), found.bias_K[0]) for found in sweep(X_ND, target, PENALTIES, link=link)]
        assert all(found.weights_DK.sum() == w and found.bias_K[0] == b for found, w, b in sums)
        assert all(np.any(a.weights_DK != b.weights_DK) for (a, *_), (b, *_) in pairwise(sums))

    def test_a_dead_dimension_has_no_weight(self, target: np.ndarray, link: str):
        plain = fit(target=target, link=link)
        found = fit(np.insert(X_ND, 3, 0.0, axis=1), target, link=link)
        np.testing.assert_allclose(found.weights_DK[3], 0.0, atol=1e-12)
        np.testing.assert_allclose(np.delete(found.weights_DK, 3, axis=0), plain.weights_DK, rtol=1e-4, atol=1e-5)

    def test_a_duplicated_dimension_shares_its_weight(self, target: np.ndarray, link: str):
        weighed = fit(X_ND * [np.sqrt(2), *[1] * (D - 1)], target, link=link)
        found = fit(np.hstack([X_ND, X_ND[:, :1]]), target, link=link)
        np.testing.assert_allclose(found.weights_DK[0], found.weights_DK[-1], rtol=1e-6)
        np.testing.assert_allclose(found.weights_DK[0], weighed.weights_DK[0] / np.sqrt(2), rtol=1e-4, atol=1e-5)

    def test_constant_features_leave_the_prior(self, target: np.ndarray, link: str):
        share_K = np.bincount(target) / N if link == "softmax" else target.mean(axis=0)
        prior_K = np.log(share_K) if link == "softmax" else np.log(share_K / (1 - share_K))
        for found in sweep(np.full((N, D), 3.7), target, PENALTIES, link=link):
            assert found.converged
            np.testing.assert_allclose(found.weights_DK, 0.0, atol=1e-12)
            np.testing.assert_allclose(np.diff(found.bias_K), np.diff(prior_K), rtol=1e-6)

    @pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
    def test_scale_is_a_change_of_penalty(self, target: np.ndarray, link: str, scale: float):
        plain, found = fit(target=target, link=link), fit(scale * X_ND, target, scale**-2, link=link)
        assert found.converged
        assert found.objective == pytest.approx(plain.objective, rel=1e-7)
        np.testing.assert_allclose(found.weights_DK * scale, plain.weights_DK, rtol=1e-3, atol=1e-4)

    def test_a_shift_moves_the_bias_only(self, target: np.ndarray, link: str):
        plain, found = fit(target=target, link=link), fit(X_ND + 1e4, target, link=link)
        np.testing.assert_allclose(found.weights_DK, plain.weights_DK, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.logits(X_ND + 1e4), plain.logits(X_ND), rtol=1e-4, atol=1e-5)

    def test_more_dimensions_than_rows(self, target: np.ndarray, link: str):
        wide_ND = features(N, 3 * N, seed=5)
        kernel_ND = np.linalg.svd(wide_ND, full_matrices=False)
        narrow_ND = kernel_ND.U * kernel_ND.S
        for wide, narrow in zip(*(sweep(x_ND, target, PENALTIES, link=link) for x_ND in (wide_ND, narrow_ND))):
            assert wide.converged and wide.weights_DK.shape == (3 * N, K)
            assert wide.objective == pytest.approx(narrow.objective, rel=1e-7)
            slope_DK = gradient(wide_ND, target, wide.weights_DK, wide.bias_K, wide.c)
            assert wide.gradient == pytest.approx(np.abs(slope_DK).max(), rel=1e-3, abs=1e-12)

    def test_separable_rows_at_the_weakest_penalty(self, target: np.ndarray, link: str):
        clean = X_ND @ np.random.default_rng(3).standard_normal((D, K))
        target = clean.argmax(axis=1) if link == "softmax" else clean > np.quantile(clean, 0.4, axis=0)
        cs = 1 / np.logspace(5, -6, 45)
        found = list(sweep(X_ND, target, cs, link=link))
        assert all(one.converged for one in found)
        assert all(a.objective > b.objective > 0 for a, b in pairwise(found))
        last = found[-1]
        assert np.all(last.logits(X_ND).argmax(1) == target if link == "softmax" else (last.logits(X_ND) > 0) == target)
        assert fit(X_ND, target, cs[-1], link=link).objective == pytest.approx(last.objective, rel=1e-7)


def test_separable_rows_are_scikit_learns():
    label_N = (X_ND @ np.random.default_rng(3).standard_normal((D, K))).argmax(axis=1)
    weights_DK, bias_K = oracle(X_ND, label_N, 1e4)
    assert fit(X_ND, label_N, 1e4).objective <= objective(X_ND, label_N, weights_DK, bias_K, 1e4) * (1 + 1e-6)


def test_a_class_without_rows_is_impossible():
    plain, found = fit(), fit(target=np.where(LABEL_N > 1, LABEL_N + 1, LABEL_N), classes=K + 2)
    there = [0, 1, 3, 4]
    np.testing.assert_array_equal(found.bias_K[[2, 5]], -np.inf)
    np.testing.assert_array_equal(found.weights_DK[:, [2, 5]], 0.0)
    np.testing.assert_array_equal(found.weights_DK[:, there], plain.weights_DK)
    np.testing.assert_array_equal(found.logits(X_ND).argmax(axis=1), np.take(there, plain.logits(X_ND).argmax(axis=1)))


def test_a_start_may_lack_classes():
    few = fit(X_ND[LABEL_N < 3], LABEL_N[LABEL_N < 3], classes=K)
    same_optimum(fit(start=few), X_ND, LABEL_N, *oracle(X_ND, LABEL_N, 1.0))
    fewer = fit(X_ND[LABEL_N < 3], LABEL_N[LABEL_N < 3], classes=K, start=fit())
    np.testing.assert_allclose(fewer.weights_DK, few.weights_DK, rtol=1e-3, atol=1e-4)


def test_labels_of_no_row_or_all_rows_are_constant():
    target = np.hstack([MANY_NK, np.zeros((N, 1), bool), np.ones((N, 1), bool)])
    plain, found = fit(target=MANY_NK, link="sigmoid"), fit(target=target, link="sigmoid")
    np.testing.assert_array_equal(found.bias_K[K:], [-np.inf, np.inf])
    np.testing.assert_array_equal(found.weights_DK[:, K:], 0.0)
    np.testing.assert_array_equal(found.weights_DK[:, :K], plain.weights_DK)
    assert fit(target=target[:, K:], link="sigmoid").objective == 0.0


def test_a_single_class_has_zero_loss():
    found = fit(target=np.zeros(N, dtype=int))
    assert found.converged and found.objective == 0.0 and not found.weights_DK.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_features_that_are_not_finite(bad: float):
    with pytest.raises(ValueError, match="finite"):
        fit(np.where(np.arange(D) == 2, bad, X_ND))
