"""Settings that have to agree with one another, checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperpyyaml import load_hyperpyyaml

from speechbrain_mamba.utils.hparams import select_hparams
from speechbrain_mamba.utils.yaml_text import look_at_yaml


def _stride(kernel_size: int, kernel_stride: int) -> str | None:
    if kernel_size < 2 or kernel_stride != kernel_size // 2:
        return (
            f"kernel_stride is {kernel_stride} and kernel_size {kernel_size}, but SpeechBrain's encoder has a kernel "
            "of at least 2 and a stride of half of it: set kernel_size alone."
        )
    return None


def _window(n_fft: int, win_length: float, sample_rate: int) -> str | None:
    samples = round(sample_rate / 1000 * win_length)
    if samples > n_fft:
        return (
            f"n_fft is {n_fft}, but a window of {win_length} ms at {sample_rate} Hz has {samples} samples: set n_fft "
            "to at least that."
        )
    return None


def _front_end(n_mels: int, cnn_out_channels: int) -> str | None:
    if n_mels < 4 or n_mels % 4:
        return f"n_mels is {n_mels}, but the front end, of {cnn_out_channels} channels, needs a multiple of 4."
    return None


def _recognizer_heads(
    d_model: int, nhead: int, encoder_module: str, decoder_module: str, num_decoder_layers: int
) -> str | None:
    attends = encoder_module != "conmamba" or (num_decoder_layers > 0 and decoder_module == "transformer")
    return _heads("d_model", d_model, nhead) if attends else None


def _separator_heads(out_channels: int, nhead: int, n_transformer: int) -> str | None:
    return _heads("out_channels", out_channels, nhead) if n_transformer > 0 else None


def _heads(name: str, size: int, nhead: int) -> str | None:
    if nhead < 1 or size % nhead:
        return f"{name} is {size}, but must be a multiple of nhead, {nhead}."
    return None


def _epochs(number_of_epochs: int) -> str | None:
    return _whole("number_of_epochs", number_of_epochs, 0)


def _batch(batch_size: int) -> str | None:
    return _whole("batch_size", batch_size, 1)


def _accumulation(grad_accumulation_factor: int) -> str | None:
    return _whole("grad_accumulation_factor", grad_accumulation_factor, 1)


def _whole(name: str, value: Any, least: int) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        return f"{name} is {value}, but must be a whole number of at least {least}."
    return None


RULES: tuple[Callable[..., str | None], ...] = (
    _stride, _window, _front_end, _recognizer_heads, _separator_heads, _epochs, _batch, _accumulation
)  # fmt: skip
"""Each takes settings by their names, and returns what is wrong. It applies to files that have all these settings."""


def check_agreement(text: str) -> None:
    """Refuse settings that contradict one another.

    Arguments
    ---------
    text : str
        Hyper-parameters in HyperPyYAML.

    Raises
    ------
    ValueError
        When settings do not agree: which, and what to do.

    Example
    -------
    >>> check_agreement("n_fft: 400\\nwin_length: 32\\nsample_rate: 16000")
    Traceback (most recent call last):
    ValueError: n_fft is 400, but a window of 32 ms at 16000 Hz has 512 samples: set n_fft to at least that.
    """
    tree = look_at_yaml(text, "The hyper-parameters")
    rules = {rule: _inputs(rule) for rule in RULES if tree.keys() >= set(_inputs(rule))}
    values: dict[str, Any] = load_hyperpyyaml(select_hparams(text, {key for keys in rules.values() for key in keys}))
    for rule, keys in rules.items():
        fault = rule(**{key: values[key] for key in keys})
        if fault:
            raise ValueError(fault)


def _inputs(rule: Callable[..., str | None]) -> tuple[str, ...]:
    return rule.__code__.co_varnames[: rule.__code__.co_argcount]
