"""Ten thousand records become tables and a page: how long, how large, and beside the peers that make tables.

Part of `make speed`; the table goes to `results/speed/results.md`. Two peers are measured in the same run where they
are installed, mteb (`load_results(...).to_dataframe()`) and lm-eval (`make_table`); they read and print far less of a
result, and check less of it. Records have no predictions here: what paired differences take is a row of its own.
"""

import datetime
import importlib.util
import json
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmark.analysis.paired import Interval
from benchmark.files import write_bytes
from benchmark.records import store
from benchmark.reports import build, figures, inputs
from benchmark.submission import validate
from tests.fixtures.many_records import records
from tests.speed.timing import seconds

OUT = Path("results/speed/results.md")
COUNT = 10_000
SYNREP = [sys.executable, "-m", "benchmark.cli"]
GOALS = {"tables": 5, "site": 10}


def ours(folder: Path) -> Iterator[str]:
    """Both commands, as a user starts them; the tables also when nothing has changed."""

    def command(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([*SYNREP, *words], check=True, capture_output=True)

    for record in records(COUNT):
        store.write(record, folder / "records")
    named = ["--records", str(folder / "records"), "--out"]
    for name, goal in GOALS.items():
        took = seconds(command(name, *named, str(folder / name)))
        yield f"| `synrep {name}`, {COUNT:,} records (goal {goal} s) | {took:.1f} s | | |"
    took = seconds(command("tables", *named, str(folder / "tables"), "--check"))
    yield f"| `synrep tables --check`, {COUNT:,} records | {took:.1f} s | | |"
    yield from parts(folder / "records")
    yield from validated(folder)
    yield paired()
    size = (folder / "site/index.html").stat().st_size
    yield f"| the page of {COUNT:,} records (goal 5 MB) | {size / 1e6:.2f} MB | | |"


def parts(records: Path) -> Iterator[str]:
    """What tables take: reading the records, text, and figures, which matplotlib draws."""
    drawn = [0.0]
    draw = figures.draw

    def timed(make: Callable[[], Any]) -> dict[str, bytes]:
        answer: list[dict[str, bytes]] = []
        drawn.append(seconds(lambda: answer.append(draw(make))))
        return answer[0]

    found: list[inputs.ReportInputs] = []
    yield f"| reading {COUNT:,} records | {seconds(lambda: found.append(inputs.read(records, print))):.1f} s | | |"
    figures.draw = timed
    try:
        took = seconds(lambda: build.all_files(found[0], records.parent / "tables"))
    finally:
        figures.draw = draw
    yield f"| their tables as Markdown, CSV and LaTeX | {took - sum(drawn):.1f} s | | |"
    yield f"| their {len(drawn) - 1} figures as SVG and PNG | {sum(drawn):.1f} s | | |"


def validated(folder: Path) -> Iterator[str]:
    """The time of `validate` for each record, which must not grow with their number."""
    paths = sorted((folder / "records").rglob("*.json"))
    list(validate.find_problems(folder / "records"))  # imports
    for count in (COUNT // 10, COUNT * 3 // 10, COUNT):
        part = folder / f"validate-{count}" / "records"
        for path in paths[:count]:
            to = part / path.relative_to(folder / "records")
            to.parent.mkdir(parents=True, exist_ok=True)
            to.hardlink_to(path)
        took = seconds(lambda part=part: list(validate.find_problems(part)))  # type: ignore[misc]
        yield f"| `validate` of {count:,} records, each | {1e3 * took / count:.2f} ms | | |"


def paired() -> str:
    """The paired differences of the committed records, for all tables."""
    found = inputs.read(Path("results/records"), print)
    took = [0.0]
    count = 0
    difference = found.pairs.difference

    def timed(*words: Any) -> Interval | None:
        nonlocal count
        count += 1
        answer: list[Interval | None] = []
        took.append(seconds(lambda: answer.append(difference(*words))))
        return answer[0]

    found.pairs.difference = timed  # type: ignore[method-assign]
    build.all_files(found, Path("results/tables"))
    return f"| {count} paired differences of the committed records (goal 5 s) | {sum(took):.1f} s | | |"


def page(folder: Path) -> str:
    """From navigation to the first frame with the table in it, in a real Chromium."""
    from playwright.sync_api import sync_playwright

    from tests.fixtures.browser import path

    chromium = path()
    if not chromium:
        return "| the page interactive | no Chromium here: not measured | | |"
    drawn = "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
    with sync_playwright() as play, play.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser:
        took = []
        for _ in range(5):
            tab = browser.new_page()
            tab.goto((folder / "site/index.html").as_uri())
            tab.wait_for_selector("#table tbody tr")
            took.append(tab.evaluate(drawn))
            tab.close()
    return f"| the page of {COUNT:,} records interactive (goal 1,000 ms), median of 5 | {sorted(took)[2]:,.0f} ms | | |"


def mteb(folder: Path, mine: float) -> str:
    """The same number of results, a file each, of tasks that it knows."""
    import mteb  # type: ignore[import-not-found]

    names = [
        task.metadata.name for task in mteb.get_tasks(task_types=["ImageClassification", "ZeroShotClassification"])
    ]
    count = 0
    for at in range(-(-COUNT // len(names))):
        place = folder / "results" / f"org__model-{at}" / "1"
        place.mkdir(parents=True)
        (place / "model_meta.json").write_text(json.dumps({"name": f"org/model-{at}", "revision": "1"}))
        for name in names[: COUNT - count]:
            score = {"hf_subset": "default", "languages": ["eng-Latn"], "main_score": random.random()}
            content = {"dataset_revision": "1", "task_name": name, "mteb_version": mteb.__version__,
                       "scores": {"test": [score]}, "evaluation_time": 1.0, "kg_co2_emissions": None}  # fmt: skip
            (place / f"{name}.json").write_text(json.dumps(content))
            count += 1

    def table() -> str:
        found = mteb.ResultCache(folder).load_results(require_model_meta=False, include_remote=False)
        frame = found.to_dataframe()
        assert frame.shape[0] * (frame.shape[1] - 1) >= COUNT, frame.shape
        return str(frame.to_markdown())

    took = seconds(table)
    return beside(f"mteb {mteb.__version__}: results of 200 bytes to one table", mine, took)


def lm_eval(mine: float) -> str:
    """One printed table with a row for each result."""
    from importlib.metadata import version

    from lm_eval.utils import make_table  # type: ignore[import-not-found]

    names = [f"task_{at}" for at in range(COUNT)]
    content = {
        "results": {name: {"acc,none": random.random(), "acc_stderr,none": 0.01} for name in names},
        "versions": dict.fromkeys(names, 1),
        "n-shot": dict.fromkeys(names, 0),
    }
    took = seconds(lambda: make_table(content))
    return beside(f"lm-eval {version('lm_eval')}: results in memory to one table", mine, took)


def beside(what: str, mine: float, took: float) -> str:
    return f"| tables beside {what} | {mine:.1f} s | {took:.1f} s | {took / mine:.1f}x |"


def rows() -> Iterator[str]:
    """Lines of the speed table."""
    with tempfile.TemporaryDirectory() as name:
        own = list(ours(Path(name)))
        yield from own
        yield page(Path(name))
    mine = float(own[0].split("|")[2].split()[0])
    with tempfile.TemporaryDirectory() as name:
        here = importlib.util.find_spec
        yield mteb(Path(name), mine) if here("mteb") else "| tables beside mteb | not installed: not measured | | |"
        yield lm_eval(mine) if here("lm_eval") else "| tables beside lm-eval | not installed: not measured | | |"


def main() -> None:
    where = f"{datetime.date.today()}, {platform.machine()}, Python {platform.python_version()}; shared machine."
    head = ["# Speed of tables and page", "", where, "", "| what | ours | theirs | ratio |", "|:--|--:|--:|--:|"]
    note = "Both peers read or hold far less of a result: no provenance, no hashes to check, no intervals, no seeds."
    text = "\n".join([*head, *rows(), "", note]) + "\n"
    write_bytes(OUT, text.encode())
    print(text)


if __name__ == "__main__":
    main()
