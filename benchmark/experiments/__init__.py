"""Official runs, and how they are found: `smoke`, `main-10k`, or one comparison of a file, `ablations-smoke-images`.

A file in this folder is a set of comparisons. It declares `EXPERIMENTS`: a tuple, or a function of a size
(`_scales.Scale`) that declares the same comparisons from laptop to cluster.
"""

from functools import cache
from typing import TYPE_CHECKING

from benchmark import plugins
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:  # torch takes seconds, and the command lists the files of this folder
    from benchmark.interfaces import Experiment
    from benchmark.records.schema import Record


def find(name: str) -> "tuple[Experiment, ...]":
    """The runs of `<file>`, or of `<file>-<size>[-<comparison>]` where a file is declared by size.

    Raises:
        UserError: no such file, size or comparison; the message has the choices.
    """
    from benchmark.experiments._scales import SIZES

    names = plugins.names(__name__)
    file = max((each for each in names if f"{name}-".startswith(f"{each}-")), key=len, default=name)
    declared = plugins.load(__name__, file, "experiment").EXPERIMENTS
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


def declared_fingerprint(record: "Record") -> str | None:
    """The fingerprint that this code declares for the official run a record names; None where it declares none.

    The revision of a dataset whose captions are not on this machine is not known, nor the fingerprint of its runs.
    """
    own = record.experiment
    return _fingerprints(own.name.split("/")[0]).get((own.name, own.version))


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
