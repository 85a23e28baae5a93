"""The recognition recipes from end to end, on a tiny corpus."""

import csv
import importlib
import itertools
import json
import logging

import pytest
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

from speechbrain_mamba.dataio.librispeech import prepare_librispeech
from speechbrain_mamba.dataio.mini_corpus import build_mini_corpus
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.conftest import HPARAMS

RECIPE = HPARAMS.parent / "recipes" / "asr"
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
def run(monkeypatch, tmp_path):
    """Run a recipe's script with a hyper-parameter file and options; its output folder is returned."""
    monkeypatch.syspath_prepend(RECIPE)
    # SpeechBrain's handlers would outlive the streams that pytest lends a test
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)

    def call(script, hparams, **options):
        options = {"output_folder": tmp_path / "out", "save_folder": tmp_path / "out/save", **TINY, **options}
        command = [str(script), str(HPARAMS / "asr" / f"{hparams}.yaml")]
        for key, value in options.items():
            command += [f"--{key}", json.dumps(value) if isinstance(value, (list, dict)) else str(value)]
        monkeypatch.setattr("sys.argv", command)
        importlib.import_module(script).main()
        return tmp_path / "out"

    return call


def as_manifest(corpus, folder):
    """The corpus as CSV manifests of one's own, and the number of its characters with SentencePiece's three."""
    files = prepare_librispeech(corpus, folder, {"train": ["train"], "valid": ["valid"], "test": ["test"]})
    with open(files["train"], newline="") as file:
        characters = set("".join(row["wrd"] for row in csv.DictReader(file)))
    return {
        "corpus": "manifest", "data_folder": folder, "train_splits": ["train.csv"], "dev_splits": ["valid.csv"],
        "test_splits": ["test.csv"], "output_neurons": len(characters) + 3,
    }  # fmt: skip


def test_ctc_trains_tests_and_resumes(run, corpus, tmp_path, monkeypatch, capsys, caplog):
    epochs, told = [], DynamicBatchSampler.set_epoch
    monkeypatch.setattr(DynamicBatchSampler, "set_epoch", lambda self, epoch: (epochs.append(epoch), told(self, epoch)))
    options = as_manifest(corpus, tmp_path / "lists")
    options["test_search"] = {"beam_size": 5}
    for name in ("train", "test"):
        with open(tmp_path / f"lists/{name}.csv", "a") as file:
            file.write("dumb,1.0,none.wav,,x\nsilent,0.0,none.wav,GOOD,x\n")
            file.write("hasty,0.05,none.wav,A FAR TOO LONG SENTENCE,x\n" if name == "train" else "")
    with caplog.at_level(logging.WARNING):
        out = run("train_ctc", "mini_conmamba_ctc", **options)
    for message in (
        "utterances of train with an empty transcript: dumb.",
        "utterances of train with no audio: silent.",
        "utterances of train with fewer frames than their transcript needs for CTC: hasty.",
        "Left out 1 of 10 utterances of test.csv with no audio: silent.",
    ):
        assert message in caplog.text
    summary = json.loads((out / "test/test.csv/summary.json").read_text())
    assert summary["utterances"] == 8 and summary["wer"] > 0 and summary["cer"] > 0
    assert "%WER" in (out / "test/test.csv/wer.txt").read_text()
    assert len((out / "test/test.csv/results.csv").read_text().splitlines()) == 9
    assert (out / "training.png").stat().st_size > 1000
    assert "8 utterances" in capsys.readouterr().out

    run("train_ctc", "mini_conmamba_ctc", **{**options, "number_of_epochs": 3})
    with open(out / "training.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert epochs == [1, 2, 3]  # each has batches of its own


def test_the_mean_is_of_good_checkpoints_only(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(RECIPE)
    best_checkpoints = importlib.import_module("recognition").best_checkpoints
    checkpointer = AtomicCheckpointer(tmp_path, {"model": torch.nn.Linear(1, 1)})
    for epoch, wer in enumerate((50.0, 10.0, 11.0, 10.5), start=1):
        checkpointer.save_checkpoint(meta={"WER": wer, "epoch": epoch})
    checkpointer.save_checkpoint(meta={"epoch": 5})  # amid an epoch, without a score
    assert [c.meta["epoch"] for c in best_checkpoints(checkpointer, "WER", 2)] == [2, 4]
    assert [c.meta["epoch"] for c in best_checkpoints(checkpointer, "WER", 9)] == [2, 4, 3]


def test_s2s_with_language_model(run, corpus, tmp_path, monkeypatch):
    options = as_manifest(corpus, tmp_path / "lists")
    options |= {"num_decoder_layers": 1, "valid_search_interval": 2, "valid_beam_size": 2, "test_beam_size": 3}
    options |= {"token_type": "char", "max_decode_ratio": 0.3}
    (tmp_path / "lm").mkdir()
    small = dict(d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=0, d_ffn=16, normalize_before=False)
    lm = TransformerLM(vocab=options["output_neurons"], **small, activation=torch.nn.GELU)
    torch.save(lm.state_dict(), tmp_path / "lm/lm.ckpt")
    text = (HPARAMS / "asr/mini_conmambamamba_s2s.yaml").read_text()
    text = (
        text.replace("!include:", f"!include:{HPARAMS}/asr/")
        + f"""
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
    )
    hparams = tmp_path / "with_lm.yaml"
    hparams.write_text(text)
    out = run("train_s2s", hparams.with_suffix(""), **options, lm_folder=tmp_path / "lm")
    assert json.loads((out / "test/test.csv/summary.json").read_text())["utterances"] == 8
    with open(out / "training.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["WER"] == "nan" and float(rows[1]["WER"]) > 0 and 0 < float(rows[1]["TER"]) < 100

    other = TransformerLM(vocab=50, **small, activation=torch.nn.GELU)
    torch.save(other.state_dict(), tmp_path / "lm/lm.ckpt")
    with pytest.raises(ValueError, match="it is of another vocabulary than the"):
        run("train_s2s", hparams.with_suffix(""), **options, lm_folder=tmp_path / "lm")


def test_tokenizer_alone_and_given_to_another_run(run, corpus, tmp_path, monkeypatch, capsys):
    options = as_manifest(corpus, tmp_path / "lists")
    out = run("train_tokenizer", "mini_conmamba_ctc", **options)
    assert "tokens, " in capsys.readouterr().out
    (tmp_path / "tokenizer").mkdir()
    (out / "save/tokenizer.ckpt").rename(tmp_path / "tokenizer/tokenizer.ckpt")
    options |= {"tokenizer_folder": tmp_path / "tokenizer", "output_neurons": 12}
    with pytest.raises(ValueError, match="tokens, but output_neurons is 12"):
        run("train_ctc", "mini_conmamba_ctc", **options)


@pytest.mark.parametrize("kind", ["causal", "streaming"])
def test_stream_writes_what_is_recognised_at_once(run, corpus, tmp_path, monkeypatch, capsys, kind):
    options = as_manifest(corpus, tmp_path / "lists") | {kind: True, "number_of_epochs": 1}
    out = run("train_ctc", "mini_conmamba_ctc", **options, test_search={"beam_size": 2})
    for file in out.glob("save/CKPT*/model.ckpt"):  # hardly trained: make it write something
        weights = torch.load(file, weights_only=True)
        weights["2.w.bias"][0] -= 10
        weights["2.w.weight"] *= 10
        torch.save(weights, file)
    capsys.readouterr()
    wav = next((corpus / "test").rglob("*.wav"))
    run("stream", "mini_conmamba_ctc", **options, wav=wav)
    *pieces, whole, verdict = capsys.readouterr().out.strip("\n").split("\n")
    texts = [line.split(" s  ")[1] for line in pieces]
    assert len(set(texts)) > 2 and verdict == "equal"
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert whole == f"{wav.name}, all at once: {texts[-1]}"
    with pytest.raises(ValueError, match="The recogniser has to hear all before it writes"):
        run("stream", "mini_conmamba_ctc", **{**options, kind: False}, wav=wav)
    with pytest.raises(ValueError, match="encoder_module is 'conformer', which has no state of constant size"):
        run("stream", "mini_conformer_ctc", **options, wav=wav)
