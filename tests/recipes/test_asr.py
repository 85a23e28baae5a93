"""The recognition recipes from end to end, on a tiny corpus."""

import csv
import itertools
import json
import logging
import runpy
from types import SimpleNamespace

import pytest
import sentencepiece
import speechbrain as sb
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.inference.ASR import EncoderASR
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

from speechbrain_mamba.corpora.librispeech import prepare_librispeech
from speechbrain_mamba.corpora.mini.build import build_mini_corpus
from speechbrain_mamba.dataio.audio import read_audio, write_audio
from speechbrain_mamba.dataio.manifests import read_manifest, write_manifest
from speechbrain_mamba.lobes.models.recognition.streaming_frontend import StreamingFrontEnd
from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
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
            command += [f"--{key}", json.dumps(value) if isinstance(value, (list, dict)) else str(value)]
        monkeypatch.setattr("sys.argv", command)
        runpy.run_path(str(RECIPE / f"{script}.py"), run_name="__main__")
        return tmp_path / "out"

    return call


def as_manifest(corpus, folder):
    """The corpus as CSV manifests of one's own, and the number of its characters with SentencePiece's three."""
    files = prepare_librispeech(corpus, folder, {"train": ["train"], "valid": ["valid"], "test": ["test"]})
    with open(files["train"], newline="") as file:
        characters = set("".join(row["wrd"] for row in csv.DictReader(file)))
    return {
        "corpus": "manifest", "data_folder": folder, "train_splits": ["train.csv"], "valid_splits": ["valid.csv"],
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
    shown = " ".join(capsys.readouterr().out.split())
    assert f"test.csv WER {summary['wer']:.2f} % CER {summary['cer']:.2f} % 8 utterances" in shown
    assert f"summary: {out / 'test'} training curves: {out / 'training.png'}" in shown
    assert "d_model: 16\n" in (out / "hyperparams.yaml").read_text() and (out / "env.log").is_file()

    run("train_ctc", "mini_conmamba_ctc", **{**options, "number_of_epochs": 3})
    with open(out / "training.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert epochs == [1, 2, 3]  # each has batches of its own


def test_the_mean_is_of_good_checkpoints_only(recipe, tmp_path):
    best_checkpoints = recipe("recognition").best_checkpoints
    checkpointer = AtomicCheckpointer(tmp_path, {"model": torch.nn.Linear(1, 1)})
    assert best_checkpoints(checkpointer, "WER", 2) == []
    for epoch, wer in enumerate((50.0, 10.0, 12.5, 10.5, 12.6), start=1):
        checkpointer.save_checkpoint(meta={"WER": wer, "epoch": epoch})
    checkpointer.save_checkpoint(meta={"epoch": 6})  # amid an epoch, without a score
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
    with open(tmp_path / "lists/train.csv", newline="") as file:
        words = [word for row in csv.DictReader(file) for word in row["wrd"].split()]
    per_word = sum(len(word) + 1 for word in words) / len(words)  # a letter each, and one for the space
    file = out / "save/tokenizer.ckpt"
    shown = capsys.readouterr().out
    assert f"{file}: {options['output_neurons']} tokens, {per_word:.2f} per word\n" in shown
    (tmp_path / "tokenizer").mkdir()
    (out / "save/tokenizer.ckpt").rename(tmp_path / "tokenizer/tokenizer.ckpt")
    options |= {"tokenizer_folder": tmp_path / "tokenizer", "output_neurons": 12}
    with pytest.raises(ValueError, match="tokens, but output_neurons is 12"):
        run("train_ctc", "mini_conmamba_ctc", **options)


@pytest.mark.parametrize("kind, length", [("causal", {}), ("streaming", {"milliseconds": 150})])
def test_stream_writes_what_is_recognized_at_once(run, corpus, tmp_path, monkeypatch, capsys, kind, length):
    options = as_manifest(corpus, tmp_path / "lists") | {kind: True, "number_of_epochs": 1}
    out = run("train_ctc", "mini_conmamba_ctc", **options, test_search={"beam_size": 2})
    for file in out.glob("save/CKPT*/model.ckpt"):  # hardly trained: make it write something
        weights = torch.load(file, weights_only=True)
        weights["2.w.bias"][0] -= 10
        weights["2.w.weight"] *= 10
        torch.save(weights, file)
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
    monkeypatch.setattr("speechbrain.decoders.ctc_greedy_decode", lambda *args: [[3]])
    run("stream", "mini_conmamba_ctc", **options, wav=wav)
    assert capsys.readouterr().out.endswith("DIFFERENT\n")
    with pytest.raises(SystemExit):
        run("stream", "mini_conmamba_ctc", **options)
    assert "the following arguments are required: --wav" in capsys.readouterr().err
    write_audio(tmp_path / "fast.wav", torch.rand(4000), 24000)
    with pytest.raises(ValueError, match="has a sample rate of 24000 Hz, but 16000 Hz are wanted"):
        run("stream", "mini_conmamba_ctc", **options, wav=tmp_path / "fast.wav")
    with pytest.raises(ValueError, match="The recogniser has to hear all before it writes"):
        run("stream", "mini_conmamba_ctc", **{**options, kind: False}, wav=wav)
    with pytest.raises(ValueError, match="encoder_module is 'conformer', which has no state of constant size"):
        run("stream", "mini_conformer_ctc", **options, wav=wav)


# ---------------------------------------------------------------- parts


@pytest.fixture
def load(tmp_path):
    """Load a hyper-parameter file with options, tiny."""

    def call(name="mini_conmamba_ctc", **options):
        options = {"output_folder": str(tmp_path / "out"), "save_folder": str(tmp_path / "out/save"), **TINY, **options}
        return load_hparams(HPARAMS / "asr" / f"{name}.yaml", options)

    return call


def names(path):
    """The utterances that a manifest lists."""
    return list(read_manifest(path))


def test_parts_of_a_corpus_make_up_the_sets(recipe, load, corpus, tmp_path):
    prepare, parts = recipe("recognition").prepare_manifests, {}
    for name, part in {"large": "train", "small": "valid", "clean": "test"}.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(corpus / part)
        parts[name] = {path.stem for path in (corpus / part).rglob("*.wav")}
    options = {"corpus": "librispeech", "data_folder": str(tmp_path / "data"), "train_splits": ["large", "small"]}
    options |= {"valid_splits": ["clean"], "test_splits": ["small", "clean"]}
    files = prepare(load(**options, skip_prep=True))
    assert not any(path.exists() for path in files.values())
    with pytest.raises(ValueError, match="8000"):
        prepare(load(**options, sample_rate=8000))
    assert prepare(load(**options)) == files
    assert files == {name: tmp_path / f"out/save/{name}.csv" for name in ("train", "valid", "small", "clean")}
    sets = {name: set(names(path)) for name, path in files.items()}
    assert sets["train"] == parts["large"] | parts["small"] and sets["valid"] == sets["clean"] == parts["clean"]
    assert sets["small"] == parts["small"]


@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_the_embedded_corpus_is_built_as_told(recipe, load, monkeypatch, sample_rate):
    module, calls = recipe("recognition"), []
    for name in ("build_mini_corpus", "prepare_librispeech"):
        monkeypatch.setattr(module, name, lambda *args, name=name, **options: calls.append((name, args, options)))
    settings = {"speakers": [2, 1, 1], "sentences": 3, "distinct_sentences": 90}
    options = {"mini_corpus": settings, "data_folder": "data", "sample_rate": sample_rate}
    module.prepare_manifests(load(**options))
    (built, folders, told), (prepared, _, others) = calls
    assert (built, prepared) == ("build_mini_corpus", "prepare_librispeech")
    assert folders == ("data",) and told == {**settings, "sample_rate": sample_rate}
    assert others["data_folder"] == "data" and others["sample_rate"] == sample_rate
    module.prepare_manifests(load(**options, skip_prep=True))
    assert len(calls) == 2


@pytest.mark.parametrize("seed", [1, 2])
def test_strings_of_digits_are_drawn_by_the_seed(recipe, load, monkeypatch, tmp_path, seed):
    module, calls = recipe("recognition"), []
    monkeypatch.setattr(module, "prepare_fsdd_digits", lambda **options: calls.append(options))
    options = {"data_folder": "digits", "seed": seed, "sample_rate": 4000 * seed}
    files = module.prepare_manifests(load("mini_conmamba_ctc_fsdd", **options))
    assert files == {name: tmp_path / f"out/save/{name}.csv" for name in ("train", "valid", "test")}
    assert calls == [{**options, "save_folder": tmp_path / "out/save"}]
    module.prepare_manifests(load("mini_conmamba_ctc_fsdd", **options, skip_prep=True))
    assert len(calls) == 1


def test_a_corpus_of_no_known_kind_is_named(recipe, load):
    with pytest.raises(ValueError, match="corpus is 'librispech', but must be one of"):
        recipe("recognition").prepare_manifests(load(corpus="librispech"))


TEXTS = ["ABBA ABBA", "ABBA BABA", "AAAB BABA"] * 20


@pytest.mark.parametrize("token_type, size, bos_index, eos_index", [("char", 6, 2, 1), ("bpe", 9, 1, 2)])
def test_a_tokenizer_is_trained_as_told_and_found_again(recipe, load, token_type, size, bos_index, eos_index):
    get = recipe("recognition").get_tokenizer
    options = {"output_neurons": size, "bos_index": bos_index, "eos_index": eos_index}
    hparams = load(token_type=token_type, **options)
    tokenizer = get(hparams, TEXTS)
    assert tokenizer.vocab_size() == size and (tokenizer.bos_id(), tokenizer.eos_id()) == (bos_index, eos_index)
    assert (max(len(tokenizer.id_to_piece(token)) for token in range(3, size)) > 1) == (token_type == "bpe")
    again = get(hparams, ["OTHER WORDS"])
    assert [again.id_to_piece(token) for token in range(size)] == [tokenizer.id_to_piece(t) for t in range(size)]
    given = get(load(tokenizer_folder=hparams["save_folder"], save_folder="elsewhere", **options), ["OTHER WORDS"])
    assert [given.id_to_piece(token) for token in range(size)] == [tokenizer.id_to_piece(t) for t in range(size)]


@pytest.mark.parametrize("coverage", [0.98, 1.0])
def test_a_tokenizer_covers_as_many_characters_as_told(recipe, load, monkeypatch, coverage):
    trainer, calls = sentencepiece.SentencePieceTrainer, []
    train = trainer.train
    monkeypatch.setattr(trainer, "train", lambda **options: (calls.append(options), train(**options)))
    recipe("recognition").get_tokenizer(load(character_coverage=coverage, output_neurons=6), TEXTS)
    assert [options["character_coverage"] for options in calls] == [coverage]


def test_a_tokenizer_is_trained_on_the_training_set(run, lists, tmp_path, capsys):
    run("train_tokenizer", "mini_conmamba_ctc", **lists)
    assert "tokenizer.ckpt: 6 tokens, 11.00 per word" in capsys.readouterr().out


def test_a_tokenizer_of_the_hub_is_kept_with_the_run(recipe, load, monkeypatch, tmp_path):
    hparams, asked = load(output_neurons=6, save_folder=str(tmp_path / "trained")), []
    get = recipe("recognition").get_tokenizer
    get(hparams, TEXTS)

    def fetch(file_name, source, savedir):
        asked.append((file_name, source, str(savedir)))
        return tmp_path / "trained" / file_name

    monkeypatch.setattr("speechbrain_mamba.utils.pretrained.fetch", fetch)
    tokenizer = get(load(output_neurons=6, tokenizer_folder="someone/tokenizer"), TEXTS)
    assert tokenizer.vocab_size() == 6
    assert set(asked) == {("tokenizer.ckpt", "someone/tokenizer", str(tmp_path / "out/save"))}


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
def test_the_training_set_has_frames_for_its_transcripts(recipe, load, lists, sample_rate, hop, usable):
    """A second has 41 frames of 400 samples and so 11 of the encoder: room for a space and 10 letters."""
    hparams = load(**lists)
    hparams["compute_features"] = SimpleNamespace(compute_STFT=SimpleNamespace(hop_length=hop))
    _, (train, valid, tests) = recipe("recognition").make_datasets(hparams)
    assert len(train) == usable and len(valid) == 2 and len(tests["test.csv"]) == 1


def test_the_training_set_alone_is_perturbed(recipe, load, lists):
    hparams = load(**lists, bos_index=2, eos_index=1)
    hparams["speed_perturb"] = lambda wavs: wavs[:, ::4]
    tokenizer, (train, valid, tests) = recipe("recognition").make_datasets(hparams)
    assert list(tests) == ["test.csv"]
    for dataset, samples in ((train, 4000), (valid, 16000), (tests["test.csv"], 16000)):
        example = dataset[0]
        assert example["sig"].shape == (samples,) and example["tokens_bos"][0] == 2 and example["tokens_eos"][-1] == 1
        assert example["tokens"].tolist() == tokenizer.encode(example["wrd"])


def test_a_run_has_what_the_command_line_says(recipe, lists, monkeypatch, tmp_path, capsys):
    module, calls = recipe("recognition"), []

    class Spy:
        def __init__(self, **options):
            self.options = options
            calls.append("made")

        def make_searches(self, hparams):
            assert self.tokenizer.vocab_size() == 6 and hparams is self.options["hparams"]
            calls.append("searches")

        def run(self, hparams, datasets):
            train, valid, tests = datasets
            assert (len(train), len(valid), list(tests)) == (3, 2, ["test.csv"])
            calls.append("run")
            return {"test.csv": {"wer": 12.5, "cer": 3.25, "utterances": 7}}

        def export(self, hparams, text):
            assert "encoder_module: conmamba" in text
            calls.append(self.options)

    for name in ("keep_freed_memory", "ddp_init_group"):
        owner = module if hasattr(module, name) else sb.utils.distributed
        monkeypatch.setattr(owner, name, lambda *args, name=name: calls.append((name, *args)))
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)
    options = {**TINY, **lists, "output_folder": tmp_path / "out", "weight_decay": 0.25, "device": "cpu"}
    arguments = [str(HPARAMS / "asr/mini_conmamba_ctc.yaml"), "--noprogressbar"]
    for key, value in options.items():
        arguments += [f"--{key}", json.dumps(value) if isinstance(value, (list, dict)) else str(value)]
    module.train_and_test(Spy, arguments)
    monkeypatch.setattr(module, "if_main_process", lambda: False)
    shown, others = capsys.readouterr().out, len(calls)
    module.train_and_test(Spy, arguments)
    assert "WER" not in capsys.readouterr().out  # of another process
    del calls[others:]
    kept, (joined, run_opts), *order, made = calls
    assert (kept, joined, order) == (("keep_freed_memory",), "ddp_init_group", ["made", "searches", "run"])
    hparams = made["hparams"]
    assert made["run_opts"] is run_opts and run_opts["device"] == "cpu" and run_opts["noprogressbar"]
    assert made["modules"] is hparams["modules"] and made["checkpointer"] is hparams["checkpointer"]
    assert made["opt_class"]([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["weight_decay"] == 0.25
    assert "weight_decay: 0.25\n" in (tmp_path / "out/hyperparams.yaml").read_text()
    assert "WER 12.50 % CER 3.25 % 7 utterances" in " ".join(shown.split())


@pytest.mark.parametrize("script", ["train_ctc", "train_s2s"])
def test_a_script_trains_and_then_leaves_the_other_processes(recipe, monkeypatch, script):
    calls = []
    monkeypatch.setattr(recipe("recognition"), "train_and_test", lambda kind, rest: calls.append((kind.best_by, rest)))
    monkeypatch.setattr("speechbrain_mamba.utils.distributed.leave_processes", lambda: calls.append("left"))
    monkeypatch.setattr("sys.argv", [script, "a.yaml", "--seed", "1"])
    runpy.run_path(str(RECIPE / f"{script}.py"), run_name="__main__")
    assert calls == [("TER" if script == "train_s2s" else "WER", ["a.yaml", "--seed", "1"]), "left"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_trained_recognizer_is_exported_as_it_is(recipe, load, tmp_path, streaming):
    options = {"output_neurons": 6, "streaming": streaming, "output_folder": str(tmp_path / "out"), "chunk_size": 3}
    options |= {**TINY, "save_folder": str(tmp_path / "out/save"), "data_folder": "unused"}
    hparams, text = load(**options), read_hparams(HPARAMS / "asr/mini_conmamba_ctc.yaml", options)
    tokenizer = recipe("recognition").get_tokenizer(hparams, TEXTS)
    hparams["normalize"]._load_statistics_dict(
        {"count": 9, "glob_mean": torch.randn(40), "glob_std": torch.rand(40) + 0.5}
    )
    recognition = recipe("train_ctc").CTCRecognition(
        modules=hparams["modules"], hparams=hparams, run_opts={"device": "cpu"}, checkpointer=hparams["checkpointer"]
    )
    recognition.export(hparams, text)
    recognizer = EncoderASR.from_hparams(str(tmp_path / "out/inference"), savedir=str(tmp_path / "cache"))
    wavs, lens = torch.randn(1, 16000), torch.ones(1)
    batch = SimpleNamespace(sig=(wavs, lens), tokens=(torch.tensor([[3]]), lens), to=lambda device: batch)
    recognition.modules.eval()
    with torch.no_grad():
        log_probs, *_ = recognition.compute_forward(batch, sb.Stage.TEST)
        torch.testing.assert_close(recognizer.encode_batch(wavs, lens), log_probs, atol=1e-4, rtol=1e-4)
    assert recognizer.tokenizer.decode([3, 4]) == tokenizer.decode([3, 4])


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("average, mean", [(1, 2.0), (2, 3.0), (3, 3.0)])
def test_a_stream_is_heard_by_the_mean_of_the_best(recipe, load, monkeypatch, tmp_path, average, mean):
    options = {"output_neurons": 6, "causal": True, "avg_checkpoints": average, "data_folder": "unused"}
    hparams = load(**options)
    recipe("recognition").get_tokenizer(hparams, TEXTS)
    for weight, wer in ((9, 50.0), (2, 10.0), (4, 11.0), (7, 20.0)):
        for parameter in hparams["model"].parameters():
            torch.nn.init.constant_(parameter, weight)
        stats = {"count": weight, "glob_mean": torch.full((40,), float(weight)), "glob_std": torch.ones(40)}
        hparams["normalize"]._load_statistics_dict(stats)
        hparams["checkpointer"].save_checkpoint(meta={"WER": wer, "epoch": weight})
    file = str(HPARAMS / "asr/mini_conmamba_ctc.yaml")
    overrides = {**TINY, **options, "output_folder": str(tmp_path / "out"), "save_folder": str(tmp_path / "out/save")}
    loaded, tokenizer = recipe("stream").load(file, overrides)
    assert all(parameter.eq(mean).all() for parameter in loaded["model"].parameters())
    assert loaded["normalize"].glob_mean.eq(2).all() and tokenizer.vocab_size() == 6
    assert not any(part.training for module in loaded["modules"].values() for part in module.modules())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in '.*empty': train the recogniser first"):
        recipe("stream").load(file, {**overrides, "save_folder": str(tmp_path / "empty")})
    (tmp_path / "out/save/tokenizer.ckpt").rename(tmp_path / "tokenizer.ckpt")
    asked = []
    fetch = "speechbrain_mamba.utils.pretrained.fetch"
    monkeypatch.setattr(fetch, lambda *where, savedir: (asked.append((*where, savedir)), tmp_path / where[0])[1])
    _, tokenizer = recipe("stream").load(file, {**overrides, "tokenizer_folder": "someone/tokenizer"})
    assert tokenizer.vocab_size() == 6
    assert asked == [("tokenizer.ckpt", "someone/tokenizer", str(tmp_path / "out/save"))]


@pytest.mark.parametrize(
    "options, heard",
    [
        ({"causal": True}, [7, 8, 8, 3]),
        ({"streaming": True, "chunk_size": 8}, [8, 8, 10]),
        ({"streaming": True, "chunk_size": 3}, [6, 9, 6, 5]),
        ({"streaming": True, "chunk_size": 32}, [26]),
    ],
)
def test_a_stream_is_heard_as_soon_as_it_makes_chunks(recipe, load, monkeypatch, options, heard):
    """Of a second in pieces of 320 ms the front end gives 7, 8, 8 and 3 frames."""
    hparams, tokenizer = load(output_neurons=6, data_folder="unused", **options), SimpleNamespace(decode=list)
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    encoder, lengths = hparams["Encoder"], []
    for module in hparams["modules"].values():
        module.eval()
    forward = encoder.forward_streaming
    monkeypatch.setattr(
        encoder, "forward_streaming", lambda x, context: (lengths.append(x.shape[1]), forward(x, context))[1]
    )
    recognizer = recipe("stream").StreamingRecogniser(hparams, tokenizer)
    pieces = torch.randn(1, 16000).split(5120, 1)
    for index, piece in enumerate(pieces):
        recognizer.add(piece, is_last=index == len(pieces) - 1)
    assert lengths == heard


@pytest.mark.parametrize("blank, other", [(0, 2), (2, 0)])
def test_repeated_tokens_of_a_stream_are_one_unless_a_blank_parts_them(recipe, load, monkeypatch, blank, other):
    hparams = load(output_neurons=3, data_folder="unused", causal=True, blank_index=blank)
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    said = iter([1, 1, other, blank, blank, other, 1, 1, 1, blank, 1, other, *[blank] * 30])
    monkeypatch.setattr(
        hparams["ctc_lin"], "forward",
        lambda x: torch.nn.functional.one_hot(torch.tensor([[next(said) for _ in range(x.shape[1])]]), 3),
    )  # fmt: skip
    recognizer = recipe("stream").StreamingRecogniser(hparams, SimpleNamespace(decode=list))
    texts = [recognizer.add(piece) for piece in torch.randn(1, 16000).split(5120, 1)]
    assert texts[:2] == [[1, other, other, 1], [1, other, other, 1, 1, other]] and texts[-1] == texts[1]


@pytest.mark.parametrize("options, size", [({"streaming": True, "chunk_size": 5}, 5), ({"causal": True}, None)])
def test_what_is_heard_at_once_is_cut_into_chunks_where_the_training_was(recipe, load, monkeypatch, options, size):
    hparams, tokenizer = load(output_neurons=6, data_folder="unused", **options), SimpleNamespace(decode=list)
    hparams["normalize"]._load_statistics_dict({"count": 1, "glob_mean": torch.zeros(40), "glob_std": torch.ones(40)})
    given, forward = [], hparams["Encoder"].forward
    monkeypatch.setattr(hparams["Encoder"], "forward", lambda x, **named: (given.append(named), forward(x, **named))[1])
    recipe("stream").recognise_whole(hparams, tokenizer, torch.randn(1, 16000))
    (chunks,) = given[0].values()
    assert (chunks and chunks.chunk_size) == size
