"""Jobs from experiments to records: files, skipped work, and failures."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmark import evaluations, plugins
from benchmark.errors import UserError
from benchmark.evaluations import few_shot
from benchmark.records import create, store
from benchmark.records.schema import Measured, NotMeasured, Record
from benchmark.runner import jobs
from benchmark.runner.jobs import Job
from benchmark.schema import read_manifest
from benchmark.submission import validate
from benchmark.training import checkpoint, loop
from benchmark.training.execution import ExecutionConfig
from tests.fixtures.doubles import write_scenes
from tests.fixtures.runs import experiment

pytestmark = pytest.mark.slow

EVALUATIONS = plugins.names("benchmark.evaluations")
WITH_TEXTS = ("aro", "fairface", "retrieval", "sugarcrepe", "zero_shot")
"""Evaluations that need a text tower."""
ON_DIGITS = ("few_shot", "knn", "linear_probe")
"""Evaluations that scikit-learn's digits are enough for."""
SIMCLR, CLIP = Job(experiment("simclr", steps=10), 0), Job(experiment("clip", steps=10), 1)
NOWHERE = Job(experiment("mae", revision="0" * 40), 0)


def silent(*_: object) -> None:
    """Discard a progress update."""


def run_job(job: Job, out: Path) -> None:
    jobs.train_and_evaluate(job, out, ExecutionConfig(), silent)


def test_where_the_merged_index_is_kept_is_shown(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[object, ...]] = []
    monkeypatch.setattr(jobs.CaptionImageDataset, "note", "elsewhere")
    monkeypatch.setattr(loop, "train", lambda *_, **__: None)
    jobs.train_job(SIMCLR, tmp_path, ExecutionConfig(), lambda *line: shown.append(line), lambda: False)
    assert shown == [(SIMCLR.label, 0, 10 * SIMCLR.experiment.schedule.batch_views, "elsewhere")]


def test_the_progress_of_training_shows_the_rank_before_the_speed(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[object, ...]] = []
    monkeypatch.setattr(loop, "train", lambda *_, on_step, **__: on_step(240, 1.25, 1999.6, "rank 12"))
    jobs.train_job(SIMCLR, tmp_path, ExecutionConfig(), lambda *line: shown.append(line), lambda: False)
    assert [line[-1] for line in shown] == ["loss 1.250, rank 12, 2,000 views/s"]


def record(out: Path, job: Job, evaluation: str) -> Record:
    preset = next(iter(evaluations.presets(evaluation)))
    return store.read(store.record_path(out / "records", job.key, evaluation, preset))


def skipped(found: Record) -> dict[str, str]:
    return {name: part.skipped for name, part in found.results.items() if isinstance(part, NotMeasured)}


def times(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def machine(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, where the small dataset is found and of the evaluation sets only scikit-learn's digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNREP_DATA", str(small_dataset.parents[1]))
        place = tmp_path_factory.mktemp("machine")
        patch.chdir(place)
        yield place


@pytest.fixture(scope="module")
def finished(machine: Path) -> Path:
    """The output folder of two jobs, done one after the other in this process; copy it before changing it."""
    for job in (SIMCLR, CLIP):
        run_job(job, machine / "finished")
    return machine / "finished"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder that has its times."""
    return shutil.copytree(finished, tmp_path / "out")


def test_the_evaluations_of_these_tests_are_all_there_are() -> None:
    assert sorted((*WITH_TEXTS, *ON_DIGITS, "segmentation")) == EVALUATIONS


# Files


@pytest.mark.parametrize("job", [SIMCLR, CLIP], ids=lambda job: job.label)
def test_every_evaluation_of_a_job_has_its_record(job: Job, finished: Path, small_dataset: Path) -> None:
    weights = (finished / "train" / job.key / "model.safetensors").read_bytes()
    content = read_manifest(small_dataset).content_sha256
    for name in EVALUATIONS:
        found = record(finished, job, name)
        assert found.evaluation.name == name
        assert found.seed == job.seed
        assert found.experiment.fingerprint == create.fingerprint(job.experiment)
        assert found.model.weights_sha256 == hashlib.sha256(weights).hexdigest()
        assert (found.model.layer, found.model.transform["size"]) == ("cls", job.experiment.encoder.image_size)
        assert found.training
        assert found.training.content_sha256 == content
        assert found.seconds["train"] == checkpoint.read_card(finished / "train" / job.key)["seconds"] > 0
        measured = [part for part in found.results.values() if isinstance(part, Measured)]
        assert {part.environment.device for part in measured} <= {"cpu"}
    assert len(store.read_all(finished / "records")) == 2 * len(EVALUATIONS)


def test_present_datasets_are_measured_and_others_have_a_reason(finished: Path) -> None:
    probe = record(finished, SIMCLR, "linear_probe")
    digits = probe.results["digits"]
    assert isinstance(digits, Measured)
    assert digits.dataset.n == 600
    assert digits.scores["top1"].value > digits.chance
    assert set(skipped(probe)) == set(probe.results) - {"digits"}
    assert all("is neither in data/ nor in $SYNREP_DATA" in reason for reason in skipped(probe).values())


def test_a_model_without_a_text_tower_is_recorded_as_skipped(finished: Path) -> None:
    for name in WITH_TEXTS:
        reasons = skipped(record(finished, SIMCLR, name))
        assert set(reasons) == set(next(iter(evaluations.presets(name).values())).datasets)
        assert all(reason.startswith("no text tower") for reason in reasons.values())
        assert all("neither in data/" in reason for reason in skipped(record(finished, CLIP, name)).values())


@pytest.mark.parametrize("job", [SIMCLR, CLIP], ids=lambda job: job.label)
def test_predictions_are_those_of_the_record(job: Job, finished: Path) -> None:
    folder = finished / "predictions" / job.key
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == set(ON_DIGITS)
    for name in ON_DIGITS:
        evaluation = next(iter(evaluations.presets(name).values()))
        digits = record(finished, job, name).results["digits"]
        assert isinstance(digits, Measured)
        assert digits.predictions
        path = folder / f"{name}.{evaluation.preset}" / digits.predictions.file
        assert digits.predictions.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        table = pq.read_table(path)
        values = evaluation.values("digits", {key: table[key].to_numpy() for key in table.column_names})
        assert {key: score.value for key, score in digits.scores.items()} == pytest.approx(values)


# Skipped work


def test_finished_work_is_not_done_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = times(copied)
    monkeypatch.setattr(jobs.FrozenEncoder, "_encode_tiles", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(loop, "_run_steps", lambda *_: pytest.fail("trained again"))
    for job in (SIMCLR, CLIP):
        run_job(job, copied)
    assert times(copied) == before


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Records and predictions that are new or were replaced."""
    return {name for name, when in after.items() if before.get(name) != when and not name.startswith("features/")}


def test_only_a_new_dataset_is_measured(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 6
    columns: dict[str, list[Any]] = {
        "true_caption": [f"a red circle left of number {row}" for row in range(n)],
        "false_caption": [f"number {row} left of a red circle" for row in range(n)],
        "relation_name": ["left of"] * n,
        "bbox_x": [0] * n,
        "bbox_y": [0] * n,
        "bbox_w": [4] * n,
        "bbox_h": [4] * n,
    }
    write_scenes(tmp_path, "scenes-relation", test=columns)
    monkeypatch.chdir(tmp_path)
    before = times(copied)
    for job in (SIMCLR, CLIP):
        run_job(job, copied)
    after = times(copied)
    # Without a text tower the new set cannot be measured either: that record stays as it is.
    place = f"{CLIP.key}/aro.synrep-strict"
    assert changed(before, after) == {f"records/{place}.json", f"predictions/{place}/scenes-relation.parquet"}
    found = record(copied, CLIP, "aro")
    relation = found.results["scenes-relation"]
    assert isinstance(relation, Measured)
    assert relation.dataset.n == n
    assert "scenes-order" in skipped(found)
    run_job(CLIP, copied)
    assert times(copied) == after


def test_a_record_of_another_protocol_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(few_shot.EVALUATIONS[0], episodes=20)
    monkeypatch.setattr(few_shot, "EVALUATIONS", (other,))
    path = copied / f"records/{SIMCLR.key}/few_shot.{other.preset}.json"
    before, stored = times(copied), create.protocol_hash(few_shot.FewShot())
    with pytest.raises(UserError, match=rf"expected protocol {create.protocol_hash(other)}, found {stored}; choose"):
        run_job(SIMCLR, copied)
    assert times(copied) == before
    path.unlink()
    run_job(SIMCLR, copied)
    place = f"{SIMCLR.key}/few_shot.{other.preset}"
    assert changed(before, times(copied)) == {f"records/{place}.json", f"predictions/{place}/digits.parquet"}
    assert record(copied, SIMCLR, "few_shot").evaluation.protocol == create.protocol_hash(other)


def test_a_record_of_other_weights_is_refused(copied: Path) -> None:
    stale = record(copied, SIMCLR, "linear_probe")
    fake = stale.model_copy(update={"model": stale.model.model_copy(update={"weights_sha256": "0" * 64})})
    store.write(fake, copied / "records")
    before = times(copied)
    with pytest.raises(UserError, match=rf"linear_probe.synclr.json: expected weights_sha256 .*, found {'0' * 64}"):
        run_job(SIMCLR, copied)
    assert times(copied) == before


def test_the_folder_of_another_configuration_is_refused(copied: Path) -> None:
    other = replace(SIMCLR.experiment, settings=replace(SIMCLR.experiment.settings, temperature=0.5))  # type: ignore[call-arg]
    before = times(copied)
    with pytest.raises(UserError) as refused:
        run_job(Job(other, SIMCLR.seed), copied)
    for declared in (SIMCLR.experiment, other):
        assert create.fingerprint(declared)[:12] in str(refused.value)
    assert times(copied) == before


# Raw pixels


def test_pixels_are_evaluated_once(machine: Path, tmp_path: Path) -> None:
    jobs.evaluate_pixels(tmp_path, silent)
    found = {one.evaluation.name: one for one in store.read_all(tmp_path / "records")}
    assert sorted(found) == EVALUATIONS
    for name, one in found.items():
        measured = {dataset for dataset, part in one.results.items() if isinstance(part, Measured)}
        assert one.is_pixels and one.key == "pretrained/pixels-16/1/0"
        assert measured == ({"digits"} if name in ON_DIGITS else set())
        if name in WITH_TEXTS:
            assert set(skipped(one).values()) == {"no text tower, so images cannot be compared with texts"}
    assert list(validate.find_problems(tmp_path / "records")) == []
    before = times(tmp_path)
    jobs.evaluate_pixels(tmp_path, silent)
    assert times(tmp_path) == before


# Several processes


def test_processes_change_no_number_and_a_failure_stops_no_other_job(finished: Path, tmp_path: Path) -> None:
    updates: list[tuple[str, int, int, str]] = []
    with pytest.raises(
        UserError, match=r"^1 of 3 runs failed \(test/mae seed 0\): .* expected 0{12}; build or"
    ) as failed:
        jobs.run_jobs([NOWHERE, SIMCLR, CLIP], tmp_path, 2, lambda *words: updates.append(words))
    assert "\n" not in str(failed.value)
    for job in (SIMCLR, CLIP):
        for name in EVALUATIONS:
            there, here = (record(out, job, name).model_dump() for out in (tmp_path, finished))
            for varying in ("seconds", "created"):
                del there[varying], here[varying]
            for part in (*there["results"].values(), *here["results"].values()):
                part.pop("environment", None)  # somebody may be editing the code
            assert there == here
    assert [path.name for path in (tmp_path / "records" / "test").iterdir()].count("mae") == 0
    for job in (SIMCLR, CLIP):
        views = job.experiment.schedule.views
        assert (job.label, views, views) in [(name, done, total) for name, done, total, _ in updates]
        total = sum(len(evaluation.datasets) for _, evaluation in evaluations.select_evaluations((), None, ()))
        assert (f"{job.key} evaluation", total, total, "") in updates


def test_a_worker_that_is_killed_ends_the_run_at_once_and_the_others_keep_their_state(
    machine: Path, tmp_path: Path
) -> None:
    """The kernel does so when memory runs out."""
    work = [Job(experiment("simclr", steps=100_000), seed) for seed in (0, 1, 2)]
    running = [tmp_path / "train" / job.key for job in work[:2]]

    def kill() -> None:
        while not all((folder / "metrics.jsonl").exists() for folder in running):
            time.sleep(0.05)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(UserError, match=r"^a worker process died, .*; run again with fewer --jobs to resume"):
        jobs.run_jobs(work, tmp_path, 2, silent)
    assert multiprocessing.active_children() == []
    assert any((folder / "state.safetensors").exists() for folder in running)


def test_a_second_interrupt_kills_the_workers() -> None:
    class Pool:
        """Pool whose workers do not exit when asked to."""

        def shutdown(self, **_: bool) -> None:
            raise KeyboardInterrupt

    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    worker.start()
    with pytest.raises(KeyboardInterrupt):
        jobs._shut_down(Pool())  # type: ignore[arg-type]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, jobs.SIGNALS)
    worker.join()
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_workers_of_a_killed_parent_exit(machine: Path, tmp_path: Path) -> None:
    """They would compete with the next run otherwise."""
    job = Job(experiment("simclr", steps=100_000), 0)
    parent = os.fork()
    if parent == 0:
        try:
            jobs.run_jobs([job], tmp_path, 1, silent)
        finally:
            os._exit(1)
    while not (tmp_path / "train" / job.key / "metrics.jsonl").exists():
        assert os.waitpid(parent, os.WNOHANG) == (0, 0)
        time.sleep(0.05)
    workers = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert workers
    while any(map(runs, workers)):  # until the time limit of the test
        time.sleep(0.05)


def runs(process: str) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
