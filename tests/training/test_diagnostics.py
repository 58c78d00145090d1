"""Loggers, spike detector and feature health, each against an independent oracle."""

import json
import math
import random
import sys
import types

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from benchmark.errors import UserError
from benchmark.nn import distributed
from benchmark.training import diagnostics
from benchmark.training.diagnostics import SpikeDetector, health
from benchmark.training.loggers import MetricsLogger

# Loggers


@pytest.fixture(autouse=True)
def _first_event_file(monkeypatch):
    """Number event files from 0: TensorBoard sorts those of one second by name, number 10 before number 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def shown(folder, name="loss"):
    """Return the (step, value) pairs that TensorBoard shows."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars(name)]


def logged(folder, start, stop, every=10, offset=0.0):
    log = MetricsLogger(folder, start)
    for step in range(start + every, stop + 1, every):
        log.write(step, step * 24, {"loss": step + offset, "lr": 0.5})
    return log


def test_a_line_and_an_event_per_logged_step(tmp_path):
    logged(tmp_path, 0, 30).close()
    assert lines(tmp_path)[1] == {"step": 20, "views": 480, "loss": 20.0, "lr": 0.5}
    assert shown(tmp_path) == [(10, 10), (20, 20), (30, 30)] and shown(tmp_path, "lr")[0] == (10, 0.5)


def test_a_resumed_run_shows_every_step_once_with_its_last_value(tmp_path):
    logged(tmp_path, 0, 50).close()
    logged(tmp_path, 20, 40, offset=0.25).close()
    wanted = [(10, 10), (20, 20), (30, 30.25), (40, 40.25)]
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == wanted
    assert shown(tmp_path) == wanted
    logged(tmp_path, 0, 10, offset=0.5).close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == shown(tmp_path) == [(10, 10.5)]


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
    logged(tmp_path, 0, 20).close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    MetricsLogger(tmp_path, 20).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


@pytest.mark.parametrize("damage", ["no json\n", "[1]\n", '{"views": 3}\n', '{"step": "x"}\n'])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_text(damage)
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged .*; remove it, or its folder to start again"):
        MetricsLogger(tmp_path, 10)


def test_non_finite_values_are_null_in_json(tmp_path):
    log = MetricsLogger(tmp_path, 0)
    log.write(10, 240, {"loss": 1.0, "other": math.nan})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert "NaN" not in line and json.loads(line)["other"] is None


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    log = MetricsLogger(tmp_path, 0)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device; free some space"):
        log.write(10, 240, {"loss": 1.0})


def test_without_tensorboard_the_file_is_written_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    logged(tmp_path, 0, 20).close()
    assert len(lines(tmp_path)) == 2 and [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    logged(tmp_path, 0, 20).close()
    assert list(tmp_path.iterdir()) == []


class Service:
    """Fake of the package `wandb`."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.starts, self.steps, self.ends = refuses, [], [], 0

    def init(self, **how):
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.starts.append(how)
        return self

    def log(self, scalars, step):
        self.steps.append((step, scalars))

    def finish(self):
        self.ends += 1


@pytest.fixture
def wandb(monkeypatch):
    def installed(service, project="synrep"):
        found = types.ModuleType("wandb")
        found.init = service.init  # type: ignore[attr-defined]
        found.__spec__ = types.SimpleNamespace(name="wandb")
        monkeypatch.setitem(sys.modules, "wandb", found)
        monkeypatch.setenv("WANDB_PROJECT", project)
        monkeypatch.setenv("WANDB_API_KEY", "secret-key")
        return service

    return installed


def test_wandb_gets_the_same_values_and_resumes_the_same_run(tmp_path, wandb):
    service = wandb(Service())
    folder = tmp_path / "train/smoke/simclr/1/0"
    logged(folder, 0, 20).close()
    logged(folder, 20, 30).close()
    assert [step for step, _ in service.steps] == [10, 20, 30] and service.ends == 2
    assert service.steps[0][1] == {"views": 240, "loss": 10, "lr": 0.5}
    first, second = service.starts
    assert first == second and first["resume"] == "allow" and first["project"] == "synrep"
    assert first["name"] == "smoke/simclr/1/0" and first["dir"] == str(folder)
    other = tmp_path / "other"
    MetricsLogger(other, 0).close()
    assert service.starts[2]["id"] != first["id"]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret-key" not in written


def test_wandb_is_enabled_only_by_the_environment(tmp_path, wandb):
    service = wandb(Service(), project="")
    logged(tmp_path, 0, 10).close()
    assert service.starts == [] and not (tmp_path / "wandb").exists()


def test_a_wandb_failure_is_one_line(tmp_path, wandb):
    wandb(Service(refuses="no key\nconfigured"))
    with pytest.raises(
        UserError, match=r"WANDB_PROJECT is set \(synrep\), but W&B failed to start: no key configured; run `wandb"
    ):
        MetricsLogger(tmp_path, 0)


# Spikes


def noisy(count, level=2.0, noise=0.05):
    rng = random.Random(0)
    return [level + rng.gauss(0, noise) for _ in range(count)]


def fed(losses, spikes=None):
    spikes = spikes or SpikeDetector("smoke/simclr seed 0")
    for index, loss in enumerate(losses):
        spikes.check(10 * (index + 1), loss, 1.0, 1e-3)
    return spikes


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_one_line(loss):
    with pytest.raises(UserError) as raised:
        SpikeDetector("smoke/simclr seed 0").check(5, loss, None, 0.00025)
    assert str(raised.value) == (
        f"smoke/simclr seed 0: the loss is {loss} at step 5 (learning rate 0.00025); "
        "lower the learning rate or lengthen the warm-up"
    )


def test_a_gradient_that_is_not_finite_is_one_line():
    with pytest.raises(UserError, match="the gradient norm is inf at step 5 "):
        SpikeDetector("run").check(5, 1.0, math.inf, 0.1)


def test_spikes_are_counted_and_the_highest_is_named():
    losses = noisy(200)
    losses[60], losses[90], losses[150] = 3.5, 5.0, 4.0
    spikes = fed(losses)
    assert spikes.card() == {"spikes": 3, "worst_spike": 910}
    assert spikes.note == "3 spikes of the loss, the highest at step 910"
    losses[150] = 6.0
    assert fed(losses).card()["worst_spike"] == 1510


def test_noise_and_falling_or_low_losses_are_not_spikes():
    for losses in (noisy(2000), [8 * math.exp(-i / 50) for i in range(500)], [*noisy(100), *[0.0] * 5], [2.0] * 300):
        assert fed(losses).card() == {"spikes": 0} and fed(losses).note == ""


def test_the_threshold_is_ten_deviations_or_ten_percent():
    """Losses of 1, 2 and 3: median 2, deviation 1."""
    course = [1.0, 2.0, 3.0] * 33
    assert fed([*course, 11.9]).count == 0 and fed([*course, 12.1]).count == 1
    assert fed([*[2.0] * 50, 2.19]).count == 0 and fed([*[2.0] * 50, 2.21]).count == 1
    assert fed([0.0] * 50 + [0.1]).count == 1


def test_the_first_losses_are_never_spikes():
    assert fed([1.0] * (diagnostics.MIN_LOSSES - 1) + [100.0]).count == 0
    assert fed([1.0] * diagnostics.MIN_LOSSES + [100.0]).count == 1


def test_a_lasting_new_level_is_a_spike_only_at_first():
    spikes = fed([*noisy(200), *noisy(400, level=4.0)])
    assert 0 < spikes.count <= diagnostics.WINDOW // 2 + 1


def test_a_resumed_count_is_exact():
    losses = noisy(300)
    losses[140], losses[160], losses[250] = 9.0, 4.0, 5.0
    whole = fed(losses)
    for cut in (0, 10, 141, 155, 299):
        state = json.loads(json.dumps(fed(losses[:cut]).state()))
        resumed = SpikeDetector("smoke/simclr seed 0", state)
        for index, loss in enumerate(losses[cut:], cut):
            resumed.check(10 * (index + 1), loss, 1.0, 1e-3)
        assert resumed.state() == whole.state() and resumed.card() == whole.card()
    assert len(whole.state()["losses"]) == diagnostics.WINDOW


# Feature health


def gaussian(rows, width, seed=0, dtype=torch.float32):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def naive(features, labels):
    """Compute all four metrics by loops, in float64."""
    rows = [np.asarray(row, np.float64) for row in features]
    unit = [row / np.linalg.norm(row) for row in rows]
    values = np.linalg.svd(np.array(rows), compute_uv=False)
    shares = [value / sum(values) for value in values if value > 0]
    near, potential = [], []
    for i in range(len(unit)):
        for j in range(i + 1, len(unit)):
            distance = sum((a - b) ** 2 for a, b in zip(unit[i], unit[j], strict=True))
            potential.append(math.exp(-2 * distance))
            if labels[i] == labels[j]:
                near.append(distance)
    deviations = [math.sqrt(np.mean((c - np.mean(c)) ** 2)) for c in np.array(unit).T]
    return {
        "rank": math.exp(-sum(share * math.log(share) for share in shares)),
        "spread": float(np.mean(deviations)),
        "uniformity": math.log(sum(potential) / len(potential)),
        "alignment": sum(near) / len(near),
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_health_equals_a_loop_implementation(dtype, tolerance):
    features, labels = gaussian(24, 7, dtype=dtype) * 3 + 1, torch.tensor([0, 0, 0, 1, 1, 1, 2, 3] * 3)
    found = health(features, labels)
    assert found == pytest.approx(naive(features.tolist(), labels.tolist()), rel=tolerance)


def test_collapsed_features():
    """Equal rows have rank 1, uniformity 0, alignment 0 and spread 0."""
    found = health(gaussian(1, 16).expand(32, -1), torch.arange(32) // 2)
    assert found == pytest.approx({"rank": 1, "uniformity": 0, "alignment": 0, "spread": 0}, abs=2e-3)
    assert diagnostics.collapse_warning(found) == "features have collapsed, their effective rank is 1.0"
    lost = health(torch.zeros(8, 4), torch.arange(8) // 2)
    assert lost["rank"] == 1 and diagnostics.collapse_warning(lost) and all(map(math.isfinite, lost.values()))


def test_isotropic_features_have_almost_full_rank():
    found = health(gaussian(512, 32), torch.arange(512))
    assert 31 < found["rank"] <= 32 + 1e-3 and found["spread"] == pytest.approx(1 / math.sqrt(32), rel=0.01)
    assert diagnostics.collapse_warning(found) == ""
    orthogonal = health(torch.eye(8), torch.arange(8) // 2)
    wanted = {"rank": 8, "uniformity": -4, "alignment": 2, "spread": math.sqrt(1 / 8 - 1 / 64)}
    assert orthogonal == pytest.approx(wanted, rel=1e-5)


def test_two_clusters_are_two_directions():
    """Rank counts directions, whatever their length; alignment sees labels, uniformity does not."""
    first = torch.tensor([[1.0, 0, 0]]).expand(4, -1)
    second = torch.tensor([[0, 1.0, 0]]).expand(4, -1)
    pulled = health(torch.cat([first, second]), torch.tensor([0] * 4 + [1] * 4))
    mixed = health(torch.cat([first, second]), torch.tensor([0, 1] * 4))
    assert pulled["rank"] == pytest.approx(2, abs=1e-5) and pulled["alignment"] == 0
    assert mixed["alignment"] == pytest.approx(2 * 8 / 12) and mixed["uniformity"] == pulled["uniformity"]
    wanted = math.log((12 + 16 * math.exp(-4)) / 28)
    assert pulled["uniformity"] == pytest.approx(wanted, rel=1e-5)


def test_health_does_not_depend_on_scale():
    features, labels = gaussian(20, 6), torch.arange(20) // 2
    assert health(features * 1e4, labels) == pytest.approx(health(features, labels), rel=1e-5)


def test_without_a_second_view_there_is_no_alignment():
    assert set(health(gaussian(9, 4), torch.arange(9))) == {"rank", "spread", "uniformity"}
    assert set(health(gaussian(1, 4), torch.arange(1))) == {"rank", "spread"}


def test_half_precision_is_converted_and_only_the_first_rows_are_used():
    features, labels = gaussian(600, 8), torch.arange(600) // 6
    cut = health(features[: diagnostics.MAX_ROWS], labels[: diagnostics.MAX_ROWS])
    assert health(features, labels) == cut
    assert health(features.bfloat16(), labels) == health(features.bfloat16().float(), labels)
    assert health(features.bfloat16(), labels) == pytest.approx(cut, rel=0.02)


def test_non_finite_or_no_features_have_no_health():
    features = gaussian(4, 3)
    features[1, 1] = math.nan
    assert health(features, torch.arange(4)) == {} == health(features[:0], torch.arange(0))
    assert diagnostics.collapse_warning({}) == ""


def test_health_needs_no_gradient():
    features = gaussian(6, 3).requires_grad_()
    assert all(isinstance(value, float) for value in health(features * 2, torch.arange(6) // 2).values())


def test_the_record_gets_the_diagnostics_of_the_card():
    card = {"fingerprint": "x", "health": {"rank": 3.0}, "spikes": 2, "worst_spike": 20}
    assert diagnostics.record_fields(card) == {"health": {"rank": 3.0}, "spikes": 2, "worst_spike": 20}
    assert diagnostics.record_fields({"fingerprint": "x"}) == {} == diagnostics.record_fields({})
