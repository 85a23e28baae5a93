"""Lengths on the CPU come to the GPU once, at a model's door, and the CPU waits for nothing."""

from __future__ import annotations

import pytest
import torch
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd
from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR
from speechbrain_mamba.lobes.models.separation.mamba_tasnet import MaskNet
from speechbrain_mamba.lobes.models.separation.masking import separate
from speechbrain_mamba.nnet.blocks import MambaBlocksSequential
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba
from tests.ops.waiting import Transfers, gpu_of_shapes

LENGTHS, RELATIVE = torch.tensor([3, 6]), torch.tensor([0.5, 1.0])


def sequence_model(make):
    def build():
        model = make()
        return lambda: model(torch.randn(2, 6, 8), LENGTHS)

    return build


def separator():
    masknet = MaskNet(N=16, B=8, C=2, mamba_net=MambaBlocksSequential(2, True, 8))
    masknet.layer_norm = torch.nn.Identity()  # SpeechBrain's makes its parameters on the CPU wherever it is made
    encoder, decoder = Encoder(16, 16), Decoder(16, 1, 16, stride=8, bias=False)
    return lambda: separate(encoder, masknet, decoder, torch.randn(2, 80), RELATIVE)


def recognizer():
    model = TransformerASR(
        input_size=8, tgt_vocab=10, d_model=8, nhead=2, d_ffn=16, num_encoder_layers=2, num_decoder_layers=2,
        encoder_module="conmamba", decoder_module="mamba", mamba_config={"d_state": 4}, normalize_before=True,
        attention_type="RelPosMHAXL", causal=False,
    )  # fmt: skip
    tokens = torch.ones(2, 4, dtype=torch.long)
    return lambda: model(torch.randn(2, 6, 8), tokens, RELATIVE)


def front_end():
    blocks = ConvolutionFrontEnd((2, 6, 8), num_blocks=2, num_layers_per_block=1, out_channels=(4, 4), strides=(2, 2))
    return lambda: blocks(torch.randn(2, 20, 8), RELATIVE)


MODELS = {
    "Mamba": sequence_model(lambda: Mamba(8, bias=True)),
    "BiMamba": sequence_model(lambda: BiMamba(8, bias=True)),
    "stack": sequence_model(lambda: MambaBlocksSequential(2, True, 8)),
    "separator": separator,
    "recognizer": recognizer,
    "front end": front_end,
}


@pytest.mark.parametrize("name", MODELS)
def test_lengths_on_the_cpu_are_copied_once(name):
    with gpu_of_shapes() as device:
        with device:
            run = MODELS[name]()
        with device, Transfers() as transfers:
            run()
    assert transfers.to_gpu == [True]
    assert transfers.from_gpu == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", [name for name in MODELS if name != "front end"])
def test_nothing_waits_for_the_gpu(name):
    """Forward and backward, with lengths on the CPU; the front end runs with cuDNN, which may choose by timing."""
    with torch.device("cuda"):
        run = MODELS[name]()
        run()  # compiles
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            y = run()
            (y[0] if isinstance(y, tuple) else y).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
