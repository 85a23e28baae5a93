"""Every private interface of another package that this one touches, each behind a function or class with a public name.

Nothing else in the package reaches into another package's private parts. ``tests/utils/test_compat.py`` has a test for
each that fails, and says which, when the interface moves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# ---------------------------------------------------------------------------------------------------------- SpeechBrain

# ---------------------------------------------------------------------------------------------------------- HyperPyYAML

# --------------------------------------------------------------------------------------------------------------- PyTorch


def below_autograd() -> AbstractContextManager:
    """A context in which torch operations run without autograd, as inside an autograd function."""
    import torch

    return torch._C._AutoDispatchBelowAutograd()


def reset_function(module: nn.Module) -> Callable[[], None] | None:
    """The method that draws a module's own parameters, None if there is none.

    ``torch.nn.MultiheadAttention`` has it under a private name only.
    """
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


def openmp_parallel() -> Any:
    """The entry ``GOMP_parallel`` of the OpenMP runtime that torch uses, as a ctypes function; None if it has none.

    It is looked up through torch's own library, so that no second runtime is loaded.
    """
    import contextlib
    import ctypes

    import torch

    for path in Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"):
        with contextlib.suppress(OSError, AttributeError):
            return ctypes.CDLL(str(path)).GOMP_parallel
    return None


# ---------------------------------------------------------------------------------------------------------------- Triton


def triton_interprets() -> bool:
    """Whether Triton's kernels run in its interpreter, in NumPy on the CPU: ``TRITON_INTERPRET=1`` before the import."""
    import triton

    return bool(triton.knobs.runtime.interpret)


# --------------------------------------------------------------------------------------------------------------- EnCodec
