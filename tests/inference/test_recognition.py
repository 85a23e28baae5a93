"""Trained recognizers on waveforms and recordings of any kind."""

import itertools
from types import SimpleNamespace

import pytest
import soundfile
import torch
from ruamel.yaml import YAML
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.decoders.alignment import TokenSpan
from speechbrain_mamba.inference.hypotheses import make_hypotheses
from speechbrain_mamba.inference.recognition import Recognizer, find_blank
from tests.inference.tiny_recognizers import TINY_LM, make_recognizer, speech, tiny_language_model

KINDS = {
    "CTC": ("mini_conmamba_ctc_fsdd", {}),
    "Conformer": ("mini_conformer_ctc_fsdd", {}),
    "chunks": ("mini_conmamba_ctc_fsdd", {"streaming": True, "chunk_size": 4}),
    "causal": ("mini_conmamba_ctc_fsdd", {"causal": True}),
    "Mamba decoder": ("mini_conmambamamba_s2s_fsdd", {"max_decode_ratio": 0.1}),
    "interleaved": (
        "mini_conmambamamba_s2s_fsdd",
        {"max_decode_ratio": 0.1, "cross": "interleaved", "places_by": YAML().load("!ref <ctc_lin>")},
    ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders of tiny recognizers by kind, each made once."""
    made = {}

    def export(kind):
        if kind not in made:
            name, options = KINDS[kind]
            made[kind] = make_recognizer(tmp_path_factory.mktemp("recognizer"), name, **options).folder
        return str(made[kind])

    return export


@pytest.fixture(scope="module")
def load(exported):
    """Tiny recognizers by kind, each loaded once."""
    loaded = {}

    def call(kind):
        if kind not in loaded:
            loaded[kind] = Recognizer.from_hparams(exported(kind))
        return loaded[kind]

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_any_recognizer_hears_what_speechbrains_class_does(exported, load, tmp_path, kind):
    recognizer = load(kind)
    assert (recognizer.kind, recognizer.streams) == (
        "s2s" if kind in ("Mamba decoder", "interleaved") else "ctc", kind in ("chunks", "causal")
    )  # fmt: skip
    theirs = (EncoderDecoderASR if recognizer.kind == "s2s" else EncoderASR).from_hparams(exported(kind))
    waves = [speech(seconds, seed=seed)[0] for seed, seconds in enumerate((0.9, 1.4, 0.4))]
    expected = [theirs.transcribe_batch(wave[None], torch.ones(1)) for wave in waves]
    texts, tokens = recognizer.transcribe_batch(waves, batch_size=2)
    assert texts == [" ".join(text.split()) for (text,), _ in expected] and any(texts)
    spoken = [[token for token in found[0] if token > 2] for _, found in expected]  # without <unk>, <s> and </s>
    assert tokens == spoken
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    lens = [len(wave) / padded.shape[1] for wave in waves]
    assert recognizer.transcribe_batch(padded, lens) == (texts, tokens)
    write_audio(tmp_path / "speech.wav", waves[1], 8000)
    transcript = recognizer.transcribe(tmp_path / "speech.wav")
    written = soundfile.read(tmp_path / "speech.wav", dtype="float32")[0]
    assert transcript.text == recognizer.transcribe_batch(written)[0][0] == recognizer.transcribe(waves[1]).text
    assert recognizer.transcribe_file(tmp_path / "speech.wav") == transcript.text
    assert transcript.duration == pytest.approx(1.4) and transcript.words[-1].end <= 1.4
    assert all(0 <= word.confidence <= 1 for word in transcript.words)
    assert all(a.end <= b.start for a, b in itertools.pairwise(transcript.words))


@pytest.mark.parametrize(
    "convert",
    [
        lambda wave: (wave * 32768).round().clamp(-32768, 32767).short(),
        lambda wave: wave.double(),
        lambda wave: wave.numpy(),
        lambda wave: [wave],
        lambda wave: wave[None],
    ],
    ids=["int16", "float64", "numpy", "list", "batch"],
)
def test_waveforms_of_any_type_are_heard(load, convert):
    recognizer, wave = load("CTC"), speech(1.0)[0]
    expected = recognizer.transcribe_batch((wave * 32768).round() / 32768)
    assert recognizer.transcribe_batch(convert((wave * 32768).round() / 32768)) == expected
    assert recognizer(wave) == recognizer.transcribe_batch(wave[None], torch.ones(1))
    assert len(recognizer.transcribe_batch(wave.half())[0]) == 1


@pytest.mark.parametrize(
    "wavs, lens, message",
    [
        (torch.zeros(2, 2, 8000), None, r"has shape \(2, 2, 8000\), but must be \(batch, samples\)"),
        (torch.zeros(1, 8000, dtype=torch.complex64), None, "samples of type complex64"),
        (torch.full((8000,), float("nan")), None, "holds NaN or infinite samples"),
        (torch.zeros(1), None, r"too short: it has 1 samples, but .* at least 160 at 8000 Hz, 0.02 s"),
        (torch.zeros(2, 8000), [1.0, float("nan")], "wav_lens has the value nan"),
        (torch.zeros(2, 8000), [1.0, 1.5], "wav_lens has the value 1.5"),
        (torch.zeros(2, 8000), [1.0], r"wav_lens has shape \(1,\)"),
        (torch.zeros(2, 8000), [1.0, 0.0], "Waveform 1 is too short: it has 0 samples"),
        ([torch.zeros(8000)], [1.0], "wav_lens is for a padded batch"),
        ([torch.zeros(1, 8000)], None, r"Waveform 0 of the list has shape \(1, 8000\)"),
        ("speech.wav", None, "The waveform is of type str"),
    ],
)
def test_waveforms_that_cannot_be_heard_are_refused_in_a_sentence(load, wavs, lens, message):
    recognizer = load("CTC")
    with pytest.raises((ValueError, TypeError), match=message):
        recognizer.transcribe_batch(wavs, lens)


@pytest.mark.parametrize("kind", ["CTC", "chunks", "Mamba decoder"])
def test_silence_gives_an_empty_transcript(load, tmp_path, kind):
    recognizer = load(kind)
    write_audio(tmp_path / "silence.wav", torch.zeros(16000), 8000)
    transcript = recognizer.transcribe(tmp_path / "silence.wav")
    assert (transcript.text, transcript.segments, transcript.duration) == ("", (), 2.0)
    assert recognizer.transcribe_batch(torch.zeros(2, 8000)) == (["", ""], [[], []])


def test_recordings_of_any_rate_and_channels_are_heard(load, tmp_path, caplog):
    recognizer, wave = load("CTC"), speech(2.0)
    other = speech(2.0, seed=5)
    soundfile.write(tmp_path / "stereo.wav", torch.cat([wave, other]).T.numpy(), 8000, "FLOAT")
    each = recognizer.transcribe(tmp_path / "stereo.wav", channels="each")
    assert [transcript.text for transcript in each] == recognizer.transcribe_batch(torch.cat([wave, other]))[0]
    mixed = recognizer.transcribe(tmp_path / "stereo.wav")
    assert mixed.text == recognizer.transcribe_batch((wave + other) / 2)[0][0]
    assert "has 2 channels, which are mixed to one" in caplog.text
    with open(tmp_path / "stereo.wav", "rb") as stream:
        assert recognizer.transcribe(stream) == mixed
    assert recognizer.transcribe(torch.cat([wave, other]), channels="each") == each
    assert recognizer.transcribe(torch.cat([wave, other]).numpy()) == mixed
    assert recognizer.transcribe(wave.repeat_interleave(2, 1), 16000).duration == 2.0
    for source, options, message in (
        (torch.zeros(0), {}, "The recording is too short: it has 0 samples"),
        (torch.zeros(1, 1, 8), {}, r"The recording has shape \(1, 1, 8\)"),
        (torch.full((8000,), float("inf")), {}, "The recording holds NaN or infinite"),
        (wave, {"channels": "left"}, "channels is 'left', but must be mix or each"),
        (tmp_path / "stereo.wav", {"sample_rate": 8000}, "sample_rate is for samples"),
        (tmp_path / "stereo.wav", {"batch_size": 0}, "batch_size is 0, but must be at least 1"),
        (tmp_path / "stereo.wav", {"max_seconds": 3.0}, "max_seconds is 3.0, but must be a number of at least 6.0"),
    ):
        with pytest.raises(ValueError, match=message):
            recognizer.transcribe(source, **options)
    assert recognizer.transcribe_batch([]) == ([], [])
    with pytest.raises(ValueError, match="Sample rates must be whole and positive"):
        recognizer.transcribe(wave, 0)
    with pytest.raises(TypeError, match="sources is a single recording, but must be a list"):
        recognizer.transcribe_many(tmp_path / "stereo.wav")
    with pytest.raises(TypeError, match="The recording is of type NoneType, but must be a path"):
        recognizer.transcribe(None)
    write_audio(tmp_path / "one.wav", torch.ones(1), 8000)
    with pytest.raises(ValueError, match=r"one\.wav' is too short: .* at least 20 ms"):
        recognizer.transcribe(tmp_path / "one.wav")


class SpokenNumbers:
    """Hypotheses of recordings in which every word is a level: whole words 0.5 s long, a word per second."""

    seconds, is_padding_safe = 0.04, True

    def __init__(self):
        self.batches = []

    def __call__(self, wavs, lens):
        counts = (lens * wavs.shape[1]).round().long().tolist()
        self.batches.append(counts)
        return [self.hear(wav[:count]) for wav, count in zip(wavs, counts)]

    def hear(self, wav):
        """A span for each run of samples of one level, which the token is; runs that are cut are other words."""
        spans, position = [], 0
        for value, run in itertools.groupby((wav * 100).round().long().tolist()):
            length = len(list(run))
            if value:
                first, last = (round(place / 8000 / self.seconds) for place in (position, position + length))
                spans.append(TokenSpan(value if length == 4000 else 9, first, max(first + 1, last), -0.1))
            position += length
        return spans


class Letters:
    """A tokenizer whose tokens are words of a letter."""

    def id_to_piece(self, token):
        return f"\u2581{chr(64 + token)}"

    def decode(self, tokens):
        return " ".join(chr(64 + token) for token in tokens)

    def is_control(self, token):
        return False

    is_unknown = is_unused = is_control


@pytest.fixture
def counting(exported):
    """A recognizer of such recordings, and a function that makes one."""
    recognizer = Recognizer.from_hparams(exported("CTC"))
    recognizer.tokenizer, recognizer.hypotheses = Letters(), SpokenNumbers()

    def record(words, gap=0.5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        spoken = torch.randint(1, 6, (words,), generator=generator).tolist()
        parts = [torch.zeros(round(gap * 8000))]
        for token in spoken:
            parts += [torch.full((4000,), token / 100), torch.zeros(round(gap * 8000))]
        return torch.cat(parts), Letters().decode(spoken)

    return recognizer, record


@pytest.mark.parametrize("gap", [0.5, 0.1], ids=["pauses", "no pause"])
def test_a_long_recording_has_each_word_once(counting, gap):
    recognizer, record = counting
    wave, text = record(90, gap)
    progress = []
    transcript = recognizer.transcribe(
        wave, max_seconds=8.0, batch_size=2, progress=lambda *call: progress.append(call)
    )
    assert transcript.text == text
    total = pytest.approx(len(wave) / 8000)
    for index, word in enumerate(transcript.words):
        start = gap + index * (0.5 + gap)
        assert word.start == pytest.approx(start, abs=0.06) and word.end == pytest.approx(start + 0.5, abs=0.06)
    assert progress[-1] == (total, total) and [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert all(seconds == total for _, seconds in progress)
    sizes = recognizer.hypotheses.batches
    assert max(map(len, sizes)) == 2 and max(map(max, sizes)) <= 64000
    assert recognizer.transcribe(wave, max_seconds=None).text == text


def test_several_recordings_share_batches_and_keep_their_order(counting, tmp_path):
    recognizer, record = counting
    waves, texts = zip(*(record(words, seed=words) for words in (3, 12, 1, 5, 30)))
    for number, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{number}.wav", wave.numpy(), 8000, "FLOAT")
    transcripts = recognizer.transcribe_many(
        [*(tmp_path / f"{number}.wav" for number in range(4)), waves[4]], max_seconds=8.0, batch_size=3
    )
    assert [transcript.text for transcript in transcripts] == list(texts)
    lengths = [length for batch in recognizer.hypotheses.batches for length in batch]
    assert lengths == sorted(lengths) or len(lengths) > 12  # one queue, of four batches
    assert transcripts[2] == recognizer.transcribe(tmp_path / "2.wav")
    assert recognizer.transcribe_many([]) == []


@pytest.mark.parametrize("kind", ["chunks", "causal"])
def test_a_recognizer_of_streams_hears_a_long_recording_as_a_whole(load, kind):
    recognizer, wave = load(kind), speech(13.7)
    assert recognizer.transcribe(wave).text == recognizer.transcribe_batch(wave)[0][0] != ""


def test_a_beam_search_on_a_stream_is_cut_at_blanks(exported, monkeypatch):
    recognizer = Recognizer.from_hparams(exported("chunks"), search="beam", beam_size=4)
    channel = "speechbrain_mamba.inference.recognition._StreamedChannel.longest"
    wave = speech(3.0)
    whole = recognizer.transcribe(wave)
    assert whole.text == recognizer.transcribe_batch(wave)[0][0] != ""
    monkeypatch.setattr(channel, 40)
    in_parts = recognizer.transcribe(wave)
    assert in_parts.text.replace(" ", "") and in_parts.words[-1].end == pytest.approx(whole.words[-1].end, abs=0.3)


def test_a_cut_is_in_the_longest_run_of_blanks():
    def at(*tokens):
        return find_blank(torch.eye(3)[torch.tensor(tokens)], 0)

    assert at(0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1) == 8
    assert at(1, 1, 1, 2, 2, 2, 1, 1) == 6
    assert at(1, 1, 1) == 3


@pytest.mark.parametrize("kind", ["CTC", "Mamba decoder"])
def test_searches_have_their_beams(exported, kind):
    recognizer = Recognizer.from_hparams(exported(kind), search="beam", beam_size=7)
    search = recognizer.hypotheses.beams if kind == "CTC" else recognizer.mods.decoder
    assert search.beam_size == 7
    assert recognizer.transcribe_batch(speech(1.0))[0][0]


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("CTC", {"search": "sampling"}, "search is 'sampling', but must be greedy or beam"),
        ("CTC", {"search": "greedy", "beam_size": 3}, "beam_size and lm are for the search beam"),
        ("CTC", {"beam_size": 0}, "beam_size is 0, but must be an integer of at least 1"),
        ("CTC", {"lm": "someone/lm"}, r"takes an n-gram model of KenLM: an existing file that ends with \.arpa"),
        ("CTC", {"lm_weight": 0.5}, "lm_weight is given, but there is no language model"),
        ("Mamba decoder", {"search": "greedy"}, "has the search beam only"),
        ("Mamba decoder", {"beam_size": 0}, "beam_size is 0, but must be an integer of at least 1"),
        ("Mamba decoder", {"lm_weight": 0.5}, "lm_weight is given, but the recognizer has no language model"),
    ],
)
def test_searches_that_cannot_be_are_refused(exported, kind, options, message):
    with pytest.raises(ValueError, match=message):
        Recognizer.from_hparams(exported(kind), **options)


def test_a_language_model_can_be_given_to_a_recognizer_with_a_decoder(tmp_path):
    options = {"max_decode_ratio": 0.2, **TINY_LM}
    made = make_recognizer(tmp_path, "mini_conmambamamba_s2s_fsdd", **options)
    (tmp_path / "lm").mkdir()
    model = tiny_language_model()
    favorite = made.tokenizer.piece_to_id("W")
    with torch.no_grad():
        model.output_proj.layers[-1].w.bias.fill_(-30)[favorite] = 30
    torch.save(model.state_dict(), tmp_path / "lm/lm.ckpt")
    alone = Recognizer.from_hparams(made.folder)
    helped = Recognizer.from_hparams(made.folder, lm=tmp_path / "lm", lm_weight=5.0)
    off = Recognizer.from_hparams(made.folder, lm=tmp_path / "lm", lm_weight=0.0)
    texts = [recognizer.transcribe_batch(speech(1.0))[0][0] for recognizer in (alone, helped, off)]
    assert texts[0] == texts[2] != texts[1] and set(texts[1]) == {"W"}


def test_an_n_gram_model_is_given_to_the_beam_search(load, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(
        "speechbrain_mamba.inference.hypotheses.CTCBeamSearcher", lambda **options: given.append(options)
    )
    (tmp_path / "lm.arpa").write_text("")
    modules = load("CTC")
    make_hypotheses(modules.mods, modules.hparams, lm=tmp_path / "lm.arpa", lm_weight=0.7)
    assert given[0]["kenlm_model_path"] == str(tmp_path / "lm.arpa") and given[0]["alpha"] == 0.7
    assert given[0]["beam_size"] == 100


def test_a_recognizer_of_others_is_refused_in_a_sentence(load):
    recognizer = load("CTC")
    modules = {"encoder": torch.nn.Linear(2, 2)}
    with pytest.raises(ValueError, match=r"encoder is a Linear, but must be one of this package's: .*inference\.ASR"):
        Recognizer(modules, vars(recognizer.hparams))
    with pytest.raises(ValueError, match="blank_index"):
        Recognizer(modules, {"tokenizer": SimpleNamespace(), "sample_rate": 8000})
