"""Start of the `synrep` command, under a name that no other project has.

The packages of this project have common names: `benchmark`, `baselines`, `datasets_scripts`. Another package of the
same name shadows ours if its folder comes first on the import path. Another distribution with the same folder mixes its
files with ours, without a word from pip. In both cases, wrong code would run; `collision` finds both.
"""

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

PACKAGES = ("benchmark", "baselines", "datasets_scripts")
HERE = Path(__file__).parent
OWN_RECORDS = ("synrep_bench-", "~")
"""Starts of the names of our distribution, and of what pip leaves of an interrupted installation."""
OWN_ENVIRONMENT = "install synrep-bench into an environment of its own, such as with pipx"


def main() -> NoReturn:
    """Run the command line, or exit with code 2 and one line if it would run with the files of another project."""
    if message := collision():
        print(f"synrep: {message}", file=sys.stderr)
        sys.exit(2)
    from benchmark.cli.main import main

    main()


@cache
def collision() -> str | None:
    """Return what takes the place of our packages, and how to fix it; None if nothing does."""
    return next(filter(None, (*map(_shadowed, PACKAGES), _mixed())), None)


def _shadowed(package: str) -> str | None:
    """Return the message for a package that is not the one next to this file."""
    spec, expected = find_spec(package), HERE / package / "__init__.py"
    if spec is None or not expected.is_file():
        return f"expected {expected}, found no such file; install synrep-bench again"
    if spec.origin and Path(spec.origin).resolve() == expected.resolve():
        return None
    # A folder without __init__.py has no origin.
    found = spec.origin or next(iter(spec.submodule_search_locations or ["none"]))
    return (
        f"expected the package {package} in {HERE}, found {found}; remove its folder from PYTHONPATH, run the command "
        f"in another folder, or {OWN_ENVIRONMENT}"
    )


def _mixed() -> str | None:
    """Return the message for another distribution with files in our packages; a checkout has no distributions."""
    ours = re.compile(rf"\n(({'|'.join(PACKAGES)})/[^,]*)".encode())
    for record in sorted(HERE.glob("*.dist-info/RECORD")):
        distribution = record.parent.name.removesuffix(".dist-info")
        if not distribution.startswith(OWN_RECORDS) and (found := ours.search(b"\n" + record.read_bytes())):
            file, package = found[1].decode(), found[2].decode()
            return (
                f"expected files of synrep-bench only in {HERE / package}, found {file} of {distribution}; "
                f"{OWN_ENVIRONMENT}"
            )
    return None
