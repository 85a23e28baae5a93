"""Ready-to-use separators, from the Hugging Face Hub or a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from speechbrain.inference.separation import SepformerSeparation
from speechbrain.utils.data_utils import split_path
from speechbrain.utils.fetching import LocalStrategy, fetch
from torch import Tensor, nn

from speechbrain_mamba.dataio.recording_writer import RecordingWriter, write_together
from speechbrain_mamba.dataio.recordings import RecordingReader, Source, open_recording
from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.dataio.waveforms import as_float, check_finite, check_relative_lengths
from speechbrain_mamba.inference.export import exported
from speechbrain_mamba.inference.long_separation import LongSeparator
from speechbrain_mamba.inference.pretrained import Pretrained
from speechbrain_mamba.inference.separation_result import LongSeparation
from speechbrain_mamba.inference.separation_stream import StreamingSeparator
from speechbrain_mamba.lobes.models.separation.causal import check_causal
from speechbrain_mamba.lobes.models.separation.masking import check_length, separate
from speechbrain_mamba.ops import absolute_lengths, mask_frames
from speechbrain_mamba.utils.cuda_graphs import GraphedFunction
from speechbrain_mamba.utils.hparams import select_hparams
from speechbrain_mamba.utils.pretrained import fetch_pretrained

logger = logging.getLogger(__name__)

_PRETRAINER = """
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <modules[encoder]>
        masknet: !ref <modules[masknet]>
        decoder: !ref <modules[decoder]>
"""

_BLOCK = 4.0  # seconds that are read at a time


class SpeechSeparator(Pretrained, SepformerSeparation):
    """A trained separator: SpeechBrain's ``SepformerSeparation``, for any mask network, padded batches, and recordings
    of any length, rate and number of channels.

    Models that are trained for SI-SNR give estimates in a scale of their own. ``separate_batch`` returns them as they
    are. ``separate_file``, ``separate_recording`` and ``separate_long`` scale each speaker so that the estimates add up
    to the mixture as well as they can: levels are kept, and silence stays silence.

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
    >>> [estimate.shape for estimate in separator.separate_batch([torch.randn(4000), torch.randn(500)])]
    [torch.Size([4000, 2]), torch.Size([500, 2])]
    """

    MODULES_NEEDED: ClassVar = SepformerSeparation.MODULES_NEEDED
    HPARAMS_NEEDED: ClassVar = ["sample_rate"]

    def __init__(self, *arguments: Any, cuda_graphs: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._graphed = GraphedFunction(self._separate) if cuda_graphs else None

    @property
    def sample_rate(self) -> int:
        """Samples per second that the model was trained for."""
        return int(self.hparams.sample_rate)

    @property
    def speakers(self) -> int:
        """Speakers that the model separates."""
        return int(self.mods.masknet.num_spks)

    @property
    def can_stream(self) -> bool:
        """Whether the model can run on a stream: whether it does not see the future."""
        try:
            check_causal(self.mods.masknet)
        except ValueError:
            return False
        return True

    def stream(self) -> StreamingSeparator:
        """Begin a stream: see :class:`~speechbrain_mamba.inference.separation_stream.StreamingSeparator`.

        Raises
        ------
        ValueError
            When the model sees the future.
        """
        parts = (self.mods.encoder, self.mods.masknet, self.mods.decoder)
        return StreamingSeparator(*parts, sample_rate=self.sample_rate, context=self.inference_ctx)

    @property
    def _conv(self) -> Any:
        return self.mods.encoder.conv1d

    def _separate(self, mix: Tensor, mix_lens: Tensor | None) -> Tensor:
        with self.inference_ctx:  # the precision
            estimate = separate(self.mods.encoder, self.mods.masknet, self.mods.decoder, mix, mix_lens)
        return estimate.to(mix.dtype)

    # ------------------------------------------------------------ batches

    def separate_batch(self, mix: Any, mix_lens: Any = None, *, batch_size: int | None = None) -> Tensor | list[Tensor]:
        """Separate mixtures at the separator's sample rate, in the model's own scale.

        Arguments
        ---------
        mix : Tensor, or list of Tensor
            Mixtures (batch, samples), or one (samples,); floats of any precision, or int16 or int32, which are divided
            by their full scale. Or a list of mixtures (samples,) of any lengths.
        mix_lens : Tensor or sequence of float, optional
            Lengths relative to the longest mixture, (batch,) in [0, 1]; not for a list.
        batch_size : int, optional
            Mixtures that are separated at once; all by default, and those of a list by similar length, up to 8.

        Returns
        -------
        Tensor, or list of Tensor
            Estimates (batch, samples, speakers), zero past the lengths; for a list one (samples, speakers) for each
            mixture, in their order, as it is when separated alone.

        Raises
        ------
        ValueError, TypeError
            When a mixture has other axes or types, holds NaN, or is shorter than the encoder's kernel, and when lengths
            are not from 0 to 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
        if isinstance(mix, (list, tuple)):
            if mix_lens is not None:
                raise ValueError("mix_lens is for a padded batch: the mixtures of a list have their own lengths.")
            return self._separate_list(mix, batch_size or 8)
        mix = as_float(mix, "The mixture")
        mix = mix[None] if mix.dim() == 1 else mix
        if mix.dim() != 2 or not len(mix):
            raise ValueError(
                f"The mixture has shape {tuple(mix.shape)}, but must be (batch, samples), or (samples,), at "
                f"{self.sample_rate} Hz: mix channels down first, or give each as a mixture."
            )
        mix = mix.to(self.device, self._conv.weight.dtype)
        if mix_lens is None:
            check_finite(mix, "The mixture")
        else:
            mix_lens = check_relative_lengths(mix_lens, len(mix), "mix_lens").to(self.device)
            check_finite(mask_frames(mix, absolute_lengths(mix_lens, mix.shape[1])), "The mixture")
        if batch_size is None or batch_size >= len(mix):
            return self._separate_checked(mix, mix_lens)
        groups = mix_lens.split(batch_size) if mix_lens is not None else [None] * len(mix)
        return torch.cat([self._separate_checked(*group) for group in zip(mix.split(batch_size), groups)])

    def _separate_checked(self, mix: Tensor, mix_lens: Tensor | None) -> Tensor:
        if self._graphed is None or mix.requires_grad or any(p.requires_grad for p in self.mods.parameters()):
            return self._separate(mix, mix_lens)
        with torch.no_grad():
            return self._graphed(mix, mix_lens)

    def _separate_list(self, mixtures: Sequence[Any], batch_size: int) -> list[Tensor]:
        waves = [as_float(mix, f"Mixture {i}") for i, mix in enumerate(mixtures)]
        for i, wave in enumerate(waves):
            if wave.dim() != 1:
                raise ValueError(f"Mixture {i} of the list has shape {tuple(wave.shape)}, but must be (samples,).")
            check_length(self.mods.encoder, len(wave), f"Mixture {i} of the list")
            check_finite(wave, f"Mixture {i} of the list")
        found: dict[int, Tensor] = {}
        by_length = sorted(range(len(waves)), key=lambda i: len(waves[i]))
        for batch in (by_length[i : i + batch_size] for i in range(0, len(waves), batch_size)):
            padded = torch.nn.utils.rnn.pad_sequence([waves[i] for i in batch], batch_first=True)
            lengths = torch.tensor([len(waves[i]) for i in batch], dtype=torch.float64) / padded.shape[1]
            equal = bool((lengths == 1).all())
            estimates = self._separate_checked(
                padded.to(self.device, self._conv.weight.dtype), None if equal else lengths.to(self.device)
            )
            found |= {i: estimate[: len(waves[i])] for i, estimate in zip(batch, estimates)}
        return [found[i] for i in range(len(waves))]

    def forward(self, mix: Any, mix_lens: Any = None) -> Tensor | list[Tensor]:
        """Separate mixtures: :meth:`separate_batch`."""
        return self.separate_batch(mix, mix_lens)

    # ------------------------------------------------------------ recordings

    def separate_long(self, mix: Tensor | Iterable[Tensor], **options: Any) -> LongSeparation:
        """Separate a recording of any length at the separator's rate.

        In windows that overlap: who is who is found from what windows have in common, or from voices, and what stays
        doubtful is told. A model that does not see the future carries its state instead, with the result of the whole.

        Arguments
        ---------
        mix : Tensor or iterable of Tensor
            Samples (samples,) or (channels, samples), or blocks of them that follow each other.
        window : float, optional
            Seconds of a window; None separates the whole recording at once. What is not longer than a window is
            separated as a whole anyway. Default: 16.
        overlap : float, optional
            Seconds that windows overlap, at most half of them. Default: 4.
        batch_size : int, optional
            Windows that are separated at once. Default: 1 on a CPU, else 8.
        speaker_encoder : optional
            SpeechBrain's ``EncoderClassifier``, or a function from waveforms (1, samples) to embeddings, to tell voices
            apart where nobody speaks in an overlap. By default pitch and spectrum do.
        progress : callable, optional
            Called with the seconds that are done, and all of them or None.

        Returns
        -------
        LongSeparation
            With ``estimates`` (channels, samples, speakers).
        """
        if isinstance(mix, Tensor):
            mix = mix[None] if mix.dim() == 1 else mix
            total, blocks = mix.shape[-1], iter(mix.split(round(_BLOCK * self.sample_rate), -1))
        else:
            total, blocks = None, iter(mix)
        result, parts = self._long_separator(**options)(self._checked_blocks(blocks), total)
        result.estimates = torch.cat(list(parts), 1)
        return result

    def _checked_blocks(self, blocks: Iterable[Tensor]) -> Iterable[Tensor]:
        channels = None
        for block in blocks:
            block = as_float(block, "The recording").cpu()
            block = block[None] if block.dim() == 1 else block
            channels = channels or len(block)
            if block.dim() != 2 or len(block) != channels or not channels:
                raise ValueError(
                    f"The recording has a block of shape {tuple(block.shape)}, but all must be (samples,) or "
                    "(channels, samples), with the same channels."
                )
            check_finite(block, "The recording")
            yield block

    def separate_file(
        self,
        path: str | os.PathLike,
        savedir: str | os.PathLike | None = None,
        *,
        channels: Literal["mix", "each"] = "mix",
        **options: Any,
    ) -> Tensor:
        """Separate the speakers of a file.

        Arguments
        ---------
        path : str or Path
            A file of any format, rate, length and number of channels; or a URL, or ``HUB_ID/FILE``.
        savedir : str or Path, optional
            Where a file from the Internet is kept.
        channels : str
            ``mix`` averages the channels of the file, ``each`` separates each of them.
        **options
            Those of :meth:`separate_long`.

        Returns
        -------
        Tensor
            Estimates (channels, samples, speakers), with the sample rate and the number of samples of the file; one
            channel if they are mixed. They add up to the recording as well as they can.

        Raises
        ------
        ValueError, FileNotFoundError
            When there is no such file, or no audio in it that can be separated; the message names the file.
        """
        with open_recording(self._fetched(path, savedir), self.sample_rate, channels) as reader:
            result, parts = self._named(reader, options)
            estimates = torch.cat(list(parts), 1)
            for notice in (*reader.notices, *result.notices):
                logger.warning("%s", notice)
            if reader.source.sample_rate != self.sample_rate:
                by_speaker = estimates.transpose(1, 2)
                estimates = resample(by_speaker, self.sample_rate, reader.source.sample_rate).transpose(1, 2)
            return estimates if reader.source.frames is None else estimates[:, : reader.source.frames]

    def separate_recording(
        self,
        source: Source,
        targets: Sequence[str | os.PathLike],
        *,
        channels: Literal["mix", "each"] = "mix",
        force: bool = False,
        **options: Any,
    ) -> LongSeparation:
        """Separate the speakers of a recording into files, in memory that does not grow with its length.

        Arguments
        ---------
        source : str, Path or binary stream
            A file of any format, rate, length and number of channels; ``-`` is standard input.
        targets : sequence of str or Path
            A file for each speaker, as many as ``speakers``. They get the rate, the number of samples and the format of
            samples of the recording. All of them appear when all are complete, or none.
        channels : str
            ``mix`` averages the channels of the recording, ``each`` separates each of them.
        force : bool
            Whether to replace files that exist.
        **options
            Those of :meth:`separate_long`.

        Returns
        -------
        LongSeparation
            What is known of it: ``notices`` for the user, and ``junctions``, where windows were stitched.

        Raises
        ------
        ValueError, FileNotFoundError, FileExistsError
            When the recording cannot be separated, or the files cannot be written.
        """
        if len(targets) != self.speakers:
            raise ValueError(f"There are {len(targets)} targets, but the model separates {self.speakers} speakers.")
        given = [os.path.realpath(path) for path in (source, *targets) if isinstance(path, (str, os.PathLike))]
        if len(set(given)) < len(given):
            raise ValueError("The recording and the targets must be different files: choose another target.")
        with open_recording(source, self.sample_rate, channels) as reader:
            writers = [
                RecordingWriter(target, self.sample_rate, reader.channels, like=reader, force=force)
                for target in targets
            ]
            places = [Path(target).parent for target in targets if target != "-"]
            folder = next((place for place in places if place.is_dir()), None)
            with write_together(writers):
                result, parts = self._named(reader, {**options, "folder": folder})
                for part in parts:
                    for writer, estimate in zip(writers, part.unbind(2)):
                        writer.write(estimate)
            written = [notice for writer in writers for notice in writer.notices]
        result.notices = [*reader.notices, *result.notices, *written]
        return result

    def _named(self, reader: RecordingReader, options: dict[str, Any]) -> tuple[LongSeparation, Iterable[Tensor]]:
        """Separate what a reader gives; messages name it."""
        if reader.samples is not None and reader.samples < self._conv.kernel_size[0]:
            check_length(self.mods.encoder, reader.samples, f"'{reader.name}', at {self.sample_rate} Hz,")
        blocks = reader.blocks(round(_BLOCK * self.sample_rate))
        return self._long_separator(**options)(blocks, reader.samples)

    def _long_separator(self, *, batch_size: int | None = None, **options: Any) -> LongSeparator:
        return LongSeparator(
            self._separate_windows,
            self.sample_rate,
            self.speakers,
            stride=self._conv.stride[0],
            shortest=self._conv.kernel_size[0],
            stream=self.stream() if self.can_stream else None,
            batch_size=(1 if torch.device(self.device).type == "cpu" else 8) if batch_size is None else batch_size,
            **options,
        )

    @torch.no_grad()
    def _separate_windows(self, mix: Tensor) -> Tensor:
        return self._separate_checked(mix.to(self.device, self._conv.weight.dtype), None)

    @staticmethod
    def _fetched(path: str | os.PathLike, savedir: str | os.PathLike | None) -> str | os.PathLike:
        if not isinstance(path, (str, os.PathLike)) or os.path.lexists(path) or str(path) == "-":
            return path
        source, name = split_path(str(path))
        if "://" not in str(path) and (os.path.isdir(source) or not source or os.path.isabs(path)):
            return path  # which names the file that is not there
        if "://" not in str(path):
            return fetch_pretrained(source, name, savedir)
        return fetch(name, source=source, savedir=savedir, local_strategy=LocalStrategy.SYMLINK)


def export_separator(folder: str | os.PathLike, hparams_text: str, modules: Mapping[str, nn.Module]) -> None:
    """Write a separator to a folder that ``SpeechSeparator.from_hparams`` loads, here or from the Hub.

    Arguments
    ---------
    folder : str or Path
        The folder; replaced if it exists.
    hparams_text : str
        HyperPyYAML of the training, references not resolved.
    modules : mapping of str to torch.nn.Module
        ``encoder``, ``masknet`` and ``decoder``.
    """
    networks = {name: modules[name] for name in SpeechSeparator.MODULES_NEEDED}
    with exported(folder, separator_yaml(hparams_text), networks):
        pass


def separator_yaml(hparams_text: str) -> str:
    """The ``hyperparams.yaml`` of an exported separator, from that of its training."""
    return select_hparams(hparams_text, ["num_spks", "sample_rate", "modules"]) + _PRETRAINER
