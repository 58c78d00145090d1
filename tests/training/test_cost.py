"""Cost estimates of experiments against counts by hand, and the status of datasets."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmark import plugins, schema
from benchmark.interfaces import Method, ViTConfig
from benchmark.nn.encoders import build_vit
from benchmark.training import checkpoint, cost
from benchmark.training.cost import Run, cost_per_view
from tests.fixtures.runs import BATCH, experiment, train_here

SMALL = ViTConfig(image_size=32, patch=8, width=64, depth=3, heads=2)


def method(name: str) -> Method:
    tiny: Method = plugins.load("baselines", name, "method").METHOD.tiny()
    return tiny


def vit_forward(encoder: ViTConfig, tokens: int | None = None) -> float:
    """FLOP of one view by hand: patches, and in each block four projections, two products of attention, two of MLP."""
    patches = (encoder.image_size // encoder.patch) ** 2
    tokens, width = tokens or patches + 1, encoder.width
    block = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width) + 2 * 2 * tokens**2 * width
    return 2 * patches * 3 * encoder.patch**2 * width + encoder.depth * block


def first_products(encoder: ViTConfig) -> float:
    """FLOP that the backward pass saves, since pixels need no gradient."""
    return 2 * (encoder.image_size // encoder.patch) ** 2 * 3 * encoder.patch**2 * encoder.width


def head(*widths: int) -> float:
    return sum(2 * one * other for one, other in pairwise(widths))


@pytest.mark.parametrize("name", ["simclr", "stablerep"])
def test_flops_equal_a_count_by_hand(name: str) -> None:
    """Similarities of a batch are not in the hand count: they are less than a thousandth of so small a batch."""
    by_hand = 3 * (vit_forward(SMALL) + head(64, 256, 256, 64)) - first_products(SMALL)
    assert cost_per_view(method(name), SMALL).flops == pytest.approx(by_hand, rel=2e-3)


@pytest.mark.slow
def test_vit_base_has_its_published_flops_and_parameters() -> None:
    """17.6 G multiply-adds at 224 pixels with its head left out; 85.8 M parameters."""
    found = cost_per_view(plugins.load("baselines", "simclr", "method").METHOD, ViTConfig())
    width = found.flops / 3 - head(768, 4096, 4096, 256)
    assert width / 2 / 1e9 == pytest.approx(17.5, abs=0.1)
    assert found.parameters - 20_988_160 == pytest.approx(85.8e6, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "mocov3"])
def test_a_momentum_copy_costs_its_forward_pass(name: str) -> None:
    """A third more than the same network without one; heads aside, which differ."""
    wide = replace(SMALL, width=256, depth=6, heads=4)
    share = cost_per_view(method(name), wide).flops / cost_per_view(method("simclr"), wide).flops
    assert share == pytest.approx(4 / 3, abs=0.05)


@pytest.mark.slow
def test_text_towers_and_decoders_are_counted() -> None:
    plain, clip, mae = (cost_per_view(method(name), SMALL) for name in ("simclr", "clip", "mae"))
    text = 2 * (2 * 32 * 64 * 12 * 64 + 4 * 32**2 * 64)  # two blocks of width 64 over 32 tokens, forward
    assert clip.flops == pytest.approx(3 * (vit_forward(SMALL) + text) - first_products(SMALL), rel=0.01)
    decoder = vit_forward(replace(SMALL, depth=1)) - first_products(SMALL) + 2 * 9 * 64 * 64 + 2 * 16 * 64 * 192
    seen = vit_forward(SMALL, tokens=9)  # half of the 16 patches, and CLS
    assert mae.flops == pytest.approx(3 * (seen + decoder) - first_products(SMALL), rel=0.01)
    assert clip.parameters > plain.parameters + 49_408 * 64


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins.names("baselines"))
def test_depth_goes_in_a_straight_line(name: str) -> None:
    """Counted at one and two blocks, the third costs as much: against the count at full depth."""
    found = method(name)
    if found.optimizer is None:
        assert cost_per_view(found, SMALL).flops == cost_per_view(found, SMALL).parameters == 0
        return
    assert cost_per_view(found, SMALL).flops == pytest.approx(cost._count_flops(found, SMALL), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "dino", "mocov3", "stablerep"])
def test_parameters_are_those_of_the_model(name: str) -> None:
    model = method(name).build(build_vit(SMALL))
    found = cost_per_view(method(name), SMALL)
    assert found.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.state_values == sum(t.numel() for t in model.state_dict().values())


@pytest.mark.slow
def test_disk_is_what_a_run_leaves(small_data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    declared = experiment("stablerep")
    train_here(declared, small_data, tmp_path)
    found = (tmp_path / checkpoint.WEIGHTS).stat().st_size
    assert Run(declared, 1).weights_bytes == pytest.approx(found, rel=0.1)
    assert Run(declared, 3).weights_bytes == 3 * Run(declared, 1).weights_bytes


def test_gpu_hours_are_arithmetic_over_the_share_of_the_peak() -> None:
    assert cost.gpu_hours(312e12 * cost.ASSUMED_MFU * 3600 * 7, "A100") == pytest.approx(7)
    assert cost.gpu_hours(1e18, "H100") < cost.gpu_hours(1e18, "A100")


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_the_table_says_what_each_run_costs_and_the_totals(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(small_dataset.parents[1]))
    known = experiment("stablerep", steps=50)
    other = replace(experiment("untrained"), name="test/floor", dataset="synrep-bench/nosuch")
    shown = cost.as_text(cost.plan([Run(known, 2), Run(other, 1)], lambda repo: 3_000_000_000))
    head_, _, first, second, _, *totals = shown.splitlines()
    row = dict(zip(cells(head_), cells(first)))
    views = 50 * BATCH
    assert row["experiment"] == "test/stablerep" and row["here"] == "yes"
    assert (row["seeds"], row["views"], row["steps"], row["batch"]) == ("2", f"{views:,}", "50", str(BATCH))
    assert float(row["GFLOP/view"]) == pytest.approx(
        cost_per_view(known.settings, known.encoder).flops / 1e9, abs=0.005
    )
    floor = dict(zip(cells(head_), cells(second)))
    assert (floor["here"], floor["views"], floor["steps"], floor["A100 h"]) == ("no", "0", "0", "0.000")
    assert totals[0].startswith(f"3 runs, {2 * views:,} views, ")
    assert f"{2 * views * cost_per_view(known.settings, known.encoder).flops:.3g} FLOP" in totals[0]
    assert "assuming 35%" in totals[1]
    size = sum(path.stat().st_size for path in small_dataset.rglob("*") if path.is_file())
    assert f"datasets: 2, {(size + 3e9) / 1e9:,.2f} GB" in totals[3]
    assert totals[4] == "missing datasets: 1; to build them: synrep data build nosuch"


def test_a_dataset_counts_as_local_only_if_complete_and_at_its_revision(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    declared = experiment("stablerep")
    assert cost.local_status(declared) == ("no", None)
    folder = tmp_path / "data" / declared.dataset
    shutil.copytree(small_dataset, folder)
    word, found = cost.local_status(declared)
    assert word == "yes" and found is not None and found.resolve() == folder
    assert cost.local_status(replace(declared, revision="another")) == ("another revision", None)
    manifest = json.loads((folder / schema.MANIFEST).read_text())
    (folder / schema.MANIFEST).unlink()
    assert cost.local_status(declared) == ("unfinished", None)
    assert manifest["revision"] == declared.revision


def test_unknown_sizes_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    shown = cost.as_text(cost.plan([Run(experiment("untrained"), 1)], lambda repo: None))
    assert "datasets: 1, 0.00 GB and 1 of unknown size" in shown
