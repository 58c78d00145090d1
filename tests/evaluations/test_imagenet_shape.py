"""The parts of `python -m tests.speed.imagenet_shape` at a small size; each compares with its oracle."""

from tests.speed import imagenet_shape
from tests.speed.imagenet_shape import Shape

SMALL = Shape(train=3000, test=300, classes=12, dimensions=8)


def test_logistic_regression_is_scikit_learns_optimum(monkeypatch):
    monkeypatch.setattr(imagenet_shape.chunks, "CHUNK", {"cpu": 5000})
    found = imagenet_shape.optimum(SMALL, (1e-3, 1e-1))
    assert found["chunks"] == "8"
    assert found["equal predictions"] == "600 of 600"


def test_the_whole_probe_converges(monkeypatch):
    monkeypatch.setattr(imagenet_shape.chunks, "WHOLE", 0)
    monkeypatch.setattr(imagenet_shape.chunks, "CHUNK", {"cpu": 5000})
    assert float(imagenet_shape.logistic(SMALL, (1e-3, 1e-1))["top-1"].removesuffix(" %")) > 60


def test_neighbors_and_heads():
    assert imagenet_shape.neighbors(SMALL, 100, 10)["as all pairs in float64"] == "10 of 10 queries"
    assert float(imagenet_shape.heads(SMALL, 20)["top-1 of the best head"].removesuffix(" %")) > 60
