"""Two declarations of one name: without an error, the later one would replace the other."""

from dataclasses import replace

import pytest

from benchmark import evaluations
from benchmark.errors import UserError
from benchmark.evaluations import knn
from datasets_scripts import cc3m, recipe, toy
from datasets_scripts.captions import sources


def test_two_presets_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    dino, *_ = knn.EVALUATIONS
    monkeypatch.setattr(knn, "EVALUATIONS", (dino, replace(dino, temperature=0.1)))
    with pytest.raises(UserError, match=r"^expected one preset of knn named dino, found two; rename one of them$"):
        evaluations.presets("knn")


def test_a_recipe_in_two_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "RECIPES", {**toy.RECIPES, "cc3m": toy.RECIPES["toy"]})
    with pytest.raises(UserError, match=r"^expected one recipe named cc3m, found two"):
        recipe.find("cc3m-10k")


def test_a_source_in_two_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "SOURCES", cc3m.SOURCES, raising=False)
    with pytest.raises(UserError, match=r"^expected one source of captions named cc3m, found two"):
        sources.sources()
