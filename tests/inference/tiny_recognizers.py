"""Tiny recognizers of every kind with random weights, exported as the recipe does."""

from types import SimpleNamespace

import torch
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

from speechbrain_mamba.inference.recognition_export import export_recognizer, export_seq2seq_recognizer
from speechbrain_mamba.text.tokenizer import train_tokenizer
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS

SIZES = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "data_folder": "unused"}
WORDS = ["ONE TWO", "TWO ONE"]


def build_recognizer(folder, name="mini_conmamba_ctc_fsdd", language_model=False, **options):
    """Build a recognizer of a hyper-parameter file, whose tokenizer is written below ``folder``; returns it with its
    hyper-parameters."""
    path = HPARAMS / f"asr/{name}.yaml"
    s2s = "\nseq_lin:" in read_hparams(path)
    tokenizer = train_tokenizer(folder / "tokenizer/tokenizer.ckpt", WORDS, 9, token_type="char")
    sizes = {**SIZES, "output_neurons": tokenizer.vocab_size(), **options}
    if s2s:
        sizes = {"num_decoder_layers": 1, "test_beam_size": 3, **sizes}
    torch.manual_seed(1)
    hparams = load_hparams(path, sizes)
    modules = hparams["modules"]
    modules["normalize"].train()
    modules["normalize"](torch.randn(4, 100, hparams["n_mels"]) * 3 + 2, torch.ones(4), epoch=1)
    with torch.no_grad():
        for layer in {"ctc_lin", "seq_lin"} & set(modules):
            modules[layer].w.weight.mul_(5)  # hardly trained: make it say something
    for module in modules.values():
        module.eval()
    lm = hparams["lm_model"]().eval() if language_model and s2s else None
    return SimpleNamespace(
        hparams=hparams, folder=folder / "inference", tokenizer=tokenizer, modules=modules, language_model=lm,
        text=read_hparams(path, sizes),
    )  # fmt: skip


def export(made):
    """Export a recognizer to its folder as the recipe does."""
    hparams, modules = made.hparams, made.modules
    if "seq_lin" in modules:
        export_seq2seq_recognizer(made.folder, made.text, modules, made.tokenizer, made.language_model)
    else:
        flags = hparams["streaming"], hparams["causal"]
        export_recognizer(made.folder, made.text, modules, made.tokenizer, *flags)


def make_recognizer(folder, name="mini_conmamba_ctc_fsdd", language_model=False, **options):
    """Build a recognizer and export it to ``folder/inference``."""
    made = build_recognizer(folder, name, language_model, **options)
    export(made)
    return made


TINY_LM = {"lm_model": {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 8}}
"""Options that make the language model tiny."""


def tiny_language_model(vocab=9):
    """A language model of the size of ``TINY_LM``."""
    return TransformerLM(vocab, d_model=8, nhead=2, num_encoder_layers=1, num_decoder_layers=0, d_ffn=8, dropout=0.0,
                         activation=torch.nn.GELU, normalize_before=False)  # fmt: skip


def speech(seconds, sample_rate=8000, seed=0):
    """Loud and soft noise in turns, (1, samples)."""
    generator = torch.Generator().manual_seed(seed)
    samples = round(seconds * sample_rate)
    envelope = torch.rand(samples // 400 + 1, generator=generator).repeat_interleave(400)[:samples]
    return (0.3 * envelope * torch.randn(samples, generator=generator))[None]
