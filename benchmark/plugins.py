"""Discovery of plug-ins: public modules in a package, loaded by name.

Code that plug-ins share belongs in sub-packages or in modules whose names start with an underscore.
"""

import importlib
import pkgutil
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
    if message := synrep_bench.collision():
        raise UserError(message)
    folder = importlib.import_module(package)
    found = pkgutil.iter_modules(folder.__path__)
    return sorted(module.name for module in found if not module.ispkg and not module.name.startswith("_"))


def load(package: str, name: str, kind: str) -> ModuleType:
    """Import the plug-in `name`, which must define a constant named after `kind`, such as METHOD or EVALUATIONS.

    Raises:
        UserError: the plug-in does not exist (the message lists the valid names) or does not define the constant.
    """
    if name not in names(package):
        raise unknown(kind, name, names(package))
    module = importlib.import_module(f"{package}.{name}")
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
