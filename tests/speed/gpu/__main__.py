"""Every speed on a GPU in one command, in at most 23 minutes on one H100 or H200.

    python -m tests.speed.gpu --out results/speed/gpu.jsonl
    python -m tests.speed.gpu --rehearse

Each part is measured in a process of its own, the most valuable first, and becomes a line of JSON as soon as it ends:
printed, and appended to the file. A part that fails or takes too long has `error` and what it found before. `--parts`
names some of them, for machines that end a command sooner. Data and weights are random, sizes are real; what is timed
is first compared with float32 on the CPU. `--rehearse` runs every part on the CPU, at tiny size.
"""

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "threadpoolctl": "threadpoolctl",
    "diffusers": "diffusers",
    "open_clip": "open_clip_torch",
    "ftfy": "ftfy",
    "wcwidth": "wcwidth",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic_core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
}
"""Module -> package, with those that packages need which are installed without their dependencies."""
TOTAL_SECONDS = 23 * 60
ALWAYS = "card"
"""The part that says which machine the lines after it are of."""


def main() -> None:
    if missing := [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]:
        raise SystemExit(f"packages are missing, install them as in constraints.txt: {' '.join(missing)}")
    from tests.speed.gpu.goals import judged
    from tests.speed.gpu.parts import isolated, lines, written
    from tests.speed.gpu.schedule import parts
    from tests.speed.gpu.sizes import REHEARSAL, Sizes

    names = [part.name for part in parts(REHEARSAL)]
    parser = argparse.ArgumentParser(prog="python -m tests.speed.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file to which lines are appended")
    parser.add_argument("--parts", nargs="+", metavar="PART", help=f"{ALWAYS} always; of: {', '.join(names)}")
    parser.add_argument("--rehearse", action="store_true", help="every part on the CPU, at tiny size")
    asked = parser.parse_args()
    if asked.rehearse:
        sizes = REHEARSAL
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        cards = isolated(visible, 60).get("cards", 0)
        if not cards:
            raise SystemExit("no GPU is visible: nothing was measured; --rehearse runs every part on the CPU")
        sizes = replace(Sizes(), processes=cards)
    chosen = parts(sizes)
    if asked.parts:
        if unknown := set(asked.parts) - {part.name for part in chosen}:
            parser.error(f"unknown parts: {', '.join(sorted(unknown))}; choose of: {', '.join(names)}")
        chosen = [part for part in chosen if part.name in {ALWAYS, *asked.parts}]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the part in progress is ended too
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(chosen, sizes, Path(folder), TOTAL_SECONDS):
            print(written(line, asked.out), flush=True)
            found.append(line)
    if not asked.rehearse:
        print("\n".join(judged(found)), file=sys.stderr)
    if any("error" in line for line in found):
        raise SystemExit(f"with errors: {', '.join(line['part'] for line in found if 'error' in line)}")


def visible() -> Iterator[dict[str, int]]:
    """The number of GPUs, asked for in a process of its own: one that has asked must not fork for them."""
    import torch

    yield {"cards": torch.cuda.device_count()}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="torch")
    main()
