"""The runs that a name stands for: `smoke`, `main-10k`, or one comparison of a file, `ablations-smoke-images`."""

from benchmark import plugins
from benchmark.errors import UserError, unknown
from benchmark.experiments._sizes import SIZES
from benchmark.interfaces import Experiment

PACKAGE = "benchmark.experiments"


def find(name: str) -> tuple[Experiment, ...]:
    """The runs of `<file>`, or of `<file>-<size>[-<comparison>]` where a file is declared by size.

    Raises:
        UserError: no such file, size or comparison; the message has the choices.
    """
    names = plugins.names(PACKAGE)
    file = max((each for each in names if f"{name}-".startswith(f"{each}-")), key=len, default=name)
    declared = plugins.load(PACKAGE, file, "experiment").EXPERIMENTS
    size, _, comparison = name.removeprefix(file).removeprefix("-").partition("-")
    if not callable(declared):
        if name != file:
            raise unknown("experiment", name, names)
        return tuple(declared)
    if size not in SIZES:
        choices = ", ".join(f"{file}-{each}" for each in SIZES)
        raise UserError(f"experiment {file} has a size, found {size or 'none'!r}; choose one of: {choices}")
    found = tuple(declared(SIZES[size]))
    comparisons = {experiment.name.split("/")[0]: None for experiment in found}
    if comparison and name not in comparisons:
        raise unknown(f"comparison of experiment {file}-{size}", name, list(comparisons))
    return tuple(each for each in found if not comparison or each.name.split("/")[0] == name)
