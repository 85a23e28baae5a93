"""Codec language models are trained on tar shards of tokens, and resume within an epoch."""

import json
import runpy

import pytest
import torch

from speechbrain_mamba.dataio.token_splits import _decode
from tests.conftest import HPARAMS
from tests.recipes.tts_spies import assert_resumed, make_speech, make_trainer

pytest.importorskip("webdataset")

RECIPE = HPARAMS.parent / "recipes" / "tts"
TINY = {
    "n_phonemes": 12, "n_codebooks": 4, "codebook_size": 16, "num_layers": 1, "d_model": 16, "d_ffn": 16, "nhead": 2,
    "dropout": 0.1, "num_workers": 0, "precision": "fp32", "n_test_utterances": 0, "recognizer": "null",
    "speaker_encoder": "null", "num_buckets": 4, "max_batch_frames": 60, "max_batch_ex": 5, "n_warmup_steps": 4,
    "prompts": "utterance", "prompt_seconds": 0.1, "shard_batches": 5, "shard_buffer": 8, "number_of_epochs": 1,
    "curriculum_epochs": 0, "nar_interval": 1, "prompt_order": "joint",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A token folder whose training tokens are in shards only."""
    folder = tmp_path_factory.mktemp("tokens")
    make_speech(folder, {"train": 25, "valid": 3, "test": 3})
    script = runpy.run_path(str(RECIPE / "prepare_shards.py"))
    script["main"]([str(folder), str(folder / "shards"), "--per_shard", "9"])
    assert json.loads((folder / "shards/shards.json").read_text())["examples"] == 25
    for path in folder.glob("train.*"):
        path.unlink()
    return folder


@pytest.fixture
def train(tokens, tmp_path):
    shards = f"{tokens}/shards/shard-{{000000..000002}}.tar"
    options = {**TINY, "token_folder": tokens, "train_shards": shards, "output_folder": tmp_path / "out"}
    return make_trainer("tts/train", "tts/mini_valle", options)


def last_weights(folder):
    newest = max(folder.glob("save/CKPT*"), key=lambda path: path.stat().st_mtime_ns)
    states = [torch.load(newest / f"{part}.ckpt", weights_only=True) for part in ("ar", "nar")]
    return {f"{i} {name}": value for i, state in enumerate(states) for name, value in state.items()}


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_within_its_epoch(train, tmp_path):
    assert_resumed(train, tmp_path, last_weights)


@pytest.mark.parametrize(("name", "value"), [("prompts", "speaker"), ("curriculum_epochs", 2)])
def test_what_a_stream_cannot_do(train, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, but must be .* with train_shards"):
        train(**{name: value})


def test_shards_of_another_codec():
    with pytest.raises(ValueError, match=r"have shape \(\d+, 4\) and go up to \d+, but .* codebook_size 3"):
        _decode(4, 3, 99.0, {"id": "a", "frames": 2, "phonemes": [1]}, lambda: torch.full((2, 4), 7))
