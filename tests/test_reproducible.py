"""Scores do not depend on workers or a kill: a real image-text model on copies of catalogued datasets."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import stablerep_plus
from benchmark import evaluations
from benchmark.evaluations.prompts import read_prompts
from benchmark.interfaces import Pretrained
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.records import store
from benchmark.records.schema import Measured
from benchmark.runner.evaluate import EvaluationRun, run_evaluations
from benchmark.training import contract
from benchmark.transforms.evaluation import EvaluationTransform
from tests.fixtures import evaluation_sets

DATASETS = ("digits", "cifar10", "dtd-mteb", "voc2007", "aro-vg-relation", "aro-coco-order", "sugarcrepe", "flickr30k")
DATASETS += ("fairface-0.25",)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Copies of the datasets, small but with enough images for every protocol."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(evaluation_sets.NAMED, "dtd-mteb", tuple(read_prompts("dtd")["classes"]))
    return evaluation_sets.mirror_of(
        [name for name in DATASETS if name != "digits"], monkeypatch, tmp_path / "hub", train=6
    )


def evaluate(out: Path, **how: Any) -> dict[str, Any]:
    """Every evaluation in its default preset; what the records say that does not depend on the machine."""
    model = contract.build(stablerep_plus.METHOD.tiny())
    subject = FrozenEncoder(
        model, transform=EvaluationTransform(16), weights_sha256="a" * 64, store=out / "features", **how
    )
    measured = EvaluationRun(subject, Pretrained("timm:tiny", "tiny", {}), 0, out, "cpu")
    run_evaluations(measured, evaluations.select_evaluations((), None, DATASETS), lambda *_: None)
    return {
        f"{record.evaluation.name} {name}": result.scores
        for record in store.read_all(out / "records")
        for name, result in record.results.items()
        if isinstance(result, Measured)
    }


@pytest.mark.slow
def test_workers_and_kills_move_no_score(mirror: Path, tmp_path: Path) -> None:
    one = evaluate(tmp_path / "one", workers=1)
    assert len(one) >= 14
    assert evaluate(tmp_path / "two", workers=4) == one
    killed = tmp_path / "killed"
    for _ in range(4):
        _killed_after_progress(killed)
    assert evaluate(killed, workers=2) == one


def _killed_after_progress(out: Path) -> None:
    """A process of its own that gets SIGKILL a moment after it wrote something more."""
    before, child = _files(out), os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            evaluate(out)
        finally:
            os._exit(0)
    while _files(out) <= before + 2 and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _files(out: Path) -> int:
    return sum(1 for path in out.rglob("*") if path.is_file())
