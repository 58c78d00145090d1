"""Discovery of plug-ins: public modules in a package, loaded by name.

Code that plug-ins share belongs in sub-packages or in modules whose names start with an underscore.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterable
from types import ModuleType
from typing import TypeVar

import synrep_bench
from benchmark.errors import UserError, unknown

T = TypeVar("T")


def names(package: str) -> list[str]:
    """Return the names of the plug-ins in a package, such as `baselines`, in alphabetical order.

    Raises:
        UserError: files of another project replace those of this package, or are mixed with them.
    """
    return [name for name in _files(package) if name.isidentifier()]


def _files(package: str) -> list[str]:
    """Return the names of the public files in a package, some of which may be no Python names.

    Raises:
        UserError: files of another project replace those of this package, or are mixed with them.
    """
    if message := synrep_bench.collision():
        raise UserError(message)
    folder = importlib.import_module(package)
    found = pkgutil.iter_modules(folder.__path__)
    return sorted(module.name for module in found if not module.ispkg and not module.name.startswith("_"))


def load(package: str, name: str, kind: str) -> ModuleType:
    """Import the plug-in `name`, which must define a constant named after `kind`, such as METHOD or EVALUATIONS.

    Raises:
        UserError: the plug-in does not exist (the message lists the valid names), its file has no Python name, one of
            its dataclasses is not frozen, or it does not define the constant.
    """
    if name not in names(package):
        if name in _files(package):
            fixed = re.sub(r"\W", "_", name)
            raise UserError(f"expected a Python name, found the file {name}.py of a {kind}; rename it {fixed}.py")
        raise unknown(kind, name, names(package))
    try:
        module = importlib.import_module(f"{package}.{name}")
    except TypeError as error:
        if "non-frozen dataclass" not in str(error):
            raise
        raise UserError(f"expected frozen dataclasses in {name}.py ({error}); write @dataclass(frozen=True)") from None
    if not {kind.upper(), f"{kind.upper()}S"} & vars(module).keys():
        raise UserError(
            f"{module.__file__} declares no {kind.upper()}; add one, or start the file name with an underscore"
        )
    return module


def by_name(kind: str, declared: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return name -> declaration, in order.

    Raises:
        UserError: two declarations have the same name, so that one would silently replace the other.
    """
    found: dict[str, T] = {}
    for name, value in declared:
        if name in found:
            raise UserError(f"expected one {kind} named {name}, found two; rename one of them")
        found[name] = value
    return found
