"""Exported recognizers of every kind, loaded by SpeechBrain's own classes."""

import itertools

import pytest
import torch
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder, TransformerLMScorer
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR, StreamingASR
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_mamba.inference.judges import load_recognizer
from speechbrain_mamba.text.tokenizer import spell
from tests.inference.tiny_recognizers import TINY_LM, make_recognizer, speech


@pytest.mark.parametrize(
    "name, options",
    [
        ("mini_conmamba_s2s_fsdd", {}),
        ("mini_conmambamamba_s2s_fsdd", {"test_beam_size": 4, "test_temperature": 1.3, "ctc_weight_decode": 0.2}),
        ("mini_conmamba_s2s_fsdd", {"encoder_module": "conformer", "mamba_config": None}),
        ("mini_conmambamamba_s2s_fsdd", {"language_model": True, "lm_weight": 0.9, **TINY_LM}),
    ],
    ids=["Transformer decoder", "Mamba decoder", "Conformer", "language model"],
)
def test_speechbrain_loads_a_recognizer_with_a_decoder(tmp_path, monkeypatch, name, options):
    made = make_recognizer(tmp_path, name, **options)
    folder = made.folder.rename(tmp_path / "moved")  # nothing outside of it is needed
    monkeypatch.chdir(tmp_path / "tokenizer")
    (tmp_path / "tokenizer/tokenizer.ckpt").unlink()
    asr = EncoderDecoderASR.from_hparams(str(folder), savedir=str(tmp_path / "cache"))
    hparams, wav = made.hparams, speech(1.5)
    scorers = [CTCScorer(ctc_fc=hparams["ctc_lin"], blank_index=0, eos_index=2)]
    weights = {"ctc": hparams["ctc_weight_decode"]}
    if made.language_model is not None:
        scorers.insert(0, TransformerLMScorer(made.language_model, temperature=hparams["lm_temperature"]))
        weights["transformerlm"] = hparams["lm_weight"]
    search = hparams["searcher"](
        beam_size=hparams["test_beam_size"],
        temperature=hparams["test_temperature"],
        scorer=ScorerBuilder(full_scorers=scorers, weights=weights),
    )
    with torch.no_grad():
        feats = made.modules["normalize"](hparams["compute_features"](wav), torch.ones(1))
        memory = hparams["Transformer"].eval().encode(made.modules["CNN"](feats), torch.ones(1))
        tokens, _, _, log_probs = search(memory, torch.ones(1))
        found = asr.encode_batch(wav, torch.ones(1))
        same, _, _, their_log_probs = asr.mods.decoder(found, torch.ones(1))
    torch.testing.assert_close(found, memory, atol=1e-5, rtol=1e-5)
    assert same == tokens and len(tokens[0]) > 0
    torch.testing.assert_close(their_log_probs, log_probs, atol=1e-4, rtol=1e-4)
    texts, _ = asr.transcribe_batch(wav, torch.ones(1))
    assert texts[0] == made.tokenizer.decode(tokens[0])


def test_a_padded_batch_is_encoded_as_its_examples_are(tmp_path):
    made = make_recognizer(tmp_path, "mini_conmambamamba_s2s_fsdd", max_decode_ratio=0.2)
    asr = EncoderDecoderASR.from_hparams(str(made.folder))
    wavs = torch.cat([speech(1.0), speech(1.0, seed=1)])
    lens = torch.tensor([1.0, 0.55])
    memory, alone = asr.encode_batch(wavs, lens), asr.encode_batch(wavs[1:, :4400], torch.ones(1))
    torch.testing.assert_close(memory[1:, : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)
    assert memory[1, alone.shape[1] :].eq(0).all()
    judge = load_recognizer(str(made.folder))
    assert judge(wavs[0], 8000) == asr.transcribe_batch(wavs[:1], torch.ones(1))[0][0]


STREAMS = [
    ("mini_conmamba_ctc_fsdd", {"streaming": True, "chunk_size": 4}),
    ("mini_conmamba_ctc_fsdd", {"causal": True}),
]


@pytest.mark.parametrize("name, options", STREAMS, ids=["chunks", "causal"])
def test_speechbrain_loads_a_recognizer_of_streams(tmp_path, name, options):
    made = make_recognizer(tmp_path, name, **options)
    asr = StreamingASR.from_hparams(str(made.folder), savedir=str(tmp_path / "cache"))
    config, wav = asr.hparams.chunk_config, speech(2.3)
    size = asr.get_chunk_size_frames(config)
    assert config.chunk_size == made.hparams["chunk_size"] and size == (8000 // 25 - 1) * config.chunk_size
    silence = torch.zeros(1, size * asr.hparams.fea_streaming_extractor.get_recommended_final_chunk_count(size))
    whole = torch.cat([wav, silence], 1)
    context, logits, text = asr.make_streaming_context(config), [], ""
    for piece in whole.split(size, 1):
        logits.append(asr.encode_chunk(context, piece))
        text += asr.decode_chunk(context, logits[-1])[0][0]
    recognizer = EncoderASR.from_hparams(str(made.folder))
    expected = recognizer.encode_batch(whole, torch.ones(1))
    heard = torch.cat(logits, 1).log_softmax(-1)
    torch.testing.assert_close(heard, expected[:, : heard.shape[1]], atol=1e-4, rtol=1e-4)
    needed = recognizer.encode_batch(wav, torch.ones(1)).shape[1]
    assert heard.shape[1] >= needed  # all audio was heard, but for the silence
    greedy = [token for token, _ in itertools.groupby(heard[0].argmax(-1).tolist()) if token != 0]
    assert text.strip() == spell(made.tokenizer, greedy) != ""


def test_speechbrain_hears_several_streams_at_once(tmp_path):
    made = make_recognizer(tmp_path, "mini_conmamba_ctc_fsdd", streaming=True)
    asr = StreamingASR.from_hparams(str(made.folder))
    config = DynChunkTrainConfig(8)
    size = asr.get_chunk_size_frames(config)
    wavs = torch.cat([speech(2.0), speech(2.0, seed=1)])
    wavs[1, 6000:] = 0
    together, alone, ended = (asr.make_streaming_context(config) for _ in range(3))
    texts, single, short = ["", ""], "", ""
    for start in range(0, 16000, size):
        piece = wavs[:, start : start + size]
        texts = [text + new for text, new in zip(texts, asr.transcribe_chunk(together, piece))]
        single += asr.transcribe_chunk(alone, piece[1:])[0]
        noise = piece[1:] + (torch.arange(start, start + piece.shape[1]) >= 6000)
        left = torch.tensor([min(max(6000 - start, 0), piece.shape[1]) / piece.shape[1]])
        short += asr.transcribe_chunk(ended, noise, left)[0]
    assert texts[1] == single == short != texts[0]


@pytest.mark.parametrize(
    "name, options, streams",
    [
        ("mini_conmamba_ctc_fsdd", {}, False),
        ("mini_conformer_ctc_fsdd", {"streaming": True}, False),
        ("mini_conmamba_ctc_fsdd", {"streaming": True}, True),
        ("mini_conmambamamba_s2s_fsdd", {}, False),
    ],
)
def test_an_export_has_what_is_needed_and_nothing_of_the_training(tmp_path, name, options, streams):
    made = make_recognizer(tmp_path, name, **options)
    text = (made.folder / "hyperparams.yaml").read_text()
    for word in ("optimizer", "augment", "_cost", "lr", "checkpointer", "save_folder", "!apply", "sampler", "unused"):
        assert word not in text, word
    assert ("fea_streaming_extractor" in text) == streams
    weights = {"CNN", "ctc_lin", *(("Transformer", "seq_lin") if "s2s" in name else ("Encoder",))}
    names = {path.stem for path in made.folder.iterdir()}
    assert names == {"hyperparams", "normalizer", "tokenizer", *weights}
