"""Hyper-parameters as SpeechBrain's own LibriSpeech recipe has them, with only the model's lines changed."""

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

HPARAMS = """
d_model: 16
output_neurons: 20
pad_index: 0

CNN: !new:speechbrain.lobes.models.convolution.ConvolutionFrontEnd
    input_shape: (8, 10, 80)
    num_blocks: 2
    num_layers_per_block: 1
    out_channels: (64, 32)
    kernel_sizes: (3, 3)
    strides: (2, 2)
    residuals: (False, False)

Transformer: !new:{model}
    input_size: 640
    tgt_vocab: !ref <output_neurons>
    d_model: !ref <d_model>
    nhead: 2
    num_encoder_layers: 2
    num_decoder_layers: 1
    d_ffn: 32
    dropout: 0.1
    activation: !name:torch.nn.GELU
    encoder_module: {encoder_module}
    attention_type: RelPosMHAXL
    normalize_before: True
    causal: False

ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <d_model>
    n_neurons: !ref <output_neurons>

seq_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <d_model>
    n_neurons: !ref <output_neurons>

ctc_scorer: !new:speechbrain.decoders.scorer.CTCScorer
    eos_index: 2
    blank_index: 0
    ctc_fc: !ref <ctc_lin>

scorer: !new:speechbrain.decoders.scorer.ScorerBuilder
    full_scorers: [!ref <ctc_scorer>]
    weights:
        ctc: 0.4

valid_search: !new:{searcher}
    modules: [!ref <Transformer>, !ref <seq_lin>]
    bos_index: 1
    eos_index: 2
    min_decode_ratio: 0.0
    max_decode_ratio: 0.5
    beam_size: 3
    using_eos_threshold: False
    length_normalization: True
    scorer: !ref <scorer>

ctc_cost: !name:speechbrain.nnet.losses.ctc_loss
    blank_index: 0
    reduction: batchmean

seq_cost: !name:speechbrain.nnet.losses.kldiv_loss
    label_smoothing: 0.1
    reduction: batchmean
"""
OURS = "speechbrain_mamba.lobes.models.recognition.transformer_asr.TransformerASR"
SEARCH = "speechbrain.decoders.S2STransformerBeamSearcher"


def load(encoder_module, model=OURS, searcher=SEARCH):
    torch.manual_seed(0)
    return load_hyperpyyaml(HPARAMS.format(model=model, encoder_module=encoder_module, searcher=searcher))


def loss_and_hypotheses(hparams):
    """One step as SpeechBrain's recipe takes it."""
    torch.manual_seed(1)
    wav_lens = torch.tensor([1.0, 0.6])
    tokens, token_lens = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([1.0, 2 / 3])
    tokens_bos, tokens_eos = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 0]]), torch.tensor([[5, 6, 7, 2], [8, 9, 2, 0]])
    src = hparams["CNN"](torch.randn(2, 60, 80))
    encoder_out, pred = hparams["Transformer"](src, tokens_bos, wav_lens, pad_idx=hparams["pad_index"])
    p_ctc = hparams["ctc_lin"](encoder_out).log_softmax(-1)
    p_seq = hparams["seq_lin"](pred).log_softmax(-1)
    loss_ctc = hparams["ctc_cost"](p_ctc, tokens, wav_lens, token_lens)
    loss_seq = hparams["seq_cost"](p_seq, tokens_eos, length=torch.tensor([1.0, 0.75]))
    loss = 0.3 * loss_ctc + 0.7 * loss_seq
    hparams["Transformer"].eval()
    with torch.no_grad():
        hypotheses, _, _, _ = hparams["valid_search"](encoder_out.detach(), wav_lens)
    return loss, hypotheses


def test_the_conformer_stays_speechbrains():
    theirs = load("conformer", model="speechbrain.lobes.models.transformer.TransformerASR.TransformerASR")
    ours = load("conformer")
    assert loss_and_hypotheses(ours)[0].item() == loss_and_hypotheses(theirs)[0].item()


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_module": "conmamba"},
        {"encoder_module": "conmamba\n    decoder_module: mamba"},
        {
            "encoder_module": "conmamba\n    decoder_module: mamba",
            "searcher": "speechbrain_mamba.decoders.S2SMambaBeamSearcher",
        },
    ],
)
def test_conmamba_learns_and_searches(changes):
    hparams = load(**changes)
    modules = torch.nn.ModuleList(hparams[key] for key in ("CNN", "Transformer", "ctc_lin", "seq_lin"))
    optimizer = torch.optim.Adam(modules.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        modules.train()
        loss, hypotheses = loss_and_hypotheses(hparams)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert len(hypotheses) == 2
