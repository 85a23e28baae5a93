"""The changes that docs/speechbrain.md shows, applied to SpeechBrain's own recipes, which then train."""

import csv
import json
import math
import re
import runpy
import sys
import types
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

from speechbrain_mamba.dataio.audio import write_audio
from speechbrain_mamba.text.tokenizer import train_sentencepiece
from tests.conftest import GOLDEN

ROOT = Path(__file__).parents[2]
RECIPES = GOLDEN / "speechbrain"
PAGE = (ROOT / "docs" / "speechbrain.md").read_text(encoding="utf-8")
DIFF = re.compile(r"```diff\n--- (\S+)\n\+\+\+ (\S+)\n(.*?)```", re.DOTALL)
CHANGES = {new: (old, body) for old, new, body in DIFF.findall(PAGE)}
SIZES = {
    "dpmamba.yaml": 15_869_441,
    "mambatasnet.yaml": 15_647_488,
    "conmamba_small.yaml": 14_075_520,
    "conmambamamba_small.yaml": 14_570_880,
}
"""Parameters of the published models: tests/golden has their manifests."""


def changed(name):
    """A hyper-parameter file of SpeechBrain with the changes of the page; each hunk has to be in it once."""
    old, body = CHANGES[name]
    text = (RECIPES / old).read_text(encoding="utf-8")
    for hunk in re.split(r"^@@ .* @@\n", body, flags=re.MULTILINE)[1:]:
        lines = [(line[:1], line[1:] + "\n") for line in hunk.splitlines()]
        before, after = ("".join(line for sign, line in lines if sign != other) for other in "+-")
        assert text.count(before) == 1, f"{old} does not have once:\n{before}"
        text = text.replace(before, after)
    return text


def test_the_page_shows_these_changes():
    assert CHANGES.keys() == SIZES.keys()


@pytest.mark.parametrize("name", SIZES)
def test_changed_recipes_build_the_published_models(name):
    small_lm = {"lm_model": {"d_model": 8, "nhead": 1, "num_encoder_layers": 1, "d_ffn": 8}}  # not part of the model
    overrides = {"data_folder": "none", **(small_lm if CHANGES[name][0].startswith("Libri") else {})}
    modules = load_hyperpyyaml(changed(name), overrides)["modules"]
    assert sum(p.numel() for module in modules.values() for p in module.parameters()) == SIZES[name]
    million = f"{SIZES[name] / 1e6:.1f} M parameters"
    assert million in PAGE.replace("\n", " "), f"the page does not say that {name} has {million}"


def write_mixtures(folder):
    """Manifests of mixtures as SpeechBrain's preparation writes them."""
    for split, number in {"tr": 3, "cv": 1, "tt": 1}.items():
        rows = []
        for index in range(number):
            sources = [torch.randn(2400) * 0.1 for _ in range(2)]
            signals = {"mix": sources[0] + sources[1], "s1": sources[0], "s2": sources[1]}
            for name, signal in signals.items():
                write_audio(folder / f"{split}{index}_{name}.wav", signal, 8000)
            rows.append(
                {"ID": index, "duration": 0.3, **{f"{s}_wav": f"$data_root/{split}{index}_{s}.wav" for s in signals}}
            )
        write_csv(folder / f"{split}.csv", rows)


def write_utterances(folder):
    """Manifests of utterances, and the tokenizer that the recipe takes from the Hub; answers its size."""
    texts = ["GOOD MORNING", "MOON", "RAIN", "NO ROOM", "MORNING RAIN"]
    rows = []
    for index, text in enumerate(texts):
        write_audio(folder / f"{index}.wav", torch.randn(8000) * 0.1, 16000)
        rows.append({"ID": index, "duration": 0.5, "wav": f"$data_root/{index}.wav", "spk_id": "anna", "wrd": text})
    write_csv(folder / "train.csv", rows[:3])
    write_csv(folder / "valid.csv", rows[3:4])
    write_csv(folder / "test.csv", rows[4:])
    tokenizer = train_sentencepiece(texts, 14, token_type="char", exact=False)
    (folder / "tokenizer.ckpt").write_bytes(tokenizer.serialized_model_proto())
    return tokenizer.get_piece_size()


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


SEPARATION = {
    "data_folder": "data", "skip_prep": True, "precision": "fp32", "N_epochs": 2, "lr": 0.003, "N_encoder_out": 16,
    "out_channels": 8, "save_audio": False, "train_data": "data/tr.csv", "valid_data": "data/cv.csv",
    "test_data": "data/tt.csv", "use_speedperturb": False, "dataloader_opts": {"batch_size": 1, "num_workers": 0},
}  # fmt: skip
RECOGNITION = {
    "data_folder": "data", "skip_prep": True, "number_of_epochs": 2, "valid_search_interval": 2, "d_model": 8,
    "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "d_ffn": 16, "pretrained_lm_tokenizer_path": "data",
    "train_csv": "data/train.csv", "valid_csv": "data/valid.csv", "test_csv": ["data/test.csv"], "batch_size": 2,
    "dynamic_batching": False, "num_workers": 0, "avg_checkpoints": 1, "test_beam_size": 2, "valid_beam_size": 2,
    "max_decode_ratio": 0.2, "lr_adam": 0.01, "noam_annealing": {"n_warmup_steps": 1},
}  # fmt: skip


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Run a script of SpeechBrain with a changed file, in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # SpeechBrain sets it
    (tmp_path / "data").mkdir()

    def run(name, prepare, options):
        (tmp_path / name).write_text(changed(name))
        module, function = prepare.split(".")
        preparation = types.ModuleType(module)  # the manifests are there
        setattr(preparation, function, lambda **_: None)
        monkeypatch.setitem(sys.modules, module, preparation)
        words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]
        script = (RECIPES / CHANGES[name][0]).with_name("train.py")
        monkeypatch.setattr(sys, "argv", [str(script), name, "--device=cpu", "--output_folder=out", *words])
        runpy.run_path(str(script), run_name="__main__")
        return tmp_path / "out"

    return run


def losses(folder):
    """The validation losses of both epochs."""
    return [
        float(loss)
        for loss in re.findall(r"valid (?:loss|si-snr): ([\d.e+-]+)", (folder / "train_log.txt").read_text())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpmamba.yaml", "mambatasnet.yaml"])
def test_the_script_of_wsj0mix_trains(run_script, tmp_path, name):
    write_mixtures(tmp_path / "data")
    folder = run_script(name, "prepare_data.prepare_wsjmix", SEPARATION)
    first, last = losses(folder)
    assert 0 < last < first
    mixture, mean = csv.DictReader((folder / "test_results.csv").read_text().splitlines())
    assert math.isfinite(float(mixture["sdr_i"])) and mean["si-snr_i"] == mixture["si-snr_i"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conmamba_small.yaml", "conmambamamba_small.yaml"])
def test_the_script_of_librispeech_trains(run_script, tmp_path, name):
    vocabulary = write_utterances(tmp_path / "data")
    sizes = {"vocab": vocabulary, "d_model": 8, "nhead": 1, "num_encoder_layers": 1, "d_ffn": 8}
    language_model = TransformerLM(num_decoder_layers=0, activation=torch.nn.GELU, normalize_before=False, **sizes)
    torch.save(language_model.state_dict(), tmp_path / "data" / "lm.ckpt")
    options = {**RECOGNITION, "output_neurons": vocabulary, "lm_model": sizes}
    folder = run_script(name, "librispeech_prepare.prepare_librispeech", options)
    first, last = losses(folder)
    assert 0 < last < first
    assert re.search(r"%WER [\d.]+ \[ \d+ / 2,", (folder / "wer_test.txt").read_text())  # of two words
