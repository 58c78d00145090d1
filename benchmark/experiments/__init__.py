"""Official runs, found by name: `smoke`, `main-10k`, one comparison of a file such as `ablations-smoke-images`, or one
experiment such as `smoke/simclr`.

Each file in this folder is a set of comparisons. It defines `EXPERIMENTS`: a tuple, or a function from a size
(`_scales.Scale`) to experiments, which declares the same comparisons from laptop to cluster.
"""

from functools import cache
from typing import TYPE_CHECKING

from benchmark import plugins
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:  # importing torch takes seconds, and the command line imports this package
    from benchmark.interfaces import Experiment
    from benchmark.records.schema import Record


def find(name: str) -> "tuple[Experiment, ...]":
    """Return the experiments of `<file>`, or of `<file>-<size>[-<comparison>]` if the file is declared by size.

    With `/<row>` behind it, the name is that of one experiment.

    Raises:
        UserError: there is no such file, size, comparison or experiment; the message lists the choices.
    """
    group, slash, _ = name.partition("/")
    found = _find_group(group)
    if not slash:
        return found
    names = [experiment.name for experiment in found]
    if name not in names:
        raise unknown(f"experiment of {group}", name, names)
    return (found[names.index(name)],)


def _find_group(name: str) -> "tuple[Experiment, ...]":
    """Return the experiments of a file, a size or a comparison."""
    from benchmark.experiments._scales import SCALES

    names = plugins.names(__name__)
    file = max((file for file in names if f"{name}-".startswith(f"{file}-")), key=len, default=name)
    declared = plugins.load(__name__, file, "experiment").EXPERIMENTS
    size, _, comparison = name.removeprefix(file).removeprefix("-").partition("-")
    if not callable(declared):
        if name != file:
            raise unknown("experiment", name, names)
        return tuple(declared)
    if size not in SCALES:
        choices = ", ".join(f"{file}-{size}" for size in SCALES)
        raise UserError(
            f"experiment {file} needs a size, found {repr(size) if size else 'none'}; choose one of: {choices}"
        )
    found = tuple(declared(SCALES[size]))
    comparisons = {experiment.name.split("/")[0]: None for experiment in found}
    if comparison and name not in comparisons:
        raise unknown(f"comparison of experiment {file}-{size}", name, list(comparisons))
    return tuple(experiment for experiment in found if not comparison or experiment.name.split("/")[0] == name)


def declared_fingerprint(record: "Record") -> str | None:
    """Return the declared fingerprint of the official run that a record names, or None if there is none.

    The fingerprint is also None if the dataset's captions are not on this machine, since the dataset's revision is
    then unknown.
    """
    experiment = record.experiment
    return _fingerprints(experiment.name.split("/")[0]).get((experiment.name, experiment.version))


@cache
def _fingerprints(comparison: str) -> dict[tuple[str, int], str]:
    from benchmark.experiments._scales import UNKNOWN_REVISION
    from benchmark.records import create

    try:
        found = find(comparison)
    except UserError:
        return {}
    known = (experiment for experiment in found if experiment.revision != UNKNOWN_REVISION)
    return {(experiment.name, experiment.version): create.fingerprint(experiment) for experiment in known}
