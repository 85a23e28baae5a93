"""What is prepared for a recipe's hyper-parameters."""

import json
import re
from pathlib import Path

import pytest

from speechbrain_mamba.corpora import preparation as module
from speechbrain_mamba.corpora.mini import prepare as mini
from speechbrain_mamba.corpora.mixtures import SPLITS
from speechbrain_mamba.corpora.preparation import prepare_recognition, prepare_separation, recognition_manifests
from speechbrain_mamba.dataio.manifests import read_manifest
from tests.corpora.conftest import write_noise, write_speakers


@pytest.fixture
def calls(monkeypatch):
    """What is called instead of the preparations: their names and arguments."""
    noted = []

    def spy(place, name):
        monkeypatch.setattr(place, name, lambda *args, **kwargs: noted.append((name, *args, kwargs)) or name)

    monkeypatch.setattr(
        module,
        "check_listed_audio",
        lambda files, *args, **kwargs: noted.append(("check_listed_audio", list(files), *args, kwargs)),
    )
    for name in (
        "prepare_folder",
        "prepare_fsdd_mixtures",
        "prepare_wsj0mix",
        "prepare_fsdd_digits",
        "prepare_speech_to_intent",
    ):
        spy(module, name)
    for place, name in ((module, "prepare_librispeech"), (module, "prepare_mini"), (module, "build_mini_corpus")):
        spy(place, name)
    return noted


SEPARATION = {
    "data_folder": "data", "save_folder": "save", "num_spks": 3, "sample_rate": 16000, "dynamic_mixing": False,
    "train_mixtures": 2, "valid_mixtures": 3, "test_mixtures": 4, "seed": 77, "mixture_seconds": [0.2, 0.25],
    "base_folder_dm": None, "mini_corpus": {"sentences": 5}, "more": "is ignored",
}  # fmt: skip
SETTINGS = {
    "num_spks": 3, "sample_rate": 16000, "dynamic_mixing": False, "train_mixtures": 2, "valid_mixtures": 3,
    "test_mixtures": 4, "seed": 77, "seconds": [0.2, 0.25],
}  # fmt: skip


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("corpus", "built", "prepare"),
    [
        ("folder", [], "prepare_folder"),
        ("fsdd", [], "prepare_fsdd_mixtures"),
        ("speech_to_intent", [], "prepare_speech_to_intent"),
        ("mini", [("build_mini_corpus", "data", {"sample_rate": 16000, "sentences": 5})], "prepare_folder"),
    ],
)
def test_mixtures_are_made_of_the_corpus_with_every_setting(calls, corpus, built, prepare, dynamic):
    assert prepare_separation({**SEPARATION, "corpus": corpus, "dynamic_mixing": dynamic}) == prepare
    assert calls == [*built, (prepare, "data", "save", {**SETTINGS, "dynamic_mixing": dynamic})]


def test_mixtures_are_made_of_several_corpora(calls, monkeypatch):
    noted = []
    monkeypatch.setattr(module, "prepare_joint", lambda *args, **options: noted.append((args, options)))
    parts = [{"corpus": "fsdd"}, {"corpus": "folder"}]
    prepare_separation({**SEPARATION, "corpus": "joint", "joint_corpora": parts})
    assert noted == [((parts, "save", {"sentences": 5}), SETTINGS)]
    assert not calls


@pytest.mark.parametrize(("dynamic", "speech"), [(False, None), (True, "si_tr_s")])
def test_wsj0mix_draws_from_its_speech_if_asked_to(calls, dynamic, speech):
    hparams = {**SEPARATION, "corpus": "wsj0mix", "base_folder_dm": "si_tr_s", "dynamic_mixing": dynamic}
    prepare_separation(hparams)
    options = {"num_spks": 3, "sample_rate": 16000, "base_folder_dm": speech}
    assert calls == [("prepare_wsj0mix", "data", "save", options)]


def test_dynamic_mixing_of_wsj0mix_needs_speech(calls):
    with pytest.raises(ValueError, match="set base_folder_dm to their folder"):
        prepare_separation({**SEPARATION, "corpus": "wsj0mix", "dynamic_mixing": True})
    assert not calls


def test_an_unknown_corpus_is_named(calls):
    with pytest.raises(
        ValueError, match="corpus is 'wsj', but must be one of wsj0mix, fsdd, speech_to_intent, folder, mini and joint"
    ):
        prepare_separation({**SEPARATION, "corpus": "wsj"})
    with pytest.raises(ValueError, match="corpus is 'libri', but must be one of librispeech, fsdd, manifest and mini"):
        prepare_recognition({**RECOGNITION, "corpus": "libri"})
    assert not calls


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("corpus", ["folder", "fsdd"])
def test_a_separation_experiment_has_its_data(tmp_path, corpus, dynamic):
    if corpus == "folder":
        write_speakers(tmp_path / "data", "abcdef")
    for speaker in "abc" if corpus == "fsdd" else "":
        for take in (0, 5, 10):
            write_noise(tmp_path / f"data/recordings/4_{speaker}_{take}.wav")
    folders = {"data_folder": str(tmp_path / "data"), "save_folder": str(tmp_path / "save")}
    options = {"corpus": corpus, "num_spks": 2, "sample_rate": 8000, "dynamic_mixing": dynamic}
    manifests = prepare_separation({**SEPARATION, **folders, **options})
    train = "train_utterances.csv" if dynamic else "train.csv"
    assert manifests == {split: tmp_path / "save" / f"{split}.csv" for split in SPLITS} | {
        "train": tmp_path / "save" / train
    }
    assert {path.name for path in (tmp_path / "save").glob("*.csv")} == {train, "valid.csv", "test.csv"}
    settings = json.loads((tmp_path / "save" / "prepared.json").read_text())["settings"]
    assert {**SETTINGS, "num_spks": 2, "sample_rate": 8000, "dynamic_mixing": dynamic}.items() <= settings.items()


RECOGNITION = {
    "data_folder": "data", "save_folder": "save", "sample_rate": 8000, "seed": 5, "mini_corpus": {"sentences": 3},
    "train_splits": ["one", "two"], "valid_splits": ["three"], "test_splits": ["four", "five"],
}  # fmt: skip
PARTS = {"train": ["one", "two"], "valid": ["three"], "four": ["four"], "five": ["five"]}
FOLDERS = {"data_folder": "data", "save_folder": "save"}
MANIFESTS = [[Path("data") / name for name in names] for names in PARTS.values()]


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [
        ("librispeech", [("prepare_librispeech", {**FOLDERS, "sample_rate": 8000, "splits": PARTS})]),
        ("mini", [("prepare_mini", {**FOLDERS, "sample_rate": 8000, "sentences": 3, "splits": PARTS})]),
        ("fsdd", [("prepare_fsdd_digits", {**FOLDERS, "sample_rate": 8000, "seed": 5})]),
        (
            "manifest",
            [("check_listed_audio", MANIFESTS, 8000, "data", {"memory": Path("save/checked_manifests.json")})],
        ),
    ],
)
def test_manifests_are_made_of_the_corpus(calls, corpus, expected):
    hparams = {**RECOGNITION, "corpus": corpus}
    assert prepare_recognition(hparams) == recognition_manifests(hparams)
    assert calls == expected


def test_manifests_have_their_places():
    places = {split: [Path("save") / f"{split}.csv"] for split in PARTS}
    assert recognition_manifests({**RECOGNITION, "corpus": "librispeech"}) == places
    assert recognition_manifests({**RECOGNITION, "corpus": "manifest"}) == dict(zip(PARTS, MANIFESTS))


@pytest.mark.parametrize("key", ["train_splits", "valid_splits", "test_splits"])
@pytest.mark.parametrize("parts", [[], None, "dev-clean"])
def test_a_split_without_parts_is_named(calls, key, parts):
    """A test alone may be left out."""
    hparams = {**RECOGNITION, "corpus": "librispeech", key: parts}
    if (key, parts) == ("test_splits", []):
        assert recognition_manifests(hparams).keys() == {"train", "valid"}
        return
    for prepare in (prepare_recognition, recognition_manifests):
        with pytest.raises(ValueError, match=f"^{key} is {re.escape(repr(parts))}, but must be a list"):
            prepare(hparams)
    assert calls == []
    shards = {**hparams, "train_shards": "shard-{000..002}.tar"}
    if key == "train_splits":
        assert "train" not in recognition_manifests(shards)


def test_a_test_set_has_a_name_of_its_own():
    with pytest.raises(ValueError, match="test_splits names train and valid, but"):
        recognition_manifests({**RECOGNITION, "corpus": "mini", "test_splits": ["valid", "test", "train"]})


def test_all_manifests_of_a_split_are_read_and_checked(tmp_path):
    splits = {"train_splits": ["a.csv", "b.csv"], "valid_splits": ["c.csv"], "test_splits": ["d.csv"]}
    hparams = {"corpus": "manifest", "data_folder": tmp_path, "save_folder": tmp_path / "save", "sample_rate": 8000}
    for name in "abcd":
        write_noise(tmp_path / "wavs" / f"{name}.wav")
        (tmp_path / f"{name}.csv").write_text(f"ID,duration,wav,wrd\n{name},0.4,wavs/{name}.wav,A\n")
    manifests = prepare_recognition({**hparams, **splits})
    assert list(read_manifest(manifests["train"])) == ["a", "b"]
    assert list(read_manifest(manifests["d.csv"])) == ["d"]
    (tmp_path / "b.csv").write_text("ID,duration,wav,wrd\nb,400,wavs/b.wav,A\n")
    with pytest.raises(ValueError, match=r"b\.csv', line 2: the duration of 'b' .* not in milliseconds"):
        prepare_recognition({**hparams, **splits})


def test_the_embedded_corpus_may_have_a_rate_of_its_own(monkeypatch):
    rates = []
    monkeypatch.setattr(mini, "build_mini_corpus", lambda folder, rate, **_: rates.append(rate))
    monkeypatch.setattr(mini, "prepare_librispeech", lambda *arguments: rates.append(arguments[-1]))
    prepare_recognition({**RECOGNITION, "corpus": "mini", "mini_corpus": {"sample_rate": 22050}})
    assert rates == [22050, 22050]
