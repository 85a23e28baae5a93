"""Values that replace those of a hyper-parameter file."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from typing import Any

from ruamel.yaml.comments import CommentedMap, TaggedScalar

from speechbrain_mamba.utils.yaml_text import parse_yaml, tag_of

logger = logging.getLogger(__name__)

Overrides = str | Mapping[str, Any] | None

RENAMED = {
    # Mamba-TasNet
    "N_epochs": "number_of_epochs",
    "clip_grad_norm": "max_grad_norm",
    "n_audio_to_save": "n_examples",
    "n_warmup_step": "n_warmup_steps",
    "percent_lr": "lr_final_ratio",
    "ssm_dim": "mamba_config.d_state",
    "mamba_expand": "mamba_config.expand",
    "mamba_conv": "mamba_config.d_conv",
    # Mamba-ASR
    "d_state": "mamba_config.d_state",
    "expand": "mamba_config.expand",
    "d_conv": "mamba_config.d_conv",
    "transformer_dropout": "dropout",
    "dev_splits": "valid_splits",
    "lr_model": "lr",
    "lr_adam": "lr",
    "num_bucket": "num_buckets",
    "max_batch_length_val": "max_batch_length_valid",
    "max_batch_len_val": "max_batch_length_valid",
    "beam_size": "test_search.beam_size",
    "beam_prune_logp": "test_search.beam_prune_logp",
    "token_prune_min_logp": "test_search.token_prune_min_logp",
    "prune_history": "test_search.prune_history",
    "min_decode_ratio": "searcher.min_decode_ratio",
    "speed_changes": "speed_perturb.speeds",
    **{f"time_drop_{key}": f"time_drop.drop_{key}" for key in ("length_low", "length_high", "count_low", "count_high")},
    **{f"freq_drop_{key}": f"freq_drop.drop_{key}" for key in ("length_low", "length_high", "count_low", "count_high")},
    "time_drop_replace": "time_drop.replace",
    "freq_drop_replace": "freq_drop.replace",
    "time_warp_window": "time_warp.warp_window",
    "time_warp_mode": "time_warp.warp_mode",
    # both of them
    "experiment": "experiment_name",
    "use_wandb": "wandb",
    # version 0.1 of this package
    "test_examples": "n_examples",
}
"""Keys of the published files and of earlier versions that are accepted as overrides, and the keys that they mean."""


def read_overrides(tree: CommentedMap, overrides: Overrides, path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Check overrides against the hyper-parameters that they replace.

    Arguments
    ---------
    tree : CommentedMap
        The hyper-parameters.
    overrides : str or mapping or None
        As in :func:`~speechbrain_mamba.utils.hparams.read_hparams`.
    path : str or Path
        The hyper-parameters' file, for messages.

    Returns
    -------
    list of dict
        For each override, in order, its value inside one dict per key that leads to it.

    Raises
    ------
    ValueError
        If the overrides are not a mapping, one names a key that does not exist, or gives text for a number or for
        True or False.

    Example
    -------
    >>> read_overrides(CommentedMap(lr=1, net=None), "{lr: 2, net.size: 3}", "settings.yaml")
    [{'lr': 2}, {'net': {'size': 3}}]
    """
    given = parse_yaml(overrides, "The text of the overrides") if isinstance(overrides, str) else overrides
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise ValueError(f"Overrides are keys with values, but these are '{given}'.")
    found = []
    for key, value in given.items():
        name = str(key) if key in tree else RENAMED.get(key, str(key))
        outer, *inner = [name] if key in tree else name.split(".")
        if outer not in tree:
            near = difflib.get_close_matches(str(key), tree, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{path} has no hyper-parameter '{key}' to override.{hint}")
        if isinstance(value, str) and not inner:
            _refuse_text(str(key), value, tree[outer])
        if key in RENAMED and name != key:
            logger.warning("%s is called %s here.", key, name)
        for part in reversed(inner):
            value = {part: value}
        found.append({outer: value})
    return found


def _refuse_text(key: str, value: str, before: Any) -> None:
    """Text in place of a flag would count as True, even ``no``; in place of a number it would fail much later."""
    if isinstance(before, bool):
        raise ValueError(f"{key} is '{value}', but must be True or False.")
    if isinstance(before, (int, float)):
        raise ValueError(f"{key} is '{value}', but must be a number, such as {before}.")


def update_tree(tree: CommentedMap, override: Mapping[str, Any]) -> None:
    """Replace values of hyper-parameters in place. A mapping updates the mapping, or the options of the object, whose
    place it takes, and replaces everything else.

    Arguments
    ---------
    tree : CommentedMap
        The hyper-parameters.
    override : mapping
        New values by key.

    Example
    -------
    >>> tree = CommentedMap(lr=1, net=CommentedMap(size=2, depth=3))
    >>> update_tree(tree, {"net": {"size": 4}})
    >>> tree["net"]["size"], tree["net"]["depth"]
    (4, 3)
    """
    for key, value in override.items():
        node = tree.get(key)
        if not isinstance(value, Mapping) or tag_of(value):
            tree[key] = value
            continue
        if isinstance(node, TaggedScalar) and tag_of(node).startswith(("!new:", "!name:", "!apply:")):
            tree[key] = CommentedMap()  # an object without options so far
            tree[key].yaml_set_ctag(node.tag)
        elif not isinstance(node, CommentedMap):
            tree[key] = CommentedMap()
        update_tree(tree[key], value)


def list_leaves(override: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The keys that lead to each value of an override.

    Example
    -------
    >>> list_leaves({"net": {"size": 4, "depth": 3}})
    [('net', 'size'), ('net', 'depth')]
    """
    found = []
    for key, value in override.items():
        inner = list_leaves(value) if isinstance(value, Mapping) and not tag_of(value) else []
        found += [(key, *keys) for keys in inner] or [(key,)]
    return found
