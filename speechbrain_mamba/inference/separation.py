"""Ready-to-use separators, from the Hugging Face Hub or a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping

from speechbrain.inference.separation import SepformerSeparation
from torch import Tensor, nn

from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.lobes.models.separation.masking import separate

_PRETRAINER = """
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <modules[encoder]>
        masknet: !ref <modules[masknet]>
        decoder: !ref <modules[decoder]>
"""


class SpeechSeparator(SepformerSeparation):
    """A trained separator: SpeechBrain's ``SepformerSeparation``, for any mask network and for padded batches.

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

    def separate_batch(self, mix: Tensor, mix_lens: Tensor | None = None) -> Tensor:
        """Separate a batch of mixtures.

        Arguments
        ---------
        mix : Tensor
            Mixtures (batch, samples) at the separator's sample rate.
        mix_lens : Tensor, optional
            Lengths relative to the longest mixture, (batch,) in [0, 1].

        Returns
        -------
        Tensor
            Estimates (batch, samples, speakers), zero past each length.
        """
        mix = mix.to(self.device)
        mix_lens = None if mix_lens is None else mix_lens.to(self.device)
        return separate(self.mods.encoder, self.mods.masknet, self.mods.decoder, mix, mix_lens)


def export_separator(folder: str | os.PathLike, hparams_text: str, modules: Mapping[str, nn.Module]) -> None:
    """Write a trained separator to a folder that ``SpeechSeparator.from_hparams`` loads, here or from the Hub.

    Arguments
    ---------
    folder, hparams_text
        As in :func:`~speechbrain_mamba.inference.export.exported`.
    modules : dict of str to torch.nn.Module
        ``encoder``, ``masknet`` and ``decoder``.
    """
    networks = {name: modules[name] for name in SpeechSeparator.MODULES_NEEDED}
    with exported(folder, hparams_text, ["num_spks", "sample_rate", "modules"], _PRETRAINER, networks):
        pass
