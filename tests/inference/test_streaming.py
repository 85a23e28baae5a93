"""Recognition of streams: weights, chunks, tokens."""

import pytest
import torch

from speechbrain_mamba.inference.streaming import StreamingRecognizer
from speechbrain_mamba.text.tokenizer import train_sentencepiece, train_tokenizer
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import HPARAMS

TINY = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1}


class Spelling:
    """A tokenizer whose texts are lists of tokens, all of which are spoken."""

    decode = list

    def is_control(self, token):
        return False

    is_unknown = is_unused = is_control


@pytest.fixture
def load(tmp_path):
    """Load the hyper-parameters of a tiny recognizer with options."""

    def call(**options):
        options = {"output_folder": str(tmp_path / "out"), "save_folder": str(tmp_path / "out/save"), **TINY, **options}
        return load_hparams(HPARAMS / "asr/mini_conmamba_ctc.yaml", options)

    return call


@pytest.mark.parametrize("average, mean", [(1, 2.0), (2, 3.0), (3, 3.0)])
def test_a_stream_is_heard_by_the_mean_of_the_best(load, monkeypatch, tmp_path, average, mean):
    options = {"output_neurons": 6, "causal": True, "avg_checkpoints": average, "data_folder": "unused"}
    hparams = load(**options)
    train_tokenizer(tmp_path / "out/save/tokenizer.ckpt", ["ABBA"], 6, token_type="char")
    for weight, wer in ((9, 50.0), (2, 10.0), (4, 11.0), (7, 20.0)):
        for parameter in hparams["model"].parameters():
            torch.nn.init.constant_(parameter, weight)
        stats = {"count": weight, "glob_mean": torch.full((40,), float(weight)), "glob_std": torch.ones(40)}
        hparams["normalize"]._load_statistics_dict(stats)
        hparams["checkpointer"].save_checkpoint(meta={"greedy_WER": wer, "epoch": weight})
    file = str(HPARAMS / "asr/mini_conmamba_ctc.yaml")
    overrides = {**TINY, **options, "output_folder": str(tmp_path / "out"), "save_folder": str(tmp_path / "out/save")}
    recognizer = StreamingRecognizer.from_hparams(file, overrides)
    modules = recognizer.modules
    weights = [p for name in ("CNN", "Encoder", "ctc_lin") for p in modules[name].parameters()]
    assert all(parameter.eq(mean).all() for parameter in weights)
    assert modules["normalize"].glob_mean.eq(2).all() and recognizer.tokenizer.vocab_size() == 6
    assert not any(part.training for module in modules.values() for part in module.modules())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in '.*empty': train the recognizer first"):
        StreamingRecognizer.from_hparams(file, {**overrides, "save_folder": str(tmp_path / "empty")})
    (tmp_path / "out/save/tokenizer.ckpt").rename(tmp_path / "tokenizer.ckpt")
    asked = []
    fetch = "speechbrain_mamba.utils.pretrained.fetch"
    monkeypatch.setattr(fetch, lambda *where, savedir: (asked.append((*where, savedir)), tmp_path / where[0])[1])
    recognizer = StreamingRecognizer.from_hparams(file, {**overrides, "tokenizer_folder": "someone/tokenizer"})
    assert recognizer.tokenizer.vocab_size() == 6
    assert asked == [("tokenizer.ckpt", "someone/tokenizer", str(tmp_path / "out/save"))]


@pytest.mark.parametrize(
    "options, heard",
    [
        ({"causal": True}, [7, 8, 8, 1, 2]),
        ({"streaming": True, "chunk_size": 8}, [8, 8, 8, 2]),
        ({"streaming": True, "chunk_size": 3}, [6, 9, 6, 3, 2]),
        ({"streaming": True, "chunk_size": 32}, [26]),
    ],
)
def test_a_stream_is_heard_as_soon_as_it_makes_chunks(load, monkeypatch, options, heard):
    """Of a second in pieces of 320 ms the front end gives 7, 8, 8 and 1 frames, and 2 at the end."""
    hparams, tokenizer = load(output_neurons=6, data_folder="unused", **options), Spelling()
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    encoder, lengths = hparams["Encoder"], []
    for module in hparams["modules"].values():
        module.eval()
    forward = encoder.forward_streaming
    monkeypatch.setattr(
        encoder, "forward_streaming", lambda x, context: (lengths.append(x.shape[1]), forward(x, context))[1]
    )
    recognizer = StreamingRecognizer(hparams, tokenizer)
    pieces = torch.randn(1, 16000).split(5120, 1)
    for piece in pieces:
        recognizer.add(piece)
    recognizer.finish()
    assert lengths == heard


@pytest.mark.parametrize("options, running", [({}, False), ({"streaming": True}, True), ({"causal": True}, True)])
def test_training_and_test_have_the_features_of_a_stream(load, options, running):
    features = load(output_neurons=6, data_folder="unused", **options)["compute_features"]
    silence_first = torch.cat([torch.zeros(1, 8000), torch.randn(1, 8000)], 1)
    assert features(silence_first)[0, :20].eq(-100).all() == running


@pytest.mark.parametrize("blank, other", [(0, 2), (2, 0)])
def test_repeated_tokens_of_a_stream_are_one_unless_a_blank_parts_them(load, monkeypatch, blank, other):
    hparams = load(output_neurons=3, data_folder="unused", causal=True, blank_index=blank)
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    said = iter([1, 1, other, blank, blank, other, 1, 1, 1, blank, 1, other, *[blank] * 30])
    monkeypatch.setattr(
        hparams["ctc_lin"], "forward",
        lambda x: torch.nn.functional.one_hot(torch.tensor([[next(said) for _ in range(x.shape[1])]]), 3),
    )  # fmt: skip
    recognizer = StreamingRecognizer(hparams, Spelling())
    texts = [recognizer.add(piece) for piece in torch.randn(1, 16000).split(5120, 1)]
    assert texts[:2] == [[1, other, other, 1], [1, other, other, 1, 1, other]] and texts[-1] == texts[1]


def test_a_stream_spells_no_control_pieces(load, monkeypatch):
    hparams = load(output_neurons=6, data_folder="unused", causal=True)
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    tokenizer = train_sentencepiece(["ABBA", "ABAB"], 6, token_type="char")
    a, b = tokenizer.piece_to_id(["A", "B"])
    tokens = torch.tensor([1, a, 2, b, 0, 1, *[2] * 20])
    monkeypatch.setattr(
        hparams["ctc_lin"], "forward",
        lambda x: torch.nn.functional.one_hot(tokens[:x.shape[1]][None], 6).float(),
    )  # fmt: skip
    recognizer = StreamingRecognizer(hparams, tokenizer)
    wav = torch.randn(1, 16000)
    assert recognizer.recognize(wav) == recognizer.add(wav) == "AB"


@pytest.mark.parametrize("options, size", [({"streaming": True, "chunk_size": 5}, 5), ({"causal": True}, None)])
def test_what_is_heard_at_once_is_cut_into_chunks_where_the_training_was(load, monkeypatch, options, size):
    hparams, tokenizer = load(output_neurons=6, data_folder="unused", **options), Spelling()
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    given, forward = [], hparams["Encoder"].forward
    monkeypatch.setattr(hparams["Encoder"], "forward", lambda x, **named: (given.append(named), forward(x, **named))[1])
    StreamingRecognizer(hparams, tokenizer).recognize(torch.randn(1, 16000))
    (chunks,) = given[0].values()
    assert (chunks and chunks.chunk_size) == size
