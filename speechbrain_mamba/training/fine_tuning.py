"""Fine-tuning: weights to start from, what is left out of them, and parts that are not trained.

``--init_from`` names a source, ``--init_skip`` what does not fit or is not wanted of it, ``--freeze`` what stays as it
is. Both lists hold patterns of names (:mod:`~speechbrain_mamba.training.named_weights`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechbrain_mamba.training.init_source import InitSource, find_init_source
from speechbrain_mamba.training.named_weights import NamedWeights, RunWeights
from speechbrain_mamba.training.patterns import check_patterns, read_patterns, select, top_names
from speechbrain_mamba.utils._compat import set_normalizer
from speechbrain_mamba.utils.main_process import do_on_main

logger = logging.getLogger(__name__)

_LISTED = 10
"""Modules that a message lists of each kind."""


@dataclass
class Fit:
    """How the weights of a source fit those of a run, by name.

    Example
    -------
    >>> here = NamedWeights({"a.weight": torch.zeros(2), "b.weight": torch.zeros(3)})
    >>> there = NamedWeights({"a.weight": torch.zeros(2), "b.weight": torch.zeros(4), "c.weight": torch.zeros(1)})
    >>> fit = compare_weights(here, there)
    >>> fit.fitting, fit.misshapen, fit.extra
    (['a.weight'], {'b.weight': '4 there, 3 here'}, ['c.weight'])
    >>> fit.patterns()
    ['b', 'c']
    """

    fitting: list[str] = field(default_factory=list)
    """Names of the same shape on both sides."""

    misshapen: dict[str, str] = field(default_factory=dict)
    """Names with another shape there, and both shapes."""

    missing: list[str] = field(default_factory=list)
    """Names that the source lacks."""

    extra: list[str] = field(default_factory=list)
    """Names that only the source has."""

    parts: dict[str, str] = field(default_factory=dict)
    """What belongs to weights and is not the same, such as a tokenizer, with what is wrong with it."""

    def misfits(self) -> list[str]:
        """All names that do not fit."""
        return [*self.misshapen, *self.missing, *self.extra, *self.parts]

    def names(self) -> list[str]:
        """All names of both sides."""
        return [*self.fitting, *self.misfits()]

    def leave_out(self, skipped: set[str]) -> Fit:
        """The same without some names."""
        return Fit(
            [name for name in self.fitting if name not in skipped],
            {name: shapes for name, shapes in self.misshapen.items() if name not in skipped},
            [name for name in self.missing if name not in skipped],
            [name for name in self.extra if name not in skipped],
            {name: fault for name, fault in self.parts.items() if name not in skipped},
        )

    def patterns(self) -> list[str]:
        """The shortest patterns that stand for the misfits and for nothing that fits. Those that differ only in the
        number of a layer become one, if that stands for nothing that fits either."""
        found: list[str] = []
        for name in self.misfits():
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                pattern = ".".join(parts[:end])
                if not select(self.fitting, [pattern]):
                    found.append(pattern)
                    break
        found = list(dict.fromkeys(found))
        general = {pattern: _any_number(pattern) for pattern in found}
        several = {one for one, count in Counter(general.values()).items() if count > 1}
        several = {one for one in several if not select(self.fitting, [one])}
        return list(dict.fromkeys(general[one] if general[one] in several else one for one in found))

    def describe(self) -> str:
        """The misfits, module by module."""
        sentences = []
        if self.misshapen:
            sentences.append(f"Of another shape: {_by_module(self.misshapen, self.misshapen)}.")
        if self.missing:
            sentences.append(f"Missing there: {_by_module(self.missing)}.")
        if self.extra:
            sentences.append(f"Only there: {_by_module(self.extra)}.")
        sentences += [f"The {name} {fault}." for name, fault in self.parts.items()]
        return " ".join(sentences)


def _any_number(pattern: str) -> str:
    """A pattern with ``*`` for each part that is a number."""
    return ".".join("*" if part.isdigit() else part for part in pattern.split("."))


def _by_module(names: Iterable[str], notes: Mapping[str, str] | None = None) -> str:
    """Names grouped by module: ``encoder.conv (weight, bias), head (weight, 3 x 4 there, 2 x 4 here)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        module, _, parameter = name.rpartition(".")
        groups.setdefault(module, []).append(f"{parameter}, {notes[name]}" if notes else parameter)
    listed = [f"{module} ({', '.join(one)})" for module, one in list(groups.items())[:_LISTED]]
    rest = len(groups) - _LISTED
    total = sum(map(len, groups.values()))
    return ", ".join(listed) + (f" and {rest} more modules, {total} tensors in all" if rest > 0 else "")


def compare_weights(here: NamedWeights, there: NamedWeights) -> Fit:
    """Compare the weights of a run with those of a source."""
    fit = Fit()
    for name, tensor in here.tensors.items():
        other = there.tensors.get(name)
        if other is None:
            fit.missing.append(name)
        elif other.shape != tensor.shape:
            fit.misshapen[name] = f"{_size(other)} there, {_size(tensor)} here"
        else:
            fit.fitting.append(name)
    fit.extra += [name for name in there.tensors if name not in here.tensors]
    for module, statistics in here.statistics.items():
        names = [f"{module}.{name}" for name in statistics]
        (fit.fitting if module in there.statistics else fit.missing).extend(names)
    return fit


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def load_fitting(here: NamedWeights, there: NamedWeights, names: Iterable[str], source: InitSource) -> None:
    """Copy weights of a source into a run; they get the types and devices of the run.

    Raises
    ------
    ValueError
        When parameters are not finite, or buffers have NaN.
    """
    chosen = set(names)
    tensors = {name: tensor for name, tensor in here.tensors.items() if name in chosen}
    broken = [name for name, tensor in tensors.items() if not _is_sound(there.tensors[name], tensor)]
    if broken:
        raise ValueError(
            f"The weights of {source.description} are not finite in {_by_module(broken)}: its training has diverged, "
            "or the file is damaged. Take another source."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(there.tensors[name])


def _is_sound(value: Tensor, target: Tensor) -> bool:
    if not value.is_floating_point():
        return True
    return bool(value.isfinite().all()) if isinstance(target, nn.Parameter) else not bool(value.isnan().any())


def freeze_weights(tensors: Mapping[str, Tensor], patterns: Sequence[str]) -> set[str]:
    """Take the gradients of parameters away whose names match a pattern. Returns all names that match, also of buffers.

    Example
    -------
    >>> layer = nn.Linear(2, 2)
    >>> freeze_weights({"layer.weight": layer.weight, "layer.bias": layer.bias}, ["*.weight"])
    {'layer.weight'}
    >>> layer.weight.requires_grad, layer.bias.requires_grad
    (False, True)
    """
    frozen = select(tensors, patterns)
    for name in frozen:
        if isinstance(tensors[name], nn.Parameter):
            tensors[name].requires_grad_(False)
    return frozen


def find_frozen_modules(
    modules: Iterable[nn.Module], named: Mapping[int, bool], statistics: Mapping[int, bool]
) -> list[nn.Module]:
    """Find the modules that are frozen as a whole: all their parameters, or all their buffers if they have no others.

    Modules without either, such as dropout, are frozen with the module that they are in.

    Arguments
    ---------
    modules : iterable of torch.nn.Module
        Where to look.
    named : mapping of int to bool
        Whether a tensor is frozen, by its id; buffers that checkpoints do not hold are not among them.
    statistics : mapping of int to bool
        Whether the statistics of a normalizer are frozen, by its id.

    Returns
    -------
    list of torch.nn.Module
        The outermost ones.
    """
    states: dict[int, bool | None] = {}

    def visit(module: nn.Module) -> bool | None:
        if id(module) not in states:
            own = [named[id(one)] for one in module.parameters(recurse=False) if id(one) in named]
            own = own or [named[id(one)] for one in module.buffers(recurse=False) if id(one) in named]
            own += [statistics[id(module)]] if id(module) in statistics else []
            own += [state for state in map(visit, module.children()) if state is not None]
            states[id(module)] = all(own) if own else None
        return states[id(module)]

    def outermost(module: nn.Module) -> list[nn.Module]:
        if visit(module):
            return [module]
        return [found for child in module.children() for found in outermost(child)]

    return [found for module in modules for found in outermost(module)]


class FineTuning:
    """Mixin for Brains: weights to start from, and frozen parts.

    The hyper-parameters ``init_from``, ``init_skip`` and ``freeze`` may be missing: then all is trained from scratch.
    """

    renamed_weights: ClassVar[Mapping[str, str]] = {}
    """Beginnings of weights' names that are replaced, so that weights have one name in all recipes of a task."""

    other_weight_files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Further names of the files of recoverables, as other programs write them."""

    source: InitSource | None = None
    """Where the weights of a new run come from; None in a run that is resumed or starts from scratch."""

    hparams: Any
    modules: Any
    checkpointer: Any
    best_by: ClassVar[str]
    frozen: Sequence[nn.Module] = ()
    taken: frozenset[str] = frozenset()
    """Names of the weights that a new run took from its source."""

    def compare_parts(self, source: InitSource) -> dict[str, str]:
        """What belongs to the weights of a source and is another one in this run: what is wrong, by names that
        ``init_skip`` takes, such as ``tokenizer``."""
        return {}

    def part_names(self) -> tuple[str, ...]:
        """All names that :meth:`compare_parts` may have."""
        return ()

    def is_skipped(self, name: str) -> bool:
        """Whether ``init_skip`` names something."""
        return bool(select([name], self.init_skip))

    def translate_weights(self, weights: NamedWeights, source: InitSource) -> None:
        """Change weights of a source in place, before they are compared."""

    @property
    def init_skip(self) -> list[str]:
        """The patterns of what is not taken from the source."""
        return read_patterns(vars(self.hparams).get("init_skip"))

    @property
    def freeze(self) -> list[str]:
        """The patterns of what is not trained."""
        return read_patterns(vars(self.hparams).get("freeze"))

    def find_source(self) -> InitSource | None:
        """Find the source of a new run's weights; None if none is asked for, or if there is a checkpoint to resume."""
        given = vars(self.hparams).get("init_from")
        if not given:
            if self.init_skip:
                given = ", ".join(self.init_skip)
                raise ValueError(f"init_skip is {given}, but there is no init_from to leave it out of: give both.")
            return None
        if self.checkpointer is not None and self.checkpointer.list_checkpoints():
            return None
        return find_init_source(given, self.best_by)

    def start_weights(self) -> None:
        """Load the weights of the source if there is one, and freeze what is to be frozen; in all processes."""
        if self.source is None and not self.freeze:
            return
        weights = self._run_weights()
        if self.source is not None:
            self._load_source(self.source, weights)
        here, patterns = weights.here(), self.freeze
        check_patterns("freeze", patterns, here.names())
        self._check_statistics(weights, here)
        freeze_weights(here.tensors, patterns)
        if patterns:
            trained = [one for one in self.modules.parameters() if one.requires_grad]
            if not trained:
                raise ValueError(f"freeze is {', '.join(patterns)}, which leaves no parameter to train: freeze less.")
            whole = sum(one.numel() for one in self.modules.parameters())
            frozen = whole - sum(one.numel() for one in trained)
            logger.info("freeze: %d of %d parameters are not trained (%s).", frozen, whole, ", ".join(patterns))

    def named_weights(self) -> NamedWeights:
        """The weights of this run by name."""
        return self._run_weights().here()

    def find_frozen(self) -> None:
        """Find the modules that are frozen as a whole. Called when all modules are as they are trained."""
        self.frozen = ()
        if self.freeze:
            weights = self._run_weights()
            here = weights.here()
            chosen = select(here.names(), self.freeze)
            named = {id(tensor): name in chosen for name, tensor in here.tensors.items()}
            kept = {id(one): f"{name}.count" in chosen for name, (_, one) in weights.normalizers.items()}
            self.frozen = tuple(find_frozen_modules(self.hparams.modules.values(), named, kept))

    def _run_weights(self) -> RunWeights:
        recoverables = {} if self.checkpointer is None else self.checkpointer.recoverables
        return RunWeights(self.hparams.modules, recoverables, self.renamed_weights, self.other_weight_files)

    def _load_source(self, source: InitSource, weights: RunWeights) -> None:
        do_on_main(weights.fetch, source)  # from the Hub once
        here, there = weights.here(), weights.read(source)
        self.translate_weights(there, source)
        fit = compare_weights(here, there)
        fit.parts = self.compare_parts(source)
        check_patterns("init_skip", self.init_skip, [*fit.names(), *self.part_names()])
        left = fit.leave_out(select(fit.names(), self.init_skip))
        if left.misfits():
            patterns = ",".join(left.patterns())
            raise ValueError(
                f"{source.description[0].upper()}{source.description[1:]} does not fit this run. {left.describe()} "
                f"Leave it out with --init_skip '{','.join([*self.init_skip, patterns])}', or take settings that fit."
            )
        load_fitting(here, there, left.fitting, source)
        self.taken = frozenset(left.fitting)
        taken = {name.rpartition(".")[0] for name in left.fitting}
        for name, (_, normalizer) in weights.normalizers.items():
            if name in taken:
                set_normalizer(normalizer, there.statistics[name])
        self._log_source(source, fit, left, [name for name in weights.normalizers if name in taken])

    def _log_source(self, source: InitSource, fit: Fit, left: Fit, normalizers: Sequence[str]) -> None:
        total = len(fit.fitting) + len(fit.misshapen) + len(fit.missing)
        modules = [
            f"{name} {sum(top_names([one]) == [name] for one in left.fitting)}" for name in top_names(fit.fitting)
        ]
        skipped = [name for name in fit.names() if name not in set(left.fitting)]
        sentences = [f"{len(left.fitting)} of {total} tensors from {source.description} ({', '.join(modules)})"]
        sentences.append(f"skipped: {_by_module(skipped)}" if skipped else "nothing skipped")
        if normalizers:
            sentences.append(f"with the statistics of {', '.join(normalizers)}")
        sentences += [
            f"{name}: {'another one' if name in fit.parts else 'a new one'}"
            if self.is_skipped(name)
            else f"{name}: that of the source"
            for name in self.part_names()
        ]
        logger.info("init_from: %s.", "; ".join(sentences))

    def _check_statistics(self, weights: RunWeights, here: NamedWeights) -> None:
        """Refuse to freeze statistics before there are any."""
        if self.checkpointer is not None and self.checkpointer.list_checkpoints():
            return
        for name, (_, normalizer) in weights.normalizers.items():
            frozen = select([f"{name}.count"], self.freeze)
            if frozen and not getattr(normalizer, "count", 1):
                raise ValueError(
                    f"freeze has the statistics of '{name}', but there are none yet: they come with init_from, so do "
                    "not name them in init_skip, or do not freeze them."
                )


def trainable(module: nn.Module, name: str = "the model") -> list[nn.Parameter]:
    """The parameters of a module that are not frozen, for an optimizer.

    Raises a ValueError when there are none.
    """
    parameters = [one for one in module.parameters() if one.requires_grad]
    if not parameters:
        raise ValueError(f"freeze leaves no parameter of {name} to train: freeze less.")
    return parameters
