"""The ``mamba_config`` of an hparams file: the arguments of the Mamba layers in a model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

MAMBA_OPTIONS = (
    "d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias", "dt_min", "dt_max", "dt_init_floor", "dt_scale",
)  # fmt: skip
"""Keys of a ``mamba_config`` beside ``bidirectional``: arguments of a Mamba layer."""


def mamba_options(mamba_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Take the arguments of a Mamba layer from a ``mamba_config``, which is not changed.

    Arguments
    ---------
    mamba_config : dict, optional
        Any of ``MAMBA_OPTIONS``, and ``bidirectional``, which the encoder of a model reads.

    Returns
    -------
    dict
        The arguments, without ``bidirectional``.

    Raises
    ------
    ValueError
        For any other key.

    Example
    -------
    >>> mamba_options({"d_state": 16, "bidirectional": True})
    {'d_state': 16}
    """
    known = (*MAMBA_OPTIONS, "bidirectional")
    for key in mamba_config or {}:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(known)}."
            raise ValueError(f"mamba_config has '{key}', which no Mamba layer takes: {hint}")
    return {key: value for key, value in (mamba_config or {}).items() if key != "bidirectional"}
