"""The measurement on a GPU: every part is rehearsed on the CPU, and none can stop the others."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.training.batches import PART_BYTES
from tests.speed.gpu import __main__ as command
from tests.speed.gpu import goals, kernels
from tests.speed.gpu.parts import Part, lines, written
from tests.speed.gpu.schedule import parts
from tests.speed.gpu.sizes import REHEARSAL, Sizes
from tests.speed.gpu.training import PREFETCH, parts_ahead

Found = Iterator[dict[str, Any]]


@pytest.mark.slow
def test_every_part_is_rehearsed(tmp_path: Path) -> None:
    out = tmp_path / "speed" / "gpu.jsonl"
    command_line = [sys.executable, "-m", "tests.speed.gpu", "--rehearse", "--out", out]
    run = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == out.read_text()
    found = [json.loads(line) for line in run.stdout.splitlines()]
    expected = parts(REHEARSAL)
    assert [line["part"] for line in found] == [part.name for part in expected]
    for line, part in zip(found, expected):
        assert "error" not in line, line
        assert set(part.keys) <= line.keys()
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float)), line
    by_part = {line["part"]: line for line in found}
    assert set(by_part["reading"]["views_per_second"]) == {str(workers) for workers in REHEARSAL.workers}
    assert set(by_part["memory"]["mb_per_view"]) == {str(views) for views in REHEARSAL.memory_views}
    assert set(by_part["networks"]["networks"]) == {str(rows) for rows in REHEARSAL.guided}
    assert by_part["logistic"]["penalties"] == len(REHEARSAL.inverse_penalties)


def measured(sizes: Sizes, folder: Path) -> Found:
    yield {"peak_tflops": 60.0}


def failing(sizes: Sizes, folder: Path) -> Found:
    yield {"tflops": 30.0}
    raise RuntimeError("planted\nin two lines")


def hanging(sizes: Sizes, folder: Path) -> Found:
    yield {"first": 1}
    time.sleep(600)


def killed(sizes: Sizes, folder: Path) -> Found:
    yield {"first": 1}
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_part_that_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    planted = [
        Part("first", 60, measured, ("peak_tflops",)),
        Part("failing", 60, failing, ("tflops",)),
        Part("hanging", 1, hanging, ("second",)),
        Part("killed", 60, killed, ("second",)),
        Part("incomplete", 60, measured, ("peak_tflops", "second")),
        Part("last", 60, measured, ("peak_tflops",)),
    ]
    found = {line.pop("part"): line for line in lines(planted, REHEARSAL, tmp_path, 600)}
    assert list(found) == [part.name for part in planted]
    assert all(line.pop("part_seconds") < 600 for line in found.values())
    assert found["first"] == found["last"] == {"peak_tflops": 60.0}
    error = found["failing"].pop("error")
    assert error.startswith("RuntimeError: planted (test_gpu.py:")
    assert found["failing"] == {"tflops": 30.0, "share_of_peak": 0.5}
    assert found["hanging"] == {"first": 1, "error": "not finished after 1 s"}
    assert found["killed"] == {"first": 1, "error": "its process ended with code -9"}
    assert found["incomplete"]["error"] == "expected second; found peak_tflops"


def test_no_part_starts_after_the_last_minute(tmp_path: Path) -> None:
    (line,) = lines([Part("late", 60, measured, ("peak_tflops",))], REHEARSAL, tmp_path, 0)
    assert line["error"] == "no time was left"


def test_lines_are_appended(tmp_path: Path) -> None:
    out = tmp_path / "new" / "gpu.jsonl"
    rows = [{"part": "first", "ms": 1.5}, {"part": "second"}]
    assert [json.loads(written(row, out)) for row in rows] == rows
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match=r"^no GPU is visible: nothing was measured"):
        command.main()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {"ftfy", "open_clip"} else name)
    with pytest.raises(SystemExit, match=r"install them as in constraints.txt: open_clip_torch ftfy$"):
        command.main()


def test_needed_packages_are_pinned() -> None:
    pinned = {line.partition("==")[0].lower() for line in Path("constraints.txt").read_text().splitlines()}
    assert {name.lower().replace("_", "-") for name in command.NEEDED.values()} <= {
        name.replace("_", "-") for name in pinned
    }


@pytest.mark.parametrize(
    ("views", "steps", "first_timed"),
    [(Sizes.views, Sizes.steps, Sizes.first_timed), (Sizes.large_views, Sizes.large_steps, Sizes.large_first_timed)],
)
def test_what_is_read_while_the_network_compiles_is_not_timed(views: int, steps: int, first_timed: int) -> None:
    per_batch, workers = math.ceil(views * 256 * 256 * 3 / PART_BYTES), max(Sizes.workers)
    assert first_timed * per_batch > parts_ahead(workers)
    assert (steps - first_timed) * per_batch >= 3 * workers * PREFETCH


def test_a_batch_has_enough_captions_and_equal_slices() -> None:
    images = Sizes.method.sampling.images_per_caption
    assert max(Sizes.large_views, *Sizes.memory_views) // images <= Sizes.units * 64
    assert Sizes.large_views % Sizes.slice_views == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_cublas", "matrix"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_kernel__5x_cudnn", "matrix"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...cutlass::bfloat16_t...>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", "attention"),
        ("triton_poi_fused_gelu_3", "compiled elementwise"),
        ("triton_red_fused__to_copy_native_layer_norm_5", "compiled elementwise"),
        ("void at::native::multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>, FusedAdam>", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "communication"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor>", "elementwise"),
        ("void at::native::indexSelectLargeIndex<float, long, unsigned int, 2, 2, -2, true>", "index"),
        ("something_new", "other"),
    ],
)
def test_kernels_have_classes(name: str, kind: str) -> None:
    assert kernels.class_of(name) == kind


def test_kernels_are_summed_by_class() -> None:
    found = kernels.by_class({"nvjet_a": 2.0, "triton_poi_a": 4.0, "nvjet_b": 3.0, "flash_fwd_kernel": 1.0})
    assert list(found.items()) == [("matrix", 5.0), ("compiled elementwise", 4.0), ("attention", 1.0)]


def test_three_commands_measure_all_in_ten_minutes_each() -> None:
    text = Path("docs/how-to/measure-speed.md").read_text().replace("\\\n", "")
    commands = [line.partition("--parts")[2].split() for line in text.splitlines() if "tests.speed.gpu" in line]
    chosen = [names for names in commands if names]
    allowed = {part.name: part.seconds for part in parts(Sizes())}
    assert sorted(name for names in chosen for name in names) == sorted(allowed.keys() - {command.ALWAYS})
    assert all(allowed[command.ALWAYS] + sum(allowed[name] for name in names) < 600 for names in chosen)


def test_goals_are_judged() -> None:
    found = [
        {"part": "step", "share_of_peak": 0.51},
        {"part": "images", "images_per_second": 4.9, "times_plain": 1.5, "error": "planted"},
    ]
    verdicts = [row.rpartition(": ")[2] for row in goals.judged(found)]
    assert verdicts == ["reached", "not measured", "missed", "reached", "not measured"]
    assert {goal.part for goal in goals.GOALS} <= {part.name for part in parts(Sizes())}
    keys = {part.name: part.keys for part in parts(Sizes())}
    assert all(goal.key in keys[goal.part] for goal in goals.GOALS)
