"""The import of what is served, by a finder at the end of ``sys.meta_path``: whatever is installed is found before."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from speechbrain_mamba.drop_in.served_names import MODULES, PACKAGES, VERSIONS, describe_missing
from speechbrain_mamba.ops.backends.mamba_ssm import MARK

logger = logging.getLogger(__name__)


class ServedLoader(Loader):
    """Makes a module of names that are served."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the names into the module."""
        known = MODULES[module.__name__]
        for name, place in known.items():
            ours, _, own = place.partition(".")
            implementation = importlib.import_module(f"speechbrain_mamba.drop_in.{ours}")
            setattr(module, name, getattr(implementation, own or name))
        contents: dict[str, Any] = {
            "__all__": [name for name in known if not name.startswith("_")],
            "__file__": __file__,  # which code that asks where a package lies expects
            "__doc__": f"{module.__name__}, served by speechbrain_mamba.drop_in.",
            "__getattr__": _attributes_of(module.__name__),
            MARK: True,
        }
        if module.__name__ in VERSIONS:
            contents["__version__"] = f"{VERSIONS[module.__name__]}+speechbrain.mamba"
        vars(module).update(contents)


def _attributes_of(module: str) -> Callable[[str], Any]:
    """What a module does for names that it does not have."""

    def find(name: str) -> Any:
        if f"{module}.{name}" in MODULES:  # as mamba-ssm's top module imports its submodules
            return importlib.import_module(f"{module}.{name}")
        if name.startswith("__"):  # what Python and its tools look for
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        raise AttributeError(describe_missing(module, name))

    return find


class ServedFinder(MetaPathFinder):
    """Finds the modules that are served.

    Every one is a package, so that ``from module import name`` asks for a submodule of a name that is missing, and
    gets a sentence.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Describe a module that is served."""
        if fullname in MODULES:
            parent = fullname.rpartition(".")[0]
            if parent and not is_served(parent):  # the one that is installed has no such submodule
                return None
            return ModuleSpec(fullname, ServedLoader(), is_package=True)
        module, _, name = fullname.rpartition(".")
        if is_served(module):
            # The import system keeps the words of an error that does not name the submodule.
            raise ModuleNotFoundError(describe_missing(module, name), name=module)
        return None


def is_served(module: str) -> bool:
    """Whether an imported module is one of those that are served.

    Example
    -------
    >>> is_served("torch")
    False
    """
    return MARK in getattr(sys.modules.get(module), "__dict__", {})


def is_installed() -> bool:
    """Whether the finder is there."""
    return any(isinstance(finder, ServedFinder) for finder in sys.meta_path)


def served_modules() -> tuple[str, ...]:
    """The top-level modules that are not installed."""
    return tuple(name for name in PACKAGES if is_served(name) or _is_missing(name))


def _is_missing(name: str) -> bool:
    if sys.modules.get(name, name) is None:  # its import is blocked
        return False
    try:
        spec = find_spec(name)
    except ValueError:  # a module that was put into sys.modules by hand
        return False
    return spec is None or isinstance(spec.loader, ServedLoader)


def install() -> tuple[str, ...]:
    """Serve what is not installed of mamba-ssm and causal-conv1d to all imports that follow.

    Each of the four top-level modules ``mamba_ssm``, ``selective_scan_cuda``, ``causal_conv1d`` and
    ``causal_conv1d_cuda`` is served or not as a whole: one that is installed stays as it is, even if it cannot be
    imported here. Calling it twice changes nothing.

    Returns
    -------
    tuple of str
        The top-level modules that are served.

    Example
    -------
    >>> from speechbrain_mamba import drop_in
    >>> with drop_in.installed():
    ...     from causal_conv1d import causal_conv1d_fn
    """
    if not is_installed():
        sys.meta_path.append(ServedFinder())
    served = served_modules()
    others = [name for name in PACKAGES if name not in served]
    if others:
        logger.warning(
            "Modules of mamba-ssm or causal-conv1d that are installed stay as they are: %s. drop_in serves %s.",
            ", ".join(others), ", ".join(served) or "nothing",
        )  # fmt: skip
    return served


def uninstall() -> None:
    """Serve nothing any more. What was imported before keeps working; later imports do not find it."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, ServedFinder)]
    for name in [name for name in sys.modules if is_served(name)]:
        del sys.modules[name]
