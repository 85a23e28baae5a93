"""The recognition recipes from end to end, on a tiny corpus."""

import contextlib
import csv
import itertools
import json
import logging
import re
import runpy
from types import SimpleNamespace

import pytest
import sentencepiece
import speechbrain as sb
import torch
import yaml
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.inference.ASR import EncoderASR
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.corpora.preparation import prepare_recognition
from speechbrain_mamba.dataio import kept_encodings
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.manifests import read_manifest, write_manifest
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.lobes.models.recognition.streaming_frontend import StreamingFrontEnd
from speechbrain_mamba.text.tokenizer import train_tokenizer
from speechbrain_mamba.training.averaging import load_average
from speechbrain_mamba.training.brain import TrainingBrain
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS
from tests.recipes.asr_spies import RECIPE, importer

TINY = {
    "d_model": 16, "nhead": 2, "d_ffn": 16, "num_encoder_layers": 1, "number_of_epochs": 2, "avg_checkpoints": 2,
    "num_buckets": 2, "character_coverage": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_mini_corpus(
        tmp_path_factory.mktemp("corpus") / "mini", speakers=(2, 1, 1), sentences=6, digit_strings=2,
        distinct_sentences=60, processes=2,
    )  # fmt: skip


@pytest.fixture
def recipe(monkeypatch):
    """Import a module of the recipes."""
    return importer(monkeypatch)


@pytest.fixture
def run(recipe, monkeypatch, tmp_path):
    """Run a recipe's script with a hyper-parameter file and options; its output folder is returned."""
    # SpeechBrain's handlers would outlive the streams that pytest lends a test
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)

    def call(script, hparams, **options):
        options = {"output_folder": tmp_path / "out", "save_folder": tmp_path / "out/save", **TINY, **options}
        command = [str(script), str(HPARAMS / "asr" / f"{hparams}.yaml")]
        for key, value in options.items():
            command.append(f"--{key}")
            if value is not None:  # else a flag
                command.append(json.dumps(value) if isinstance(value, (list, dict)) else str(value))
        monkeypatch.setattr("sys.argv", command)
        runpy.run_path(str(RECIPE / f"{script}.py"), run_name="__main__")
        return options["output_folder"]

    return call


def as_manifest(corpus, folder):
    """The corpus as CSV manifests, and the number of its characters with SentencePiece's three."""
    files = prepare_librispeech(corpus, folder, {"train": ["train"], "valid": ["valid"], "test": ["test"]})
    with open(files["train"], newline="") as file:
        characters = set("".join(row["wrd"] for row in csv.DictReader(file)))
    return {
        "corpus": "manifest", "data_folder": folder, "train_splits": ["train.csv"], "valid_splits": ["valid.csv"],
        "test_splits": ["test.csv"], "output_neurons": len(characters) + 3,
    }  # fmt: skip


def test_ctc_trains_tests_and_resumes(run, drawn, corpus, tmp_path, monkeypatch, capsys, caplog):
    epochs, told = [], DynamicBatchSampler.set_epoch
    monkeypatch.setattr(DynamicBatchSampler, "set_epoch", lambda self, epoch: (epochs.append(epoch), told(self, epoch)))
    options = as_manifest(corpus, tmp_path / "lists")
    options["test_search"] = {"beam_size": 5}
    for name, seconds in {"dumb": 1, "tiny": 0.015, "hasty": 0.05}.items():
        write_audio(tmp_path / f"lists/{name}.wav", torch.zeros(round(16000 * seconds)), 16000)
    for name in ("train", "test"):
        with open(tmp_path / f"lists/{name}.csv", "a") as file:
            file.write("dumb,1.0,dumb.wav,,x\ntiny,0.015,tiny.wav,GOOD,x\n")
            file.write("hasty,0.05,hasty.wav,A FAR TOO LONG SENTENCE,x\n" if name == "train" else "")
    with caplog.at_level(logging.WARNING):
        out = run("train", "mini_conmamba_ctc", **options)
    for message in (
        "utterances of train with an empty transcript: dumb.",
        "utterances of train with less than the 22 ms of audio that are needed: tiny.",
        "utterances of train with fewer frames than their transcript needs for CTC: hasty.",
        "Left out 1 of 10 utterances of test.csv with less than the 20 ms of audio that are needed: tiny.",
    ):
        assert message in caplog.text
    summary = json.loads((out / "test/test.csv/summary.json").read_text())
    assert summary["utterances"] == 8 and summary["greedy_wer"] > 0 and summary["beam_cer"] > 0
    assert all("%WER" in (out / f"test/test.csv/wer_{search}.txt").read_text() for search in ("greedy", "beam"))
    assert len((out / "test/test.csv/results.csv").read_text().splitlines()) == 9
    assert (out / "training.png").stat().st_size > 1000
    shown = " ".join(capsys.readouterr().out.split())
    for search in ("greedy", "beam"):
        rates = [f"{summary[f'{search}_{rate}']:.2f} %" for rate in ("wer", "cer")]
        assert f"test.csv {search} WER {rates[0]} CER {rates[1]} 8 utterances" in shown
    assert f"summary: {out / 'test'} training curves: {out / 'training.png'}" in shown
    assert f"recognizer with greedy search: {out / 'inference'}" in shown
    assert "d_model: 16\n" in (out / "hyperparams.yaml").read_text() and (out / "env.log").is_file()

    run("train", "mini_conmamba_ctc", **{**options, "number_of_epochs": 3})
    with open(out / "training.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert epochs == [1, 2, 3]  # each has batches of its own


@contextlib.contextmanager
def told(capsys, message):
    """A context in which a script ends with a sentence for its user."""
    with pytest.raises(SystemExit) as error:
        yield
    assert error.value.code == 1 and re.search(f"^error: .*{message}", capsys.readouterr().err, re.MULTILINE)


def test_s2s_with_language_model(run, corpus, tmp_path, capsys):
    options = as_manifest(corpus, tmp_path / "lists")
    options |= {"num_decoder_layers": 1, "valid_search_interval": 2, "valid_beam_size": 2, "test_beam_size": 3}
    options |= {"token_type": "char", "max_decode_ratio": 0.3}
    (tmp_path / "lm").mkdir()
    small = dict(d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=0, d_ffn=16, normalize_before=False)
    lm = TransformerLM(vocab=options["output_neurons"], **small, activation=torch.nn.GELU)
    torch.save(lm.state_dict(), tmp_path / "lm/lm.ckpt")
    text = f"""!include:{HPARAMS}/asr/mini_conmambamamba_s2s.yaml
lm_model: !name:speechbrain.lobes.models.transformer.TransformerLM.TransformerLM
    vocab: !ref <output_neurons>
    d_model: {small["d_model"]}
    nhead: {small["nhead"]}
    num_encoder_layers: 1
    num_decoder_layers: 0
    d_ffn: {small["d_ffn"]}
    activation: !ref <activation>
    normalize_before: False
"""
    hparams = tmp_path / "with_lm.yaml"
    hparams.write_text(text)
    out = run("train", hparams.with_suffix(""), **options, lm_folder=tmp_path / "lm")
    assert json.loads((out / "test/test.csv/summary.json").read_text())["utterances"] == 8
    with open(out / "training.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["beam_WER"] == "nan" and float(rows[1]["beam_WER"]) > 0 and 0 < float(rows[1]["TER"]) < 100

    shown = capsys.readouterr().out
    assert f"recognizer with beam search: {out / 'inference'}" in shown and (out / "inference/lm.ckpt").is_file()
    wav, row = next((corpus / "test").rglob("*.wav")), {}
    with open(out / "test/test.csv/results.csv", newline="") as file:
        row = {row["id"]: row["beam"] for row in csv.DictReader(file)}
    assert Recognizer.from_hparams(out / "inference").transcribe_file(wav) == row[wav.stem]

    again = {"max_decode_ratio": 0.01, "output_folder": tmp_path / "again", "save_folder": tmp_path / "again/save"}
    with told(capsys, r"max_decode_ratio is 0\.01, which leaves no step to decode 8 of 8 utterances of valid"):
        run("train", hparams.with_suffix(""), **{**options, **again})
    assert not list((tmp_path / "again").rglob("CKPT*"))
    other = TransformerLM(vocab=50, **small, activation=torch.nn.GELU)
    torch.save(other.state_dict(), tmp_path / "lm/lm.ckpt")
    with told(capsys, "It was trained with another vocabulary than the"):
        run("train", hparams.with_suffix(""), **{**options, "number_of_epochs": 3}, lm_folder=tmp_path / "lm")


def test_tokenizer_alone_and_given_to_another_run(run, corpus, tmp_path, monkeypatch, capsys):
    options = as_manifest(corpus, tmp_path / "lists")
    out = run("train_tokenizer", "mini_conmamba_ctc", **options)
    with open(tmp_path / "lists/train.csv", newline="") as file:
        words = [word for row in csv.DictReader(file) for word in row["wrd"].split()]
    per_word = sum(len(word) + 1 for word in words) / len(words)  # a letter each, and one for the space
    file = out / "save/tokenizer.ckpt"
    shown = capsys.readouterr().out
    assert f"{file}: {options['output_neurons']} tokens, {per_word:.2f} per word\n" in shown
    (tmp_path / "tokenizer").mkdir()
    (out / "save/tokenizer.ckpt").rename(tmp_path / "tokenizer/tokenizer.ckpt")
    options |= {"tokenizer_folder": tmp_path / "tokenizer", "output_neurons": 12}
    with told(capsys, "tokens, but output_neurons is 12"):
        run("train", "mini_conmamba_ctc", **options)


def load_talkative(checkpointer, checkpoints):
    """Load the average of checkpoints of a recognizer that is hardly trained, and make it write something."""
    load_average(checkpointer, checkpoints)
    ctc_lin = checkpointer.recoverables["model"][2]
    with torch.no_grad():
        ctc_lin.w.weight.mul_(10)
        ctc_lin.w.bias[:3] -= 10


@pytest.mark.parametrize("kind, length", [("causal", {}), ("streaming", {"milliseconds": 150})])
def test_stream_writes_what_is_recognized_at_once(run, recipe, corpus, tmp_path, monkeypatch, capsys, kind, length):
    options = as_manifest(corpus, tmp_path / "lists") | {kind: True, "number_of_epochs": 1}
    for module in ("training.brain", "inference.streaming"):
        monkeypatch.setattr(f"speechbrain_mamba.{module}.load_average", load_talkative)
    out = run("train", "mini_conmamba_ctc", **options, test_search={"beam_size": 2})
    capsys.readouterr()
    wav = next((corpus / "test").rglob("*.wav"))
    sizes, forward, finish = [], StreamingFrontEnd.forward, StreamingFrontEnd.finish
    monkeypatch.setattr(StreamingFrontEnd, "forward", lambda self, x: (sizes.append(x.shape[1]), forward(self, x))[1])
    monkeypatch.setattr(StreamingFrontEnd, "finish", lambda self: (sizes.append("end"), finish(self))[1])
    run("stream", "mini_conmamba_ctc", **options, wav=wav, **length)
    *pieces, whole, verdict = capsys.readouterr().out.strip("\n").split("\n")
    samples, piece = len(read_audio(wav)), 16 * length.get("milliseconds", 320)
    assert sizes == [*(min(piece, samples - start) for start in range(0, samples, piece)), "end"]
    times = [f"{heard / 16000:.2f}" for heard in itertools.accumulate(sizes[:-1])]
    assert [line.split(" s ")[0].strip() for line in pieces] == times
    texts = [line.split(" s  ")[1] for line in pieces]
    assert len(set(texts)) > 2 and verdict == "equal"
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert whole == f"{wav.name}, all at once: {texts[-1]}"
    with open(out / "test/test.csv/results.csv", newline="") as file:
        greedy = {row["id"]: row["greedy"] for row in csv.DictReader(file)}
    assert greedy[wav.stem] == texts[-1]
    recognizer = EncoderASR.from_hparams(str(out / "inference"), savedir=str(tmp_path / "cache"))
    for path in (corpus / "test").rglob("*.wav"):
        assert recognizer.transcribe_file(str(path)) == greedy[path.stem]
    capsys.readouterr()
    recipe("stream").main([str(out / "inference"), "--wav", str(wav)])
    assert capsys.readouterr().out.endswith(f"{whole}\nequal\n")
    monkeypatch.setattr("speechbrain_mamba.inference.streaming.StreamingRecognizer.recognize", lambda *args: "")
    write_audio(tmp_path / "fast.wav", torch.rand(4000), 24000)
    recipe("stream").main([str(out / "inference"), "--wav", str(tmp_path / "fast.wav"), "--milliseconds", "20"])
    *pieces, _, verdict = capsys.readouterr().out.strip("\n").split("\n")
    assert len(pieces) == 9 and verdict == "DIFFERENT"  # of 167 ms
    with pytest.raises(SystemExit):
        run("stream", "mini_conmamba_ctc", **options)
    assert "the following arguments are required: --wav" in capsys.readouterr().err
    with told(capsys, "The recognizer needs the whole utterance"):
        run("stream", "mini_conmamba_ctc", **{**options, kind: False}, wav=wav)
    with told(capsys, "The encoder is a ConformerEncoder, which has no state of constant size"):
        run("stream", "mini_conformer_ctc", **options, wav=wav)


def rows_of(out):
    """The table of a training, without what the clock says."""
    with open(out / "training.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


class Killed(BaseException):
    """Ends a run at once."""


@contextlib.contextmanager
def killed(monkeypatch, method, count):
    """A context in which a run is killed when it calls a method of a Brain for the n-th time."""
    original, calls = getattr(TrainingBrain, method), itertools.count(1)

    def call(self, *args, **kwargs):
        if next(calls) == count:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingBrain, method, call)
        yield


def last_checkpoint(out):
    """What the last checkpoint of a run has, save its own name and time."""
    folders = {folder: yaml.safe_load((folder / "CKPT.yaml").read_text()) for folder in out.glob("save/CKPT*")}
    last = max(folders, key=lambda folder: folders[folder]["unixtime"])
    kept = {path.stem: torch.load(path, weights_only=True) for path in last.glob("*.ckpt") if path.stem in KEPT}
    return kept | {"scores": {name: folders[last][name] for name in ("epoch", "loss")}}


KEPT = ("model", "optimizer", "lr_scheduler", "normalizer")
CHUNKS = {"streaming": True, "num_workers": 0, "test_search": {"beam_size": 2}}
DECODER = {"num_workers": 0, "test_beam_size": 2, "valid_beam_size": 2, "num_decoder_layers": 1, "token_type": "char"}
DECODER |= {"valid_search_interval": 2}


@pytest.mark.parametrize(
    "name, own", [("conmamba_ctc", CHUNKS), pytest.param("conmambamamba_small", DECODER, marks=pytest.mark.slow)]
)
def test_a_run_killed_again_and_again_equals_one_that_was_not(run, varied, tmp_path, monkeypatch, name, own):
    """With all that is random in it: order and sizes of batches, speeds, drops, warps, dropout, sizes of chunks."""
    options = {**varied, "precision": "fp32", "grad_accumulation_factor": 2, "ckpt_interval_steps": 1, **own}
    options |= {"max_batch_length_train": 3, "num_buckets": 2, "cnn_channels": 4, "cnn_out_channels": 4}
    whole = run("train", name, **options)
    whole.rename(tmp_path / "whole")
    for method, count in (("fit_batch", 4), ("_finish_epoch", 1), ("fit_batch", 3)):
        with killed(monkeypatch, method, count):
            run("train", name, **options)
    out = run("train", name, **options)
    assert rows_of(out) == rows_of(tmp_path / "whole")
    ours, theirs = (last_checkpoint(folder) for folder in (out, tmp_path / "whole"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    results = [(folder / "test/test.csv/results.csv").read_text() for folder in (out, tmp_path / "whole")]
    assert results[0] == results[1]


def test_a_finished_run_shows_its_results_again(run, lists, monkeypatch, capsys):
    options = {**lists, "test_search": {"beam_size": 2}}
    out = run("train", "mini_conmamba_ctc", **options)
    shown, table = capsys.readouterr().out, (out / "training.csv").read_text()
    assert "1 utterances" in shown
    monkeypatch.setattr(TrainingBrain, "fit_batch", None)  # nothing is trained any more
    run("train", "mini_conmamba_ctc", **options)
    assert capsys.readouterr().out == shown and (out / "training.csv").read_text() == table


def test_a_run_in_short_precision_is_logged_for_tensorboard(run, lists):
    options = {"precision": "bf16", "tensorboard": True, "test_search": {"beam_size": 2}, "number_of_epochs": 1}
    out = run("train", "mini_conmamba_ctc", **lists, **options)
    assert list((out / "tensorboard").glob("events.*"))
    assert len(rows_of(out)) == 1 and (out / "inference/hyperparams.yaml").is_file()


def test_a_trial_run_is_short_and_never_finished(run, lists):
    out = run("train", "mini_conmamba_ctc", **lists, test_search={"beam_size": 2}, debug=None)
    assert not (out / "training.csv").exists() and not (out / "finished.json").exists()


def test_a_recognizer_is_exported_with_the_tokenizer_it_was_given(run, lists, tmp_path):
    train_tokenizer(tmp_path / "tokenizer/tokenizer.ckpt", ["ABC AB"], 7, token_type="char")
    options = {"tokenizer_folder": tmp_path / "tokenizer", "output_neurons": 7, "number_of_epochs": 1}
    out = run("train", "mini_conmamba_ctc", **{**lists, **options}, test_search={"beam_size": 2})
    exported, given = (folder / "tokenizer.ckpt" for folder in (out / "inference", tmp_path / "tokenizer"))
    assert exported.read_bytes() == given.read_bytes()


# ---------------------------------------------------------------- parts


@pytest.fixture
def load(tmp_path):
    """Load a hyper-parameter file with options, tiny."""

    def call(name="mini_conmamba_ctc", **options):
        options = {"output_folder": str(tmp_path / "out"), "save_folder": str(tmp_path / "out/save"), **TINY, **options}
        return load_hparams(HPARAMS / "asr" / f"{name}.yaml", options)

    return call


@pytest.fixture
def make(recipe, load):
    """Make a CTC recognizer's Brain of a loaded hyper-parameter file."""

    def call(hparams):
        options = {"run_opts": {"device": "cpu"}, "checkpointer": hparams["checkpointer"]}
        return recipe("objectives").CTCBrain(hparams["modules"], hparams=hparams, **options)

    return call


def test_parts_of_a_corpus_make_up_the_sets(load, corpus, tmp_path):
    parts = {}
    for name, part in {"large": "train", "small": "valid", "clean": "test"}.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(corpus / part)
        parts[name] = {path.stem for path in (corpus / part).rglob("*.wav")}
    options = {"corpus": "librispeech", "data_folder": str(tmp_path / "data"), "train_splits": ["large", "small"]}
    options |= {"valid_splits": ["clean"], "test_splits": ["small", "clean"]}
    with pytest.raises(ValueError, match="8000"):
        prepare_recognition(load(**options, sample_rate=8000))
    files = prepare_recognition(load(**options))
    assert files == {name: [tmp_path / f"out/save/{name}.csv"] for name in ("train", "valid", "small", "clean")}
    sets = {name: set(read_manifest(path)) for name, path in files.items()}
    assert sets["train"] == parts["large"] | parts["small"] and sets["valid"] == sets["clean"] == parts["clean"]
    assert sets["small"] == parts["small"]


TEXTS = ["ABBA ABBA", "ABBA BABA", "AAAB BABA"] * 20


@pytest.mark.parametrize("token_type, size, bos_index, eos_index", [("char", 6, 2, 1), ("bpe", 9, 1, 2)])
def test_a_tokenizer_is_trained_as_told_and_found_again(recipe, load, tmp_path, token_type, size, bos_index, eos_index):
    get = recipe("recognition_brain").get_tokenizer
    options = {"output_neurons": size, "bos_index": bos_index, "eos_index": eos_index}
    hparams = load(token_type=token_type, **options)
    tokenizer = get(hparams, TEXTS)
    assert tokenizer.vocab_size() == size and (tokenizer.bos_id(), tokenizer.eos_id()) == (bos_index, eos_index)
    assert (max(len(tokenizer.id_to_piece(token)) for token in range(3, size)) > 1) == (token_type == "bpe")
    again = get(hparams, ["OTHER WORDS"])
    assert [again.id_to_piece(token) for token in range(size)] == [tokenizer.id_to_piece(t) for t in range(size)]
    folders = {"tokenizer_folder": hparams["save_folder"], "save_folder": str(tmp_path / "elsewhere")}
    given = get(load(**folders, **options), ["OTHER WORDS"])
    assert [given.id_to_piece(token) for token in range(size)] == [tokenizer.id_to_piece(t) for t in range(size)]


@pytest.mark.parametrize("coverage", [0.98, 1.0])
def test_a_tokenizer_covers_as_many_characters_as_told(recipe, load, monkeypatch, coverage):
    trainer, calls = sentencepiece.SentencePieceTrainer, []
    train = trainer.train
    monkeypatch.setattr(trainer, "train", lambda **options: (calls.append(options), train(**options)))
    recipe("recognition_brain").get_tokenizer(load(character_coverage=coverage, output_neurons=6), TEXTS)
    assert [options["character_coverage"] for options in calls] == [coverage]


def test_a_tokenizer_is_trained_on_the_training_set(run, lists, tmp_path, capsys):
    run("train_tokenizer", "mini_conmamba_ctc", **lists)
    assert "tokenizer.ckpt: 6 tokens, 11.00 per word" in capsys.readouterr().out


def test_a_tokenizer_of_the_hub_is_kept_with_the_run(recipe, load, monkeypatch, tmp_path):
    hparams, asked = load(output_neurons=6, save_folder=str(tmp_path / "trained")), []
    get = recipe("recognition_brain").get_tokenizer
    get(hparams, TEXTS)

    def fetch(file_name, source, savedir, fetch_config):
        asked.append((file_name, source, str(savedir)))
        return tmp_path / "trained" / file_name

    monkeypatch.setattr("speechbrain_mamba.utils.pretrained.fetch", fetch)
    tokenizer = get(load(output_neurons=6, tokenizer_folder="someone/tokenizer"), TEXTS)
    assert tokenizer.vocab_size() == 6
    assert set(asked) == {("tokenizer.ckpt", "someone/tokenizer", str(tmp_path / "out/save"))}


@pytest.fixture
def varied(tmp_path):
    """Manifests of noise of various lengths."""
    for name, count in (("train", 9), ("valid", 3), ("test", 1)):
        rows = []
        for i in range(count):
            seconds = 0.4 + 0.15 * (i * i % 7)
            write_audio(tmp_path / f"{name}{i}.wav", torch.randn(round(16000 * seconds)) / 10, sample_rate=16000)
            words = ("AB" * 9)[: 1 + i % 5]
            row = {"ID": f"{name}{i}", "duration": seconds, "wav": f"$data_root/{name}{i}.wav", "wrd": words}
            rows.append({**row, "spk_id": "x"})
        write_manifest(tmp_path / f"{name}.csv", rows)
    return {
        "corpus": "manifest", "data_folder": str(tmp_path), "train_splits": ["train.csv"],
        "valid_splits": ["valid.csv"], "test_splits": ["test.csv"], "output_neurons": 6,
    }  # fmt: skip


@pytest.fixture
def lists(tmp_path):
    """Manifests of utterances of a second, one by one longer in words."""
    write_audio(tmp_path / "a.wav", torch.randn(16000) / 10, sample_rate=16000)
    texts = {"train": ["ABABABABA", "ABABABABAB", "ABABABABABA"], "valid": ["AB" * 9, "CAB"], "test": ["ABABAB"]}
    for name, words in texts.items():
        rows = [{"ID": f"{name}{i}", "duration": 1.0, "wav": "$data_root/a.wav", "wrd": text, "spk_id": "x"}
                for i, text in enumerate(words)]  # fmt: skip
        write_manifest(tmp_path / f"{name}.csv", rows)
    return {
        "corpus": "manifest", "data_folder": str(tmp_path), "train_splits": ["train.csv"],
        "valid_splits": ["valid.csv"], "test_splits": ["test.csv"], "output_neurons": 6,
    }  # fmt: skip


@pytest.mark.parametrize("sample_rate, hop, usable", [(16000, 400, 2), (16000, 360, 3), (16000, 440, 1)])
def test_the_training_set_has_frames_for_its_transcripts(make, load, lists, sample_rate, hop, usable):
    """A second has 41 frames of 400 samples and so 11 of the encoder: room for a space and 10 letters."""
    hparams = load(**lists)
    hparams["compute_features"] = SimpleNamespace(compute_STFT=SimpleNamespace(hop_length=hop))
    train, valid, tests = make(hparams).make_datasets(hparams)
    assert len(train) == usable and len(valid) == 2 and len(tests["test.csv"]) == 1


@pytest.mark.parametrize(("speed", "samples"), [(110, [14546, 16000]), (90, [17778, 17778])])
def test_no_speed_leaves_too_few_frames_for_a_transcript(make, load, lists, speed, samples):
    """At 110 % of the speed 10 frames of the encoder are left: CTC would hide that the second one has no loss."""
    hparams = load(**lists)
    hparams["compute_features"] = SimpleNamespace(compute_STFT=SimpleNamespace(hop_length=400))
    hparams["speed_perturb"] = SpeedPerturb(16000, [speed])
    train, *_ = make(hparams).make_datasets(hparams)
    assert [len(example["sig"]) for example in train] == samples


def test_a_recognizer_without_a_test_says_so(make, load, lists, caplog):
    hparams = load(**{**lists, "test_splits": []})
    brain = make(hparams)
    assert brain.make_datasets(hparams).tests == {} and "test_splits is empty" in caplog.text
    assert brain.results().startswith("training curves:")


def test_the_training_set_alone_is_perturbed(make, load, lists):
    hparams = load(**lists, bos_index=2, eos_index=1)
    hparams["speed_perturb"] = lambda wavs: wavs[:, ::2]
    brain = make(hparams)
    train, valid, tests = brain.make_datasets(hparams)
    assert list(tests) == ["test.csv"]
    for dataset, samples in ((train, 8000), (valid, 16000), (tests["test.csv"], 16000)):
        example = dataset[0]
        assert example["sig"].shape == (samples,) and example["tokens_bos"][0] == 2 and example["tokens_eos"][-1] == 1
        assert example["tokens"].tolist() == brain.tokenizer.encode(example["wrd"])


@pytest.mark.parametrize(
    "name, given, expected",
    [
        ("conmamba_ctc", [], "CTCBrain"),
        ("mini_conmambamamba_s2s", [], "S2SBrain"),
        ("mini_conmamba_ctc", ["--objective", "ctc_attention", "--resume_with_changes"], "S2SBrain"),
    ],
)
def test_the_objective_chooses_what_is_trained(recipe, monkeypatch, name, given, expected):
    module, calls = recipe("train"), []
    monkeypatch.setattr(module, "run_recipe", lambda brain, arguments: calls.append((brain.__name__, arguments)))
    arguments = [str(HPARAMS / f"asr/{name}.yaml"), "--data_folder", "unused", *given]
    module.main(arguments)
    assert calls == [(expected, arguments)]
    with pytest.raises(ValueError, match=r"objective is 'rnnt' in '.*', but must be one of ctc, ctc_attention"):
        module.main([*arguments[:3], "--objective", "rnnt"])


def test_a_script_trains_and_then_leaves_the_other_processes(recipe, monkeypatch):
    calls = []
    file = str(HPARAMS / "asr/mini_conmamba_s2s.yaml")
    monkeypatch.setattr(
        "speechbrain_mamba.training.run.run_recipe", lambda kind, rest: calls.append((kind.best_by, rest))
    )
    monkeypatch.setattr("speechbrain_mamba.training.script.leave_processes", lambda: calls.append("left"))
    monkeypatch.setattr("sys.argv", ["train.py", file, "--seed", "1"])
    runpy.run_path(str(RECIPE / "train.py"), run_name="__main__")
    assert calls == [("TER", [file, "--seed", "1"]), "left"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_trained_recognizer_is_exported_as_it_is(recipe, load, make, tmp_path, streaming):
    options = {"output_neurons": 6, "streaming": streaming, "output_folder": str(tmp_path / "out"), "chunk_size": 3}
    options |= {**TINY, "save_folder": str(tmp_path / "out/save"), "data_folder": "unused"}
    hparams, text = load(**options), read_hparams(HPARAMS / "asr/mini_conmamba_ctc.yaml", options)
    tokenizer = recipe("recognition_brain").get_tokenizer(hparams, TEXTS)
    hparams["normalize"]._load_statistics_dict(
        {"count": 9, "glob_mean": torch.randn(40), "glob_std": torch.rand(40) + 0.5}
    )
    recognition = make(hparams)
    recognition.tokenizer, recognition.text = tokenizer, text
    recognition.export()
    recognizer = EncoderASR.from_hparams(str(tmp_path / "out/inference"), savedir=str(tmp_path / "cache"))
    wavs, lens = torch.randn(1, 16000), torch.ones(1)
    batch = SimpleNamespace(sig=(wavs, lens), tokens=(torch.tensor([[3]]), lens), to=lambda device: batch)
    recognition.modules.eval()
    with torch.no_grad():
        log_probs, *_ = recognition.compute_forward(batch, sb.Stage.TEST)
        torch.testing.assert_close(recognizer.encode_batch(wavs, lens), log_probs, atol=1e-4, rtol=1e-4)
    assert recognizer.tokenizer.decode([3, 4]) == tokenizer.decode([3, 4])
    for likely in ([3, 4], [1, 2]):  # letters, and control pieces, which are never spelled
        with torch.no_grad():
            recognizer.mods.encoder.ctc_lin.w.bias.fill_(-100).index_fill_(0, torch.tensor(likely), 100)
        (text,), _ = recognizer.transcribe_batch(wavs, lens)
        assert bool(text) == (likely == [3, 4]) and "s>" not in text and "⁇" not in text


@pytest.mark.slow
def test_a_recognizer_gets_another_tokenizer(run, corpus, tmp_path, caplog, capsys):
    """The example of docs/finetuning.md: characters become pieces of words, and the encoder stays."""
    options = as_manifest(corpus, tmp_path / "lists")
    options |= {"test_search": {"beam_size": 2}, "number_of_epochs": 1, "avg_checkpoints": 1}
    first = run("train", "mini_conmamba_ctc", **options, **place(tmp_path / "first"))
    options |= {"init_from": str(first / "inference")}
    others = {**options, "token_type": "bpe", "output_neurons": 36}
    with pytest.raises(SystemExit):
        run("train", "mini_conmamba_ctc", **others, **place(tmp_path / "bad"))
    assert "The tokenizer there has" in (told := capsys.readouterr().err) and "--init_skip 'ctc_lin,tokenizer'" in told
    with caplog.at_level(logging.INFO):
        skip = {"init_skip": "ctc_lin,tokenizer", "freeze": "CNN,Transformer,normalize"}
        second = run("train", "mini_conmamba_ctc", **others, **skip, **place(tmp_path / "second"))
    assert re.search(
        r"skipped: ctc_lin\.w \(.*tokenizer.*with the statistics of normalize; tokenizer: another", caplog.text
    )
    for name in ("CNN", "Encoder"):
        one, two = (torch.load(out / "inference" / f"{name}.ckpt", weights_only=True) for out in (first, second))
        assert all(torch.equal(one[key], two[key]) for key in one)
    one, two = (torch.load(out / "inference" / "normalizer.ckpt", weights_only=True) for out in (first, second))
    assert one["count"] == two["count"] and torch.equal(one["glob_mean"], two["glob_mean"])
    tokenizers = [(out / "inference" / "tokenizer.ckpt").read_bytes() for out in (first, second)]
    assert tokenizers[0] != tokenizers[1]
    third = run(
        "train", "mini_conmamba_ctc", **{**options, "init_from": str(first), "lr": 0}, **place(tmp_path / "third")
    )
    assert (third / "save" / "tokenizer.ckpt").read_bytes() == tokenizers[0]
    one, two = (torch.load(out / "inference" / "ctc_lin.ckpt", weights_only=True) for out in (first, third))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_a_decoder_is_trained_on_the_kept_output_of_a_frozen_encoder(run, corpus, tmp_path, monkeypatch, capsys):
    options = as_manifest(corpus, tmp_path / "lists") | {"n_warmup_steps": 1}
    short = {"test_search": {"beam_size": 2}, "number_of_epochs": 1, "avg_checkpoints": 1}
    first = run("train", "mini_conmamba_ctc", **options, **short, **place(tmp_path / "first"))
    written = []
    save_file = kept_encodings.save_file
    monkeypatch.setattr(kept_encodings, "save_file", lambda *args: (written.append(args), save_file(*args)))
    options |= {
        "init_from": first / "inference", "init_skip": "seq_lin,Transformer.decoder,Transformer.custom_tgt_module",
        "freeze": "CNN,normalize,ctc_lin,Transformer.custom_src_module,Transformer.encoder", "token_type": "char",
        "ctc_weight": 0.0, "test_beam_size": 2, "valid_search_interval": 5, "speed_perturb": "null",
        "fea_augment": "null", "num_decoder_layers": 1, "avg_checkpoints": 1,
    }  # fmt: skip
    cached = {"encoder_cache": tmp_path / "encodings", "test_batch_ex": 2, "more_ctc_weights_decode": [0.0]}
    tables = {}
    for name, more in {"plain": {}, "kept": cached, "other": {**cached, "cross": "attention"}}.items():
        if name == "other":
            more["cross_config"] = {"nhead": 2}
        folder = run("train", "mini_conmambamamba_s2s", **options, **more, **place(tmp_path / name))
        with open(folder / "training.csv", newline="") as file:
            tables[name] = [float(row["valid_loss"]) for row in csv.DictReader(file)]
    # once for each recording, whatever decoder reads it, in whichever epoch
    counts = [len(read_manifest(tmp_path / "lists" / f"{split}.csv")) for split in ("train", "valid", "test")]
    assert len(written) <= sum(counts) and len(written) >= sum(counts[1:])
    assert tables["kept"] == pytest.approx(tables["plain"], rel=2e-3) != tables["other"]
    with open(tmp_path / "kept" / "test" / "test.csv" / "results.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == counts[2] and {"beam_wer", "beam_ctc_0_wer"} < found[0].keys()

    for wrong, message in (
        ({"speed_perturb": None}, "but speed_perturb changes recordings in the training"),
        ({"freeze": "CNN,normalize"}, "encoder_cache is given, but the encoder is trained: freeze it by --freeze"),
        ({"freeze": options["freeze"].replace("normalize,", "")}, "the encoder is trained"),
    ):
        bad = {**options, **cached, **wrong}
        bad = {key: value for key, value in bad.items() if value is not None}
        with pytest.raises(SystemExit):
            run("train", "mini_conmambamamba_s2s", **bad, **place(tmp_path / f"bad{len(message)}"))
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("weights", [0.4, [2], [0.1, 0.1], ["a"]])
def test_further_weights_of_ctc_are_checked(recipe, weights):
    recipe("objectives").check_weights([0.0, 0.3])
    with pytest.raises(ValueError, match=r"more_ctc_weights_decode is .*different numbers in"):
        recipe("objectives").check_weights(weights)


def place(folder):
    return {"output_folder": folder, "save_folder": folder / "save"}
