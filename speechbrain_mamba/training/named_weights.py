"""All weights of a run by name, here and in a source: what ``--init_skip`` and ``--freeze`` speak of.

A name is ``MODULE.PARAMETER``, with the modules of the hyper-parameters (``encoder``, ``masknet``, ...), whatever the
files are called that hold them. Statistics of a normalizer have names too: ``normalize.glob_mean``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import DEFAULT_SAVE_HOOKS, get_default_hook
from torch import Tensor, nn

from speechbrain_mamba.training.init_source import InitSource
from speechbrain_mamba.utils._compat import normalizer_statistics
from speechbrain_mamba.utils.weights import read_saved, read_weights

_SAVE_MODULE = DEFAULT_SAVE_HOOKS[nn.Module]


@dataclass
class NamedWeights:
    """Weights by name."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Parameters and buffers that checkpoints hold."""

    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Statistics of each normalizer, by the name of its module."""

    def names(self) -> list[str]:
        """All names, those of statistics last."""
        return [*self.tensors, *(f"{module}.{name}" for module, one in self.statistics.items() for name in one)]


class RunWeights:
    """The weights of a run, and how the files of a source call them.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        The modules of the hyper-parameters.
    recoverables : mapping of str to object
        What checkpoints hold, by the name of its file. Modules that are not in it have no names.
    renamed : mapping of str to str
        Beginnings of names that are replaced, so that the same weights have the same name in all recipes of a task.
    other_files : mapping of str to tuple of str
        Further names of the file of a recoverable, or of a module.

    Example
    -------
    >>> modules = {"front": nn.Linear(1, 2), "back": nn.Linear(2, 1)}
    >>> weights = RunWeights(modules, {"model": nn.ModuleList(modules.values())})
    >>> weights.here().names()
    ['front.weight', 'front.bias', 'back.weight', 'back.bias']
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        recoverables: Mapping[str, Any],
        renamed: Mapping[str, str] | None = None,
        other_files: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._renamed, self._other_files = renamed or {}, other_files or {}
        kept = {name: module for name, module in recoverables.items() if isinstance(module, nn.Module)}
        self._saved = {name: one for name, one in kept.items() if _is_saved_plainly(one)}
        by_object = {id(module): name for name, module in modules.items()}
        self.normalizers = {
            by_object.get(id(one), name): (name, one)
            for name, one in kept.items()
            if not _is_saved_plainly(one) and normalizer_statistics(one) is not None
        }
        """The normalizers by the names of their modules, with the names of their files."""
        self._modules = {name: one for name, one in modules.items() if name not in self.normalizers}

    def here(self) -> NamedWeights:
        """The weights as they are; tensors are those of the modules, not copies."""
        saved = {id(t): f"{name}.{key}" for name, key, t in _entries(self._saved)}
        tensors, seen = {}, set()
        for name, key, tensor in _entries(self._modules):
            if id(tensor) in saved and id(tensor) not in seen:
                seen.add(id(tensor))
                tensors[self._rename(f"{name}.{key}")] = tensor
        for name, key, tensor in _entries(self._saved):  # of recoverables that are in no module
            if id(tensor) not in seen:
                seen.add(id(tensor))
                tensors[self._rename(f"{name}.{key}")] = tensor
        statistics = {name: normalizer_statistics(one) or {} for name, (_, one) in self.normalizers.items()}
        return NamedWeights(tensors, statistics)

    def files(self) -> list[str]:
        """The names that files of these weights may have, without suffixes."""
        others = [name for names in self._other_files.values() for name in names]
        statistics = [name for pair in self.normalizers.items() for name in (pair[0], pair[1][0])]
        return list(dict.fromkeys([*self._modules, *self._saved, *others, *statistics]))

    def fetch(self, source: InitSource) -> None:
        """Look for all files that :meth:`read` may need: those on the Hub are downloaded."""
        for name in self.files() if not source.folders else ():
            source.find_weights(name)

    def read(self, source: InitSource) -> NamedWeights:
        """Read the weights of a source.

        Raises
        ------
        FileNotFoundError
            When the source has no weights of any module.
        ValueError
            When a file cannot be read, or its modules have numbers that do not tell which they are.
        """
        found, files = NamedWeights(), dict[str, Path]()
        for name in self._modules:
            for file in (name, *self._other_files.get(name, ())):
                path = source.find_weights(file)
                if path is not None:
                    files[name] = path
                    named = {self._rename(f"{file}.{key}"): value for key, value in read_weights(path).items()}
                    found.tensors |= named
                    break
        for name, module in self._saved.items():
            within = {id(part) for part in module.modules()}
            if name in self._modules or any(id(self._modules[one]) in within for one in files):
                continue
            path = next(filter(None, map(source.find_weights, (name, *self._other_files.get(name, ())))), None)
            if path is not None:
                files[name] = path
                state = read_weights(path)
                _check_numbers(name, module, state, source)
                translate = self._translator(name, module)
                found.tensors |= {self._rename(translate(key)): value for key, value in state.items()}
        for name, (file, _) in self.normalizers.items():
            path = source.find_weights(file) or source.find_weights(name)
            if path is not None:
                statistics = read_saved(path)
                if not isinstance(statistics, dict) or not {"count", "glob_mean", "glob_std"} <= statistics.keys():
                    raise ValueError(f"'{path}' does not hold the statistics of a normalizer: {_kinds(statistics)}.")
                found.statistics[name] = {key: statistics[key] for key in ("count", "glob_mean", "glob_std")}
        if not files:
            wanted = ", ".join(dict.fromkeys([*self._modules, *self._saved]))
            raise FileNotFoundError(
                f"{source.description[0].upper()}{source.description[1:]} has no weights of this recipe's modules "
                f"({wanted}): it is of another kind, or no model at all."
            )
        return found

    def _rename(self, name: str) -> str:
        for before, now in self._renamed.items():
            if name.startswith(before):
                return now + name[len(before) :]
        return name

    def _translator(self, name: str, module: nn.Module) -> Callable[[str], str]:
        """From keys in the file of a recoverable to names."""
        known: dict[int, str] = {}
        for outer, one in self._modules.items():
            for inner, part in one.named_modules():
                known.setdefault(id(part), f"{outer}.{inner}".rstrip("."))
        places = {path: known[id(part)] for path, part in module.named_modules() if id(part) in known}

        def translate(key: str) -> str:
            parts = key.split(".")
            for end in range(len(parts) - 1, 0, -1):
                place = places.get(".".join(parts[:end]))
                if place is not None:
                    return ".".join([place, *parts[end:]])
            return f"{name}.{key}"

        return translate


def _is_saved_plainly(module: nn.Module) -> bool:
    """Whether a checkpoint holds the ``state_dict`` of a module; normalizers save themselves in their own way."""
    return get_default_hook(module, DEFAULT_SAVE_HOOKS) is _SAVE_MODULE


def _entries(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, Tensor]]:
    for name, module in modules.items():
        for key, tensor in module.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor):
                yield name, key, tensor


def _check_numbers(name: str, module: nn.Module, state: Mapping[str, Tensor], source: InitSource) -> None:
    """Refuse a list of other modules: their numbers do not tell which is which."""
    here, there = (sorted({key.partition(".")[0] for key in one}) for one in (module.state_dict(), state))
    if isinstance(module, nn.ModuleList) and here != there:
        raise ValueError(
            f"The file of '{name}' in {source.description} has the modules {', '.join(there)}, and that of this run "
            f"has {', '.join(here)}: numbers do not tell which is which. Give the exported folder of that run, "
            "inference/, whose modules have names."
        )


def _kinds(value: Any) -> str:
    return (
        f"it has {', '.join(map(str, value)) or 'nothing'}" if isinstance(value, dict) else f"a {type(value).__name__}"
    )
