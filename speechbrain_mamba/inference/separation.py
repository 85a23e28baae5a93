"""Ready-to-use separators, from the Hugging Face Hub or a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from speechbrain.inference.separation import SepformerSeparation
from torch import Tensor, nn

from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.inference.pretrained import Pretrained
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction

_PRETRAINER = """
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <modules[encoder]>
        masknet: !ref <modules[masknet]>
        decoder: !ref <modules[decoder]>
"""


class SpeechSeparator(Pretrained, SepformerSeparation):
    """A trained separator: SpeechBrain's ``SepformerSeparation``, for any mask network and for padded batches.

    ``from_hparams`` takes ``cuda_graphs=True`` beside SpeechBrain's options: on a GPU and without gradients, mixtures
    of a shape that came before are then separated by replaying a CUDA graph.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> import torch
    >>> from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
    >>> path = "hparams/separation/mini_mambatasnet.yaml"
    >>> export_separator(folder / "model", read_hparams(path), load_hparams(path)["modules"])
    >>> separator = SpeechSeparator.from_hparams(source=str(folder / "model"), savedir=str(folder / "cache"))
    >>> separator.separate_batch(torch.randn(2, 4000), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 4000, 2])
    """

    MODULES_NEEDED: ClassVar = SepformerSeparation.MODULES_NEEDED

    def __init__(self, *arguments: Any, cuda_graphs: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._graphed = GraphedFunction(self._separate) if cuda_graphs else None

    def _separate(self, mix: Tensor, mix_lens: Tensor | None) -> Tensor:
        return separate(self.mods.encoder, self.mods.masknet, self.mods.decoder, mix, mix_lens)

    def separate_batch(self, mix: Tensor, mix_lens: Tensor | None = None) -> Tensor:
        """Separate mixtures (batch, samples) at the separator's sample rate: the speakers (batch, samples, speakers).

        ``mix_lens``, (batch,) in [0, 1], are lengths relative to the longest mixture; estimates are zero past them.
        """
        mix = mix.to(self.device)
        mix_lens = None if mix_lens is None else mix_lens.to(self.device)
        if self._graphed is None or mix.requires_grad or any(p.requires_grad for p in self.mods.parameters()):
            return self._separate(mix, mix_lens)
        with torch.no_grad():
            return self._graphed(mix, mix_lens)


def export_separator(folder: str | os.PathLike, hparams_text: str, modules: Mapping[str, nn.Module]) -> None:
    """Write a separator, ``encoder``, ``masknet`` and ``decoder``, to a folder that ``SpeechSeparator.from_hparams``
    loads, here or from the Hub; arguments as in :func:`~speechbrain_mamba.inference.export.exported`."""
    networks = {name: modules[name] for name in SpeechSeparator.MODULES_NEEDED}
    with exported(folder, hparams_text, ["num_spks", "sample_rate", "modules"], _PRETRAINER, networks):
        pass
