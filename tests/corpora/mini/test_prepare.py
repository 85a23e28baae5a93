"""Manifests of the embedded corpus."""

import pytest

from speechbrain_mamba.corpora.mini import prepare as module
from speechbrain_mamba.corpora.mini.prepare import prepare_mini


@pytest.mark.parametrize(
    ("options", "built", "listed"),
    [
        ({}, (16000, {}), ({"train": ["train"], "valid": ["valid"], "test": ["test"]}, 16000)),
        (
            {"splits": {"test": ["valid", "test"]}, "sample_rate": 8000, "sentences": 5, "seed": 3},
            (8000, {"sentences": 5, "seed": 3}),
            ({"test": ["valid", "test"]}, 8000),
        ),
    ],
)
def test_the_corpus_is_built_and_listed(monkeypatch, options, built, listed):
    calls = []

    def build_mini_corpus(folder, sample_rate, **settings):
        calls.append((folder, sample_rate, settings))
        return f"built {folder}"

    monkeypatch.setattr(module, "build_mini_corpus", build_mini_corpus)
    monkeypatch.setattr(module, "prepare_librispeech", lambda *arguments: calls.append(arguments) or "manifests")
    assert prepare_mini("corpus", "lists", **options) == "manifests"
    assert calls == [("corpus", *built), ("built corpus", "lists", *listed)]
