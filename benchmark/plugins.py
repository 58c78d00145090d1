"""A plug-in is a module in a folder, found by its name; what plug-ins share lies in sub-folders or private modules."""

import importlib
import pkgutil
from types import ModuleType

from benchmark.errors import UserError, unknown


def names(package: str) -> list[str]:
    """The plug-ins in a package, such as `baselines`, in alphabetical order."""
    folder = importlib.import_module(package)
    found = pkgutil.iter_modules(folder.__path__)
    return sorted(module.name for module in found if not module.ispkg and not module.name.startswith("_"))


def load(package: str, name: str, kind: str) -> ModuleType:
    """The plug-in called `name`; `kind` is the word for it in an error.

    Raises:
        UserError: there is none (lists those that there are), or it declares none.
    """
    if name not in names(package):
        raise unknown(kind, name, names(package))
    module = importlib.import_module(f"{package}.{name}")
    if not {kind.upper(), f"{kind.upper()}S"} & vars(module).keys():
        raise UserError(
            f"{module.__file__} declares no {kind.upper()}; add one, or begin the file's name with an underscore"
        )
    return module
