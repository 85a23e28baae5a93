"""Weights of modules in files: read without running code, and loaded so that nothing is missing, extra or misshapen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from speechbrain_mamba.utils.files import atomic_path
from speechbrain_mamba.utils.terminal import printable

SAFETENSORS, CHECKPOINT = ".safetensors", ".ckpt"
INTEGERS, SCALES = ".int8", ".scales"
"""Ends of the names of a weight that a file has as 8-bit integers, with a scale for each output."""
_LISTED = 10
"""How many names of a kind a message lists."""


def find_weights(folder: str | os.PathLike, name: str) -> Path:
    """Find the weights of a module in a folder: ``NAME.safetensors`` if there is one, else ``NAME.ckpt``.

    Raises
    ------
    FileNotFoundError
        When there is neither.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_weights(folder / "encoder.ckpt", nn.Linear(2, 3).state_dict())
    >>> find_weights(folder, "encoder").name
    'encoder.ckpt'
    """
    for suffix in (SAFETENSORS, CHECKPOINT):
        path = Path(folder) / f"{name}{suffix}"
        if path.is_file():
            return path
    raise FileNotFoundError(f"'{folder}' has no weights {name}{SAFETENSORS} or {name}{CHECKPOINT}.")


def read_weights(path: str | os.PathLike, integers: bool = False) -> dict[str, Tensor]:
    """Read weights onto the CPU: safetensors, or a state dict that ``torch.save`` wrote. No code in the file runs.

    Arguments
    ---------
    path : str or Path
        A file; ``.safetensors`` says which kind it is.
    integers : bool
        Whether weights of 8-bit integers stay as they are in the file, with :data:`INTEGERS` and :data:`SCALES` at the
        end of their names. By default they are multiplied out to floats.

    Returns
    -------
    dict of str to Tensor
        The weights by name.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is damaged, or holds anything but tensors with names.

    Example
    -------
    >>> path = getfixture("tmp_path") / "linear.safetensors"
    >>> write_weights(path, nn.Linear(2, 3).state_dict())
    >>> sorted((name, tuple(value.shape)) for name, value in read_weights(path).items())
    [('bias', (3,)), ('weight', (3, 2))]
    """
    file = Path(path)
    if file.suffix == SAFETENSORS:
        content = _regular_file(file).read_bytes()
        try:
            state = parse_safetensors(content)
        except Exception as error:  # safetensors raises its own kind, and KeyError for types that it does not know
            raise ValueError(f"The weights '{path}' are damaged or not safetensors: {error}.") from error
    else:
        state = read_saved(file)
    if not isinstance(state, Mapping):
        raise ValueError(f"'{path}' holds {_kind(state)}, but weights are tensors with names.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError(f"'{path}' holds {_kind(value)} under {name!r}, but weights are tensors with names.")
    rest, quantized = split_integers(state, f"'{path}'")
    if integers or not quantized:
        return dict(state)
    floats = {
        name: whole.float() * scales.view(-1, *[1] * (whole.dim() - 1)) for name, (whole, scales) in quantized.items()
    }
    return rest | floats


def split_integers(
    state: Mapping[str, Tensor], what: str
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Split weights into those of floats, and those of 8-bit integers with their scales.

    Arguments
    ---------
    state : mapping of str to Tensor
        The weights by name.
    what : str
        Where they are from, for messages.

    Returns
    -------
    floats : dict of str to Tensor
        The former.
    integers : dict of str to tuple of Tensor
        The latter by the names that they would have as floats: integers, and scales (outputs,).

    Raises
    ------
    ValueError
        When integers lack their scales, or these do not fit.

    Example
    -------
    >>> integers = torch.ones(2, 3, dtype=torch.int8)
    >>> state = {"bias": torch.ones(2), "weight.int8": integers, "weight.scales": torch.ones(2)}
    >>> floats, integers = split_integers(state, "the layer")
    >>> list(floats), list(integers)
    (['bias'], ['weight'])
    """
    floats: dict[str, Tensor] = dict(state)
    integers: dict[str, tuple[Tensor, Tensor]] = {}
    for name in [name for name in state if name.endswith(INTEGERS)]:
        own = name.removesuffix(INTEGERS)
        whole, scales = floats.pop(name), floats.pop(f"{own}{SCALES}", None)
        fits = scales is not None and scales.shape == whole.shape[:1] and scales.dtype == torch.float32
        if scales is None or not fits or whole.dtype != torch.int8 or not bool(scales.isfinite().all()):
            raise ValueError(
                f"{what} holds {printable(own)} as 8-bit integers, but not with one finite scale for each output: it "
                "is damaged."
            )
        integers[own] = whole, scales
    return floats, integers


def holds_integers(path: str | os.PathLike) -> bool:
    """Whether a file of safetensors has weights of 8-bit integers; only the beginning of the file is read.

    Example
    -------
    >>> path = getfixture("tmp_path") / "linear.safetensors"
    >>> write_weights(path, nn.Linear(2, 3).state_dict())
    >>> holds_integers(path)
    False
    """
    if Path(path).suffix != SAFETENSORS:
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.endswith(INTEGERS) for name in file.keys())  # noqa: SIM118  # it is no dict
    except Exception:  # read_weights says what is wrong with it
        return False


def read_saved(path: str | os.PathLike) -> Any:
    """Read what ``torch.save`` wrote, onto the CPU: tensors, numbers, text, and lists and dicts of them. No code in the
    file runs, and files that want some are refused.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`read_weights`.
    """
    file = _regular_file(Path(path))
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # by the damage: RuntimeError, EOFError, KeyError, UnpicklingError, struct.error and more
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise ValueError(
                f"'{path}' holds more than weights, the Python object {wanted[1]}, which could run code: it was not "
                "loaded. Ask for safetensors, or for a state dict of tensors alone."
            ) from error
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "eights only" in first:
            first = "it needs more than tensors"
        raise ValueError(f"The weights '{path}' are damaged or not weights: {first.rstrip('.')}.") from error


def _regular_file(file: Path) -> Path:
    """Refuse what is missing, and devices and pipes, which never end."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no file '{file}' of weights.")
    return file


def _kind(value: Any) -> str:
    return f"a tensor of layout {value.layout}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def write_weights(path: str | os.PathLike, state: Mapping[str, Tensor]) -> None:
    """Write weights, atomically: safetensors or what ``torch.load`` reads, by the suffix of the file.

    Arguments
    ---------
    path : str or Path
        The file, ``.safetensors`` or any other suffix.
    state : mapping of str to Tensor
        The weights. Tensors that share memory are written once for each name.

    Raises
    ------
    TypeError
        When a value is not a tensor.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"The weights have {_kind(value)} under {name!r}, but only tensors can be written.")
    with atomic_path(path) as temporary:
        if Path(path).suffix == SAFETENSORS:
            # safetensors refuses shared memory and views: each name gets a copy
            copies = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
            # not save_file, whose files nobody but their owner may read
            temporary.write_bytes(dump_safetensors(copies, metadata={"format": "pt"}))
        else:
            torch.save({name: value.detach().cpu() for name, value in state.items()}, temporary)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights into a module, all of them and no others; they get the module's own types and devices.

    Arguments
    ---------
    module : torch.nn.Module
        The module.
    state : mapping of str to Tensor
        The weights by name.
    what : str
        What the weights are of and where they are from, for messages: ``encoder of 'folder'``.

    Raises
    ------
    ValueError
        When weights are missing, extra or misshapen, all of which it lists; and when some are not finite.

    Example
    -------
    >>> try:
    ...     load_strictly(nn.Linear(2, 3), {"weight": torch.zeros(3, 4), "scale": torch.ones(1)}, "the layer")
    ... except ValueError as error:
    ...     print(str(error).split(". ")[0])
    The weights of the layer do not fit: 1 missing (bias), 1 extra (scale), 1 misshapen (weight is 3 x 4, needs 3 x 2)
    """
    own = module.state_dict()
    shapes = [(name, value.shape, own[name].shape) for name, value in state.items() if name in own]
    misshapen = [(name, given, needed) for name, given, needed in shapes if given != needed]
    missing, extra = [name for name in own if name not in state], [name for name in state if name not in own]
    if not misshapen:
        _refuse_not_finite(module, state, what)
        # asked again: modules may accept older names than their own
        missing, extra = module.load_state_dict(dict(state), strict=False)
    found = [
        _listed("missing", missing),
        _listed("extra", extra),
        _listed("misshapen", (f"{name} is {_size(given)}, needs {_size(needed)}" for name, given, needed in misshapen)),
    ]
    if any(found):
        raise ValueError(
            f"The weights of {what} do not fit: {', '.join(filter(None, found))}. They belong to another model, or to "
            "other settings of it."
        )


def _refuse_not_finite(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Parameters are finite. Buffers may hold infinities, as masks do, but no NaN."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point()
        if not (value.isfinite().all() if name in parameters else not value.isnan().any())
    ]
    if broken:
        raise ValueError(
            f"The weights of {what} are not finite: {_listed('broken', broken)}. The training diverged, or the type of "
            "the numbers was too small for them."
        )


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _listed(kind: str, names: Iterable[str]) -> str:
    """``2 missing (a, b)``; empty for none."""
    found = [printable(name) for name in names]  # of the file: escapes for the terminal among them
    rest = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{len(found)} {kind} ({', '.join(name[:100] for name in found[:_LISTED])}{rest})" if found else ""
