"""Earlier states, and resuming from them."""

import itertools
import json
import shutil
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmark.errors import UserError
from benchmark.files import file_sha256, write_json
from benchmark.training import checkpoint, loop
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.diagnostics import SpikeDetector
from tests.fixtures.descriptors import free_descriptors
from tests.fixtures.runs import experiment, metrics, train_here
from tests.fixtures.small_datasets import RECIPE
from tests.training.test_loop import Sum, interrupted

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
RUN = checkpoint.Run(experiment="test", fingerprint="a", seed=0, content_sha256="b")
FACTS = {"experiment": "test", "fingerprint": "a", "seed": "0", "content_sha256": "b", "seconds": "1.5"}
FACTS["spikes"] = json.dumps(SpikeDetector("test").state())


def saved(folder: Path, step: int, steps: int = 100) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(folder, model, optimizer, step, steps, FACTS)


def states(folder: Path) -> list[int]:
    return [int(path.stem) for path in checkpoint._earlier_states(folder)]


def test_the_newest_three_are_kept_a_tenth_of_the_schedule_apart(tmp_path: Path) -> None:
    for step in (3, 9, 10, 15, 19, 20, 21, 35, 44, 45, 60):
        saved(tmp_path, step)
    assert states(tmp_path) == [35, 45, 60]
    facts, _ = checkpoint.read(tmp_path / checkpoint.LATEST, CPU)
    assert facts == {"step": "60", "moments": "[]"} | FACTS


def test_too_many_open_files_do_not_make_a_checkpoint_damaged(tmp_path: Path) -> None:
    """Nobody is told to remove it."""
    saved(tmp_path, 3)
    with (
        free_descriptors(0),
        pytest.raises(UserError, match=r"state\.safetensors cannot be opened .*`ulimit -n`\)$"),
    ):
        checkpoint.read(tmp_path / checkpoint.LATEST, CPU)
    with free_descriptors(0), pytest.raises(UserError, match=r"model\.json cannot be opened .*`ulimit -n`\)$"):
        checkpoint.read_card(tmp_path)


def test_a_run_resumes_from_the_newest_state_present(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_INTERVAL_FACTOR", 0)
    declared = experiment("stablerep")
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    run = tmp_path / "run"
    interrupted(declared, small_data, run, step=30, save_seconds=0.0)
    assert states(run)[-1] >= 24
    (run / checkpoint.LATEST).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"remove .*state\.safetensors to resume from an earlier state, or"):
        train_here(declared, small_data, run)
    (run / checkpoint.LATEST).unlink()
    first = checkpoint._earlier_states(run)[-1]
    views_seen: list[int] = []
    assert train_here(declared, small_data, run, on_step=lambda views, *_: views_seen.append(views)) == undisturbed
    assert views_seen[0] // 24 > int(first.stem), "it did not resume from there"
    assert [line["step"] for line in metrics(run)] == [10, 20, 30, 40]
    assert not (run / checkpoint.HISTORY_DIR).exists(), "a finished run keeps no states"


def test_partial_files_of_a_killed_run_are_removed(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    for name in (".state.safetensors.1.0123abcd.tmp", "states/.000000010.safetensors.1.0123abcd.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    train_here(experiment("simclr", steps=10), small_data, tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_moments_have_the_memory_layout_of_their_parameters(tmp_path: Path) -> None:
    """A fused optimizer pairs them by memory offset: channels_last weights would get the moments of other weights."""

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = made()
    model(torch.randn(1, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, model, optimizer, 1, 2, FACTS)
    other, restored = made()
    checkpoint.load(tmp_path, other, restored, RUN, 2, CPU)
    for parameter, mine in zip(other.parameters(), model.parameters()):
        assert torch.equal(parameter, mine)
        for name in ("exp_avg", "exp_avg_sq"):
            moment = restored.state[parameter][name]
            assert moment.stride() == parameter.stride() == mine.stride()
            assert torch.equal(moment, optimizer.state[mine][name])


def test_saving_takes_at_most_its_share_of_the_time(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks when it is read; saving takes 3 ticks, a step one or, with a line of metrics, two."""
    assert 1 / loop.SAVE_INTERVAL_FACTOR <= 0.005
    monkeypatch.setattr(loop, "SAVE_INTERVAL_FACTOR", 20)
    saved, began, clock = [], [], itertools.count()

    def slow(*arguments: object) -> None:
        saved.append(arguments[3])
        began.append(next(clock))
        next(clock)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    train_here(experiment("simclr", steps=130), small_data, tmp_path, save_seconds=0.0)
    assert saved[0] == 3  # due after the first step, which is known of the second when the third has started
    waits = {later - earlier - 3 for earlier, later in itertools.pairwise(began)}
    assert len(saved) > 2
    assert all(loop.SAVE_INTERVAL_FACTOR * 3 <= wait < loop.SAVE_INTERVAL_FACTOR * 3 + 5 for wait in waits)


@pytest.fixture(scope="module")
def interrupted_run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of seed 0 that was interrupted at step 10."""
    folder = tmp_path_factory.mktemp("run")
    interrupted(experiment("simclr"), CaptionImageDataset(small_dataset, RECIPE.revision), folder, step=10)
    return folder


@pytest.fixture
def run(interrupted_run: Path, tmp_path: Path) -> Path:
    """Copy of the interrupted run."""
    return Path(shutil.copytree(interrupted_run, tmp_path / "run"))


def rewrite(folder: Path, change: Callable[[dict[str, str], dict[str, torch.Tensor]], object]) -> bytes:
    """Rewrite the latest state after `change(facts, tensors)`, and return its bytes."""
    facts, tensors = checkpoint.read(folder / checkpoint.LATEST, CPU)
    change(facts, tensors)
    checkpoint._write(folder / checkpoint.LATEST, tensors, facts)
    return (folder / checkpoint.LATEST).read_bytes()


WEIGHT, MOMENT = "model/vit.cls_token", "optimizer/0/exp_avg"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts, _: facts.update(seed="1"), "is of another run: seed 1, expected 0; move it"),
        (lambda facts, _: facts.update(experiment="test/clip"), "experiment test/clip, expected test/simclr"),
        (lambda facts, _: facts.update(content_sha256="c" * 64), "content_sha256 cccc.*, expected"),
        (
            lambda facts, _: facts.pop("seed"),
            "does not contain the seed of its run, .* finish the run",
        ),
        (lambda facts, _: facts.pop("fingerprint"), "another configuration: fingerprint none"),
        (lambda facts, _: facts.update(step="1000000"), "is at step 1000000, expected at most 40"),
        (lambda facts, _: facts.update(step="-1"), r"\(step: .*greater than or equal to 0"),
        (lambda facts, _: facts.update(step="ten"), r"\(step: .*valid integer"),
        (lambda facts, _: facts.pop("step"), r"\(step: Field required"),
        (lambda facts, _: facts.update(seconds="nan"), r"\(seconds: .*finite"),
        (lambda facts, _: facts.update(seconds="-2"), r"\(seconds: "),
        (lambda facts, _: facts.update(spikes="{"), r"\(spikes: Invalid JSON"),
        (lambda facts, _: facts.update(spikes="[" * 100_000), r"\(spikes: Invalid JSON"),
        (lambda facts, _: facts.update(spikes='{"losses": ["a"]}'), r"\(spikes"),
        (lambda facts, _: facts.update(moments="[0, 1000]"), r"does not fit the model, .* unknown: optimizer/"),
        (lambda facts, _: facts.update(moments="none"), r"\(moments: "),
        (lambda _, tensors: tensors.pop(WEIGHT), rf"1 missing: {WEIGHT}; remove .*run to start again"),
        (lambda _, tensors: tensors.pop(MOMENT), rf"1 missing: {MOMENT}"),
        (lambda _, tensors: tensors.update({"model/more": torch.zeros(1)}), "1 unknown: model/more"),
        (lambda _, tensors: tensors.update({"other": torch.zeros(1)}), "1 unknown: other"),
        (lambda _, tensors: tensors.update({"optimizer/a/b": torch.zeros(1)}), "1 unknown: optimizer/a/b"),
        (
            lambda _, tensors: tensors.update({WEIGHT: torch.zeros(1, 1, 31)}),
            rf"1 of wrong shape: {WEIGHT} \(1, 1, 31\) float32 instead of \(1, 1, 32\) float32",
        ),
        (lambda _, tensors: tensors.update({MOMENT: torch.zeros(3)}), rf"1 of wrong shape: {MOMENT}"),
        (lambda _, tensors: tensors.update({WEIGHT: tensors[WEIGHT].half()}), "float16 instead of"),
    ],
)
def test_a_state_that_is_not_of_this_run_is_one_line_and_kept(
    change: Callable[..., object], said: str, run: Path, small_data: CaptionImageDataset
) -> None:
    state, log = rewrite(run, change), (run / "metrics.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(UserError, match=said) as refused:
            train_here(experiment("simclr"), small_data, run)
        assert "\n" not in str(refused.value)
        assert str(run / checkpoint.LATEST) in str(refused.value)
        assert len(str(refused.value)) < 700
    assert (run / checkpoint.LATEST).read_bytes() == state
    assert (run / "metrics.jsonl").read_bytes() == log
    assert not (run / checkpoint.CARD).exists()


def test_earlier_states_of_an_earlier_version_are_no_way_out(run: Path, small_data: CaptionImageDataset) -> None:
    rewrite(run, lambda facts, _: facts.pop("seed"))
    (run / "states").mkdir(exist_ok=True)
    shutil.copyfile(run / checkpoint.LATEST, run / "states" / "000000004.safetensors")
    with pytest.raises(UserError, match=r"began it, or remove \S+/run to start again$"):
        train_here(experiment("simclr"), small_data, run)


def test_the_state_of_another_seed_is_refused(run: Path, small_data: CaptionImageDataset) -> None:
    with pytest.raises(UserError, match="is of another run: seed 0, expected 1"):
        train_here(experiment("simclr"), small_data, run, seed=1)


def test_a_rewritten_state_resumes(run: Path, small_data: CaptionImageDataset, tmp_path: Path) -> None:
    rewrite(run, lambda *_: None)
    (run / "states").mkdir(exist_ok=True)
    (run / "states" / "1a.safetensors").touch()
    undisturbed = train_here(experiment("simclr"), small_data, tmp_path / "undisturbed")
    assert train_here(experiment("simclr"), small_data, run, save_seconds=0) == undisturbed


def test_a_method_with_unused_parameters_resumes(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    """AdamW has no moments for parameters without a gradient."""
    declared = experiment("simclr", settings=Sum())
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    interrupted(declared, small_data, tmp_path / "run", step=10)
    assert train_here(declared, small_data, tmp_path / "run") == undisturbed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "is of another run: seed 1, expected 0"),
        ({"experiment": "test/simclr"}, "is of another run: experiment test/simclr, expected test/untrained"),
        ({"content_sha256": "c"}, "is of another run: content_sha256 c"),
        ({"seed": "0"}, r"not a valid model\.json \(seed: "),
        ({"seed": True}, r"not a valid model\.json \(seed: "),
        ({"seconds": "long"}, r"not a valid model\.json \(seconds: "),
        ({"health": {"rank": [1]}}, r"not a valid model\.json \(health"),
        ({"weights_sha256": None}, r"not a valid model\.json \(weights_sha256"),
    ],
)
def test_the_card_of_another_run_is_one_line_and_kept(
    change: dict[str, object], said: str, small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    train_here(experiment("untrained"), small_data, tmp_path)
    card = tmp_path / checkpoint.CARD
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=said) as refused:
        train_here(experiment("untrained"), small_data, tmp_path)
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", ["[" * 100_000, '{"experiment": ' + "[" * 100_000, '{"seconds": NaN}'])
def test_a_deep_card_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / checkpoint.CARD).write_text(content)
    with pytest.raises(UserError, match=r"not a valid model\.json") as refused:
        checkpoint.read_card(tmp_path)
    assert len(str(refused.value)) < 400


def test_a_card_with_diagnostics_and_further_fields_is_read_as_it_is(tmp_path: Path) -> None:
    card = {"experiment": "a", "fingerprint": "b", "seed": 0, "content_sha256": "c", "weights_sha256": "d"}
    card |= {"seconds": 1, "health": {"rank": 2.5}, "spikes": 1, "worst_spike": 7, "another": [1]}
    (tmp_path / checkpoint.CARD).write_text(json.dumps(card))
    assert checkpoint.read_card(tmp_path) == card


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("vit.cls_token"), "1 missing: vit.cls_token"),
        (lambda tensors: tensors.update({"more": torch.zeros(1)}), "1 unknown: more"),
        (lambda tensors: tensors.update({"vit.cls_token": torch.zeros(2)}), "1 of wrong shape: vit.cls_token"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    change: Callable[[dict[str, torch.Tensor]], object], said: str, small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    """The card has their hash, so only the names and shapes are wrong."""
    declared = experiment("untrained")
    train_here(declared, small_data, tmp_path)
    _, tensors = checkpoint.read(tmp_path / checkpoint.WEIGHTS, CPU)
    change(tensors)
    checkpoint._write(tmp_path / checkpoint.WEIGHTS, tensors)
    card = checkpoint.read_card(tmp_path) | {"weights_sha256": file_sha256(tmp_path / checkpoint.WEIGHTS)}
    write_json(tmp_path / checkpoint.CARD, card)
    with pytest.raises(UserError, match=said) as refused:
        loop.load_trained(declared, 0, tmp_path, CPU)
    assert "\n" not in str(refused.value)
