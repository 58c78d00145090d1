"""Names that people type: of methods, experiments, datasets, evaluations, presets, models and records.

`synrep list` prints them and the shell completes them. Nothing here imports torch or a plug-in that needs it, as the
shell waits for the answer: presets are read from the source files.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

SCENES_EVALUATION = "scenes-evaluation"
"""Name of the evaluation sets of scenes, built together."""


def methods() -> list[str]:
    """Return the names of all methods."""
    from benchmark import plugins

    return plugins.names("baselines")


def experiment_files() -> list[str]:
    """Return the names of the files of experiments."""
    from benchmark import plugins

    return plugins.names("benchmark.experiments")


def experiment_sizes() -> list[str]:
    """Return the sizes of the experiments that are declared by size."""
    from datasets_scripts import recipe

    return ["smoke", "small", *recipe.SIZES]


def experiments() -> list[str]:
    """Return the names of all experiments, in every size if they are declared by size."""
    from benchmark import experiments as folder

    found = []
    for file in experiment_files():
        by_size = _is_declared_by_size(_source(folder.__path__, file))
        found += [f"{file}-{size}" for size in experiment_sizes()] if by_size else [file]
    return found


def _is_declared_by_size(source: ast.Module) -> bool:
    """Return True if `EXPERIMENTS` is a function of a size."""
    assigned = [node for node in source.body if isinstance(node, ast.Assign)]
    return any(isinstance(node.value, ast.Name) and ast.unparse(node.targets[0]) == "EXPERIMENTS" for node in assigned)


def _source(folders: Iterable[str], name: str) -> ast.Module:
    """Return the parsed source of a plug-in; empty if there is none of this name."""
    paths = [Path(folder, f"{name}.py") for folder in folders]
    return next((ast.parse(path.read_text()) for path in paths if path.is_file()), ast.Module([], []))


def evaluations() -> list[str]:
    """Return the names of all evaluations."""
    from benchmark import plugins

    return plugins.names("benchmark.evaluations")


def presets(context: typer.Context) -> list[str]:
    """Return the presets of the evaluations on the command line, or of all evaluations."""
    return sorted({preset for name in context.params.get("evaluation") or evaluations() for preset in presets_of(name)})


def presets_of(evaluation: str) -> set[str]:
    """Return the presets in the source of an evaluation and of what it imports from its room."""
    from benchmark import evaluations as folder

    own = _source(folder.__path__, evaluation)
    room = f"{folder.__name__}."
    imported = [node.module for node in own.body if isinstance(node, ast.ImportFrom) and node.module]
    shared = [name.removeprefix(room).replace(".", "/") for name in imported if name.startswith(room)]
    return {
        preset for source in (own, *(_source(folder.__path__, name) for name in shared)) for preset in _presets(source)
    }


def _presets(source: ast.Module) -> Iterator[str]:
    """Yield the values of `preset`: defaults of fields, and arguments."""
    for node in ast.walk(source):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, value = node.target.id, node.value
        elif isinstance(node, ast.keyword):
            name, value = node.arg or "", node.value
        else:
            continue
        if name == "preset" and isinstance(value, ast.Constant):
            yield str(value.value)


def labeled_datasets() -> list[str]:
    """Return the names of the datasets of evaluations."""
    from benchmark.evaluations.datasets.catalog import DATASETS

    return list(DATASETS)


def labeled_dataset_list(incomplete: str) -> list[str]:
    """Return the completions of the last name of a comma-separated list."""
    before, comma, _ = incomplete.rpartition(",")
    return [before + comma + name for name in labeled_datasets()]


def recipes() -> list[str]:
    """Return the names of the datasets to build, without sizes."""
    from datasets_scripts import recipe

    return [*recipe.names(), SCENES_EVALUATION]


def sized_recipes() -> list[str]:
    """Return the names of the datasets to build, also with sizes."""
    from datasets_scripts import recipe

    return [*recipes(), *(f"{name}-{size}" for name in recipe.names() for size in recipe.SIZES)]


def caption_sources() -> list[str]:
    """Return the names of the sources of captions."""
    from datasets_scripts.captions import sources

    return list(sources.sources())


def models() -> list[str]:
    """Return how the names of models begin, such as `timm:`."""
    from benchmark import plugins

    return [f"{name}:" for name in plugins.names("benchmark.models")]


def recorded(context: typer.Context) -> list[str]:
    """Return the names of the experiments in the folder of records on the command line."""
    records = Path(context.params.get("records") or "results/records")
    return [f"{group.name}/{row.name}" for group in _folders(records) for row in _folders(group)]


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []
