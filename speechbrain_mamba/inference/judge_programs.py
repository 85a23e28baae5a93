"""TorchScript programs as judges of synthetic speech, such as an exported UTMOS or speaker encoder."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.utils.pretrained import fetch_pretrained

SAMPLE_RATE = 16000
"""Hz, of what the programs hear."""
PROGRAM_SUFFIXES = (".jit", ".pt", ".ts")
"""Ends of the names of TorchScript files."""
SAMPLES = ("float", "int16")
"""How a program takes samples: from -1 to 1, or whole numbers of 16 bits."""
_TAKE_INT16 = ("balacoon/utmos",)
"""Models on the Hub that take whole numbers, as their pages say."""
_DEVICE = re.compile(r'torch\.device\("(?:cpu|cuda(?::\d+)?)"\)')


def is_program(source: str) -> bool:
    """Whether a source is a TorchScript program, by its name."""
    return source.endswith(PROGRAM_SUFFIXES)


def load_program(
    source: str, device: str = "cpu", trusted: bool = False, samples: str | None = None
) -> Callable[[Tensor, int], Tensor]:
    """Load a program: a function from a waveform (samples,) and its rate in Hz to what the program returns.

    Arguments
    ---------
    source : str
        A file, or ``HUB_ID:FILE``. It takes waveforms (1, samples) at 16 kHz, and their rate if it has a second
        argument.
    device : str
        Where it computes. Programs that were traced on another device are moved there.
    trusted : bool
        Whether it may be run.
    samples : str, optional
        One of :data:`SAMPLES`; by default whole numbers for ``balacoon/utmos``, else numbers from -1 to 1.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such program, it is not trusted, or samples are of an unknown kind or of one that it does not
        take.

    Example
    -------
    >>> import warnings
    >>> class Peak(torch.nn.Module):
    ...     def forward(self, wave: Tensor):
    ...         return wave.abs().max()
    >>> path = getfixture("tmp_path") / "peak.jit"
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # TorchScript is deprecated, and yet what UTMOS is exported to
    ...     torch.jit.script(Peak()).save(str(path))
    ...     rate = load_program(str(path), trusted=True)
    >>> round(float(rate(torch.tensor([0.5, -0.25]), 16000)), 4)
    0.5
    """
    if not trusted:
        raise ValueError(
            f"'{source}' is a TorchScript program, which may do anything that your account may: if you trust whoever "
            "made it, say so by --trust_judge; or give a model of the package transformers."
        )
    if samples not in (None, *SAMPLES):
        raise ValueError(f"samples are '{samples}', but must be one of {', '.join(SAMPLES)}.")
    path, (hub_id, colon, name) = Path(source), source.rpartition(":")
    if not path.is_file():
        if not (colon and "/" in hub_id):
            raise FileNotFoundError(f"There is no file '{source}': give one, or HUB_ID:FILE.")
        path = Path(fetch_pretrained(hub_id, name))
    whole = (samples or ("int16" if hub_id in _TAKE_INT16 else "float")) == "int16"
    try:
        program = torch.jit.load(_moved(path, device), map_location=device).eval()
    except (RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' is not a TorchScript program: {str(error).splitlines()[0]}") from error
    takes_rate = len(program.forward.schema.arguments) > 2  # beside the program itself and the waveform

    @torch.no_grad()
    def run(wav: Tensor, sample_rate: int) -> Tensor:
        heard = resample(wav.float(), sample_rate, SAMPLE_RATE)
        if whole:
            heard = (heard.clamp(-1, 1) * (2**15 - 1)).round().to(torch.int16)
        try:
            return program(heard[None].to(device), *([SAMPLE_RATE] if takes_rate else []))
        except (RuntimeError, torch.jit.Error) as error:
            kind = "int16" if whole else "float"
            raise ValueError(
                f"'{source}' does not take waveforms (1, samples) of {kind} at 16 kHz on {device}: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from error

    return run


def _moved(path: Path, device: str) -> io.BytesIO | str:
    """A program whose code names no other device: tracing writes the one that it ran on into the code, where
    ``map_location`` does not reach it. The file itself where that is so already."""
    place = torch.device(device)
    own = place.type if place.index is None and place.type != "cuda" else f"{place.type}:{place.index or 0}"
    with zipfile.ZipFile(path) as given:
        codes = {name: given.read(name).decode("utf-8") for name in given.namelist() if name.endswith(".py")}
        moved = {name: _DEVICE.sub(f'torch.device("{own}")', code) for name, code in codes.items()}
        if moved == codes:
            return str(path)
        program = io.BytesIO()
        with zipfile.ZipFile(program, "w", zipfile.ZIP_STORED) as written:
            for name in given.namelist():
                if name in moved:
                    written.writestr(name, moved[name])
                elif not name.endswith(".debug_pkl"):  # which belong to the code as it was
                    written.writestr(name, given.read(name))
    program.seek(0)
    return program
