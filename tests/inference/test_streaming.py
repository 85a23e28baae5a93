"""Recognition of streams: weights, chunks, tokens."""

import io
import itertools

import pytest
import torch
from speechbrain.inference.ASR import EncoderASR

from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.streaming import StreamingRecognizer
from speechbrain_mamba.text.tokenizer import train_sentencepiece, train_tokenizer
from speechbrain_mamba.utils.hparams import load_hparams
from tests.conftest import HPARAMS
from tests.inference.tiny_recognizers import make_recognizer, speech

TINY = {"d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1}


class Spelling:
    """A tokenizer whose texts are digits, the tokens, all of which are spoken."""

    def decode(self, tokens):
        return "".join(map(str, tokens))

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
    recognizer = StreamingRecognizer.from_run(file, overrides)
    encoder = recognizer.mods.encoder
    weights = [p for part in (encoder.CNN, encoder.encoder, encoder.ctc_lin) for p in part.parameters()]
    assert all(parameter.eq(mean).all() for parameter in weights)
    assert encoder.normalize.glob_mean.eq(2).all() and recognizer.tokenizer.vocab_size() == 6
    assert not any(part.training for part in recognizer.mods.modules())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in '.*empty': train the recognizer first"):
        StreamingRecognizer.from_run(file, {**overrides, "save_folder": str(tmp_path / "empty")})
    (tmp_path / "out/save/tokenizer.ckpt").rename(tmp_path / "tokenizer.ckpt")
    asked = []
    fetch = "speechbrain_mamba.utils.pretrained.fetch"
    monkeypatch.setattr(fetch, lambda *where, savedir, **_: (asked.append((*where, savedir)), tmp_path / where[0])[1])
    recognizer = StreamingRecognizer.from_run(file, {**overrides, "tokenizer_folder": "someone/tokenizer"})
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
    recognizer = StreamingRecognizer.from_parts(hparams, tokenizer)
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
    recognizer = StreamingRecognizer.from_parts(hparams, Spelling())
    texts = [recognizer.add(piece) for piece in torch.randn(1, 16000).split(5120, 1)]
    assert texts[:2] == [f"1{other}{other}1", f"1{other}{other}11{other}"] and texts[-1] == texts[1]
    assert recognizer.tokens == [1, other, other, 1, 1, other]


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
    recognizer = StreamingRecognizer.from_parts(hparams, tokenizer)
    wav = torch.randn(1, 16000)
    assert recognizer.recognize(wav) == recognizer.add(wav) == "AB"


@pytest.mark.parametrize("options, size", [({"streaming": True, "chunk_size": 5}, 5), ({"causal": True}, None)])
def test_what_is_heard_at_once_is_cut_into_chunks_where_the_training_was(load, monkeypatch, options, size):
    hparams, tokenizer = load(output_neurons=6, data_folder="unused", **options), Spelling()
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    given, forward = [], hparams["Encoder"].forward
    monkeypatch.setattr(
        hparams["Encoder"], "forward", lambda x, *lens, **named: (given.append(named), forward(x, *lens, **named))[1]
    )
    StreamingRecognizer.from_parts(hparams, tokenizer).recognize(torch.randn(1, 16000))
    (chunks,) = given[0].values()
    assert (chunks and chunks.chunk_size) == size


@pytest.mark.parametrize("options", [{"streaming": True, "chunk_size": 4}, {"causal": True}], ids=["chunks", "causal"])
def test_an_exported_folder_hears_a_stream_as_it_hears_the_whole(tmp_path, options):
    folder = make_recognizer(tmp_path, "mini_conmamba_ctc_fsdd", **options).folder
    recognizer, wav = StreamingRecognizer.from_hparams(str(folder)), speech(2.0)[0]
    texts = [recognizer.add(piece) for piece in (*wav[:9000].split(1000), *wav[9000:].split(700))]
    texts.append(recognizer.finish())
    assert texts[-1] == recognizer.recognize(wav) == EncoderASR.from_hparams(str(folder)).transcribe_batch(
        wav[None], torch.ones(1)
    )[0][0] != ""  # fmt: skip
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    words = recognizer.words
    assert " ".join(word.text for word in words) == " ".join(texts[-1].split())
    for own, other in zip(words, Recognizer.from_hparams(str(folder)).transcribe(wav).words, strict=True):
        assert (own.text, own.start, own.end) == (other.text, other.start, other.end)
        assert own.confidence == pytest.approx(other.confidence, abs=1e-4)
    assert recognizer.latency == pytest.approx((256 / 2 + 80 + 160 + (3 * 320 if "streaming" in options else 0)) / 8000)
    first, again = texts[0], recognizer.add((wav[:1000] * 32768).round().clamp(-32768, 32767).short())
    assert again == first and len(recognizer.words) <= 1  # another stream
    recognizer.reset()
    with pytest.raises(ValueError, match="The stream ended without any audio"):
        recognizer.finish()
    for piece, message in ((torch.zeros(2, 800), r"shape \(2, 800\)"), (torch.full((9,), float("nan")), "holds NaN")):
        with pytest.raises(ValueError, match=message):
            recognizer.add(piece)


def test_a_long_stream_keeps_as_much_as_a_short_one(tmp_path):
    folder = make_recognizer(tmp_path, "mini_conmamba_ctc_fsdd", streaming=True).folder
    recognizer = StreamingRecognizer.from_hparams(str(folder))

    def kept():
        pickled = io.BytesIO()
        torch.save(
            (recognizer._stream.front.samples, recognizer._stream.front.feats, recognizer._stream.context), pickled
        )
        return len(pickled.getvalue())

    wav = speech(2.0)
    recognizer.add(wav)
    early = kept()
    for _ in range(5):
        recognizer.add(wav)
    assert kept() < 1.3 * early


def test_a_recognizer_of_whole_utterances_is_refused(tmp_path):
    folder = make_recognizer(tmp_path, "mini_conmamba_ctc_fsdd").folder
    with pytest.raises(ValueError, match=r"cannot run on a stream: it needs whole utterances"):
        StreamingRecognizer.from_hparams(str(folder))
