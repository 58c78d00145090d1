"""A build in a process of its own, to be killed: `python -m tests.datasets_scripts.building DATA WORKERS LOG [SHARE]`.

Every unit leaves two lines in LOG, when it begins and when it is drawn: the number of its first caption, and "drawn".
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark import schema
from datasets_scripts import build
from datasets_scripts.text_to_image import Drawn
from tests.small import NUMBERED, Listed, Numbers

CAPTIONS = 1000
UNITS = 16
"""The last one of 40 captions."""


def numbers() -> list[build.Caption]:
    return [build.Caption(f"number {number}", "numbers", str(number)) for number in range(CAPTIONS)]


@dataclass(frozen=True)
class Logged(Numbers):
    """Numbers, slowly; their name is the same, since nothing that decides a pixel differs."""

    log: Path | None = None
    seconds: float = 0.0

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]) -> Iterator[Drawn]:
        self._note(captions[0].removeprefix("number "))
        for drawn in super().__call__(captions, seeds, guidance):
            time.sleep(self.seconds / len(captions))
            yield drawn
        self._note("drawn")

    def _note(self, text: str) -> None:
        if self.log:
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{os.getpid()} {text}\n".encode())
            os.close(descriptor)


def recipe(log: Path | None, seconds: float = 0.0) -> build.Recipe:
    """Sixteen units of two images a caption."""
    draw = Logged(log=log, seconds=seconds)
    return replace(NUMBERED, captions=Listed(numbers, "a thousand"), draw=draw, images_per_caption=2)


if __name__ == "__main__":
    schema.SHARD_CAPTIONS = 2 * schema.UNIT_CAPTIONS
    data, workers, log, *share = sys.argv[1:]
    work = build.start(recipe(Path(log), seconds=0.25), Path(data))
    if isinstance(work, Path):
        sys.exit("it was finished before")
    if share:
        build.run_share(work, int(share[0]), int(share[1]), lambda *_: None)
    else:
        build.run(work, [""] * int(workers), lambda *_: None)
