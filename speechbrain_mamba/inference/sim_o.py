"""The speaker encoder of SIM-o: a WavLM fine-tuned with an ECAPA-TDNN on top, of Microsoft's UniSpeech.

The field compares speech with its original prompt by the cosine of this model's embeddings (Wang et al., arXiv
2301.02111). The weights are read as they are published, ``wavlm_large_finetune.pth``: names of the original WavLM
become those of the package transformers, which computes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_mamba.dataio.resampling import resample
from speechbrain_mamba.inference.transformers_judges import import_transformers
from speechbrain_mamba.utils.pretrained import fetch_pretrained
from speechbrain_mamba.utils.weights import read_saved

SIM_O = "sim-o"
"""What ``--speaker_encoder`` calls it; ``sim-o:`` and a file, folder or Hub id name other weights."""
HUB_ID, FILE = "bezzam/wavlm_large_finetune_seed_tts_eval", "wavlm_large_finetune.pth"
"""A copy on the Hub of the weights, which UniSpeech keeps where programs cannot fetch them."""
SAMPLE_RATE = 16000
STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Of WavLM's convolutions, which the shapes of weights do not tell."""

_BACKBONE, _CLASSIFIER = "feature_extract.model.", "loss_calculator."
_WAVLM_NAMES = [
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"mask_emb$", "masked_spec_embed"),
    (r"encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"(encoder\.layers\.\d+)\.self_attn\.grep_linear\.", r"\1.attention.gru_rel_pos_linear."),
    (r"(encoder\.layers\.\d+)\.self_attn\.grep_a$", r"\1.attention.gru_rel_pos_const"),
    (r"(encoder\.layers\.\d+)\.self_attn\.relative_attention_bias\.", r"\1.attention.rel_attn_embed."),
    (r"(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
]
_HEAD_NAMES = {
    "Conv1dReluBn1": "first", "Res2Conv1dReluBn": "res2", "Conv1dReluBn2": "last", "SE_Connect": "excitation"
}  # fmt: skip


class ConvBlock(nn.Module):
    """A convolution, ReLU and batch normalization over (batch, channels, time)."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel_size, padding=kernel_size // 2)
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.relu(self.conv(x)))


class Res2(nn.Module):
    """Dilated convolutions of parts of the channels, each of which takes the sum of the part before and its own."""

    def __init__(self, channels: int, dilation: int, scale: int = 8) -> None:
        super().__init__()
        width = channels // scale
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation) for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        *parts, rest = x.chunk(len(self.convs) + 1, 1)
        made: list[Tensor] = []
        for part, conv, bn in zip(parts, self.convs, self.bns):
            made.append(bn(F.relu(conv(made[-1] + part if made else part))))
        return torch.cat([*made, rest], 1)


class Excitation(nn.Module):
    """A gate of each channel by the means of all."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, bottleneck), nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.linear2(F.relu(self.linear1(x.mean(2)))).sigmoid()[:, :, None]


class Block(nn.Module):
    """A residual block of ECAPA-TDNN (arXiv 2005.07143, section 3)."""

    def __init__(self, channels: int, dilation: int, bottleneck: int) -> None:
        super().__init__()
        self.first, self.last = ConvBlock(channels, channels), ConvBlock(channels, channels)
        self.res2, self.excitation = Res2(channels, dilation), Excitation(channels, bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.excitation(self.last(self.res2(self.first(x))))


class Pooling(nn.Module):
    """Mean and standard deviation over time, weighted by attention for each channel."""

    def __init__(self, channels: int, attention: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Conv1d(channels, attention, 1), nn.Conv1d(attention, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.linear2(self.linear1(x).tanh()).softmax(2)
        mean = (weights * x).sum(2)
        return torch.cat([mean, ((weights * x**2).sum(2) - mean**2).clamp(min=1e-9).sqrt()], 1)


class SimOEncoder(nn.Module):
    """ECAPA-TDNN over the weighted sum of WavLM's hidden states.

    Arguments
    ---------
    wavlm : nn.Module
        ``WavLMModel`` of the package transformers.
    channels, bottleneck, pooled, attention, embedding : int
        Widths of the convolutions, of their gates, before and within the pooling, and of the embedding.

    Example
    -------
    >>> import pytest
    >>> transformers = pytest.importorskip("transformers")
    >>> SimOEncoder(transformers.WavLMModel(transformers.WavLMConfig(num_hidden_layers=1))).linear.out_features
    256
    """

    def __init__(
        self, wavlm: Any, channels: int = 512, bottleneck: int = 128, pooled: int = 1536, attention: int = 128,
        embedding: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        self.wavlm = wavlm
        self.feature_weight = nn.Parameter(torch.zeros(wavlm.config.num_hidden_layers + 1))
        self.layer1 = ConvBlock(wavlm.config.hidden_size, channels, 5)
        self.layer2, self.layer3, self.layer4 = (Block(channels, dilation, bottleneck) for dilation in (2, 3, 4))
        self.conv = nn.Conv1d(3 * channels, pooled, 1)
        self.pooling = Pooling(pooled, attention)
        self.bn = nn.BatchNorm1d(2 * pooled)
        self.linear = nn.Linear(2 * pooled, embedding)

    def forward(self, wav: Tensor) -> Tensor:
        """Embed waveforms (1, samples) at 16 kHz: (1, embedding). Padding would change the result."""
        wav = F.layer_norm(wav, wav.shape[1:])
        states = torch.stack(self.wavlm(wav, output_hidden_states=True).hidden_states)
        x = (self.feature_weight.softmax(0)[:, None, None, None] * states).sum(0).transpose(1, 2)
        x = F.instance_norm(x + 1e-6)
        second = self.layer2(self.layer1(x))
        third = self.layer3(second)
        x = F.relu(self.conv(torch.cat([second, third, self.layer4(third)], 1)))
        return self.linear(self.bn(self.pooling(x)))


def load_sim_o(source: str = SIM_O, device: str = "cpu") -> Callable[[Tensor, int], Tensor]:
    """Load the encoder: a function from a waveform (samples,) and its rate in Hz to an embedding (channels,) of
    length 1.

    Arguments
    ---------
    source : str
        ``sim-o``, for the weights on the Hub, or ``sim-o:`` and a file, or a folder or Hub id that has
        ``wavlm_large_finetune.pth``. They are read as numbers, and cannot run code.
    device : str
        Where it computes.

    Raises
    ------
    FileNotFoundError, ValueError
        When there are no such weights, or they are of another model.
    ImportError
        When transformers, which computes WavLM, is not installed.
    """
    transformers = import_transformers(f"The backbone of '{source}'")
    named = source.removeprefix(SIM_O).removeprefix(":") or HUB_ID
    path = Path(named) if Path(named).is_file() else fetch_pretrained(named, FILE)
    saved = read_saved(path)
    try:
        encoder = _encoder_of(saved["model"], transformers)
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{path}' does not have the weights of SIM-o, a WavLM with ECAPA-TDNN of UniSpeech: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    encoder = encoder.to(device).eval()

    @torch.no_grad()
    def embed(wav: Tensor, sample_rate: int) -> Tensor:
        heard = resample(wav.float(), sample_rate, SAMPLE_RATE)
        return F.normalize(encoder(heard[None].to(device))[0], dim=-1).cpu()

    return embed


def _encoder_of(weights: Mapping[str, Tensor], transformers: Any) -> SimOEncoder:
    """The encoder with published weights, its sizes from their shapes."""
    backbone = {name.removeprefix(_BACKBONE): value for name, value in weights.items() if name.startswith(_BACKBONE)}
    head = {name: value for name, value in weights.items() if not name.startswith((_BACKBONE, _CLASSIFIER))}
    wavlm = transformers.WavLMModel(transformers.WavLMConfig(**_wavlm_sizes(backbone)))
    wavlm.load_state_dict({_renamed(name): value for name, value in backbone.items()})
    encoder = SimOEncoder(
        wavlm, len(head["layer1.conv.weight"]), len(head["layer2.SE_Connect.linear1.weight"]), len(head["conv.weight"]),
        len(head["pooling.linear1.weight"]), len(head["linear.weight"]),
    )  # fmt: skip
    named = {".".join(_HEAD_NAMES.get(part, part) for part in name.split(".")): value for name, value in head.items()}
    encoder.load_state_dict({**named, **{f"wavlm.{name}": value for name, value in wavlm.state_dict().items()}})
    return encoder


def _renamed(name: str) -> str:
    """The name of a weight of the original WavLM in transformers."""
    for pattern, new in _WAVLM_NAMES:
        renamed, count = re.subn(f"^{pattern}", new, name)
        if count:
            return renamed
    return name


def _wavlm_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What transformers has to know of a WavLM whose layers are normalized before, such as the large one."""
    n_layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers."))
    convolutions = [weights[f"feature_extractor.conv_layers.{index}.0.weight"] for index in range(len(STRIDES))]
    buckets, heads = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"].shape
    hidden, part, width = weights["encoder.pos_conv.0.weight_v"].shape
    return {
        "hidden_size": hidden, "num_hidden_layers": n_layers, "num_attention_heads": heads,
        "intermediate_size": len(weights["encoder.layers.0.fc1.weight"]), "conv_dim": tuple(map(len, convolutions)),
        "conv_kernel": tuple(conv.shape[2] for conv in convolutions), "conv_stride": STRIDES,
        "num_feat_extract_layers": len(STRIDES), "conv_bias": False, "feat_extract_norm": "layer",
        "do_stable_layer_norm": True, "num_buckets": buckets, "max_bucket_distance": 800,
        "num_conv_pos_embeddings": width, "num_conv_pos_embedding_groups": hidden // part,
        "apply_spec_augment": False, "layerdrop": 0.0,
    }  # fmt: skip
