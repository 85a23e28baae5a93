"""The clean speech of the speech-to-intent benchmark."""

import pytest
import torch

from speechbrain_mamba.corpora.mixtures import SPLITS
from speechbrain_mamba.corpora.speech_to_intent import (
    find_clean_speech,
    find_speech,
    prepare_speech_to_intent,
    remove_pauses,
    split_speech,
)
from speechbrain_mamba.dataio.audio import audio_info, read_audio, write_audio
from speechbrain_mamba.dataio.audio_files import SkippedFiles
from speechbrain_mamba.dataio.utterances import read_utterances
from tests.corpora.conftest import SMALL, speakers_of


def recording(seconds=(0.5, 0.4, 0.5), level=0.1, floor=1e-4, rate=16000):
    """A pause, speech, and a pause, above the noise of a microphone."""
    before, speech, after = (round(part * rate) for part in seconds)
    signal = floor * torch.randn(before + speech + after)
    signal[before : before + speech] += level * torch.randn(speech)
    return signal


@pytest.fixture
def data(tmp_path):
    for number in range(20):
        write_audio(
            tmp_path / f"repo/data/speech/clean/{number:02d}-ab.wav", recording(level=0.02 + number / 100), 16000
        )
    (tmp_path / "repo/data/noise").mkdir()
    write_audio(tmp_path / "repo/data/noise/kitchen.wav", recording(), 16000)
    return tmp_path / "repo"


def test_each_file_is_a_speaker_in_one_split(data, tmp_path):
    skipped = SkippedFiles()
    speech = find_speech(data, tmp_path / "speech", 8000, skipped)
    assert {split: len(found) for split, found in speech.items()} == {"train": 16, "valid": 2, "test": 2}
    found = [utterance for split in SPLITS for utterance in speech[split]]
    assert sorted(utterance.speaker for utterance in found) == [f"{number:02d}-ab" for number in range(20)]
    for utterance in found:
        info = audio_info(utterance.path, 8000)
        assert info.samples == utterance.samples
        assert 0.5 < info.seconds < 0.7  # of 1.4 s: 0.4 s of speech, and 0.1 s before and after
    assert not skipped


def test_the_splits_are_always_the_same():
    names = [f"{number}.wav" for number in range(50)]
    splits = split_speech(names)
    assert splits == split_speech(names[::-1])
    assert sorted(name for split in splits.values() for name in split) == sorted(names)
    assert splits["valid"] != sorted(names)[:5]


def test_speech_is_kept_at_its_own_rate_too(data, tmp_path):
    speech = find_speech(data, tmp_path / "speech", 16000, SkippedFiles())
    utterance = speech["train"][0]
    whole = read_audio(data / f"data/speech/clean/{utterance.speaker}.wav", 16000)
    assert torch.equal(read_audio(utterance.path, 16000), remove_pauses(whole, 16000))


class TestPauses:
    def test_speech_stays_with_a_margin(self):
        signal = recording((1.0, 0.5, 1.5))
        kept = remove_pauses(signal, 16000, margin=0.1)
        assert len(kept) / 16000 == pytest.approx(0.7, abs=0.041)
        start = next(i for i in range(len(signal)) if torch.equal(signal[i : i + 50], kept[:50]))
        assert torch.equal(signal[start : start + len(kept)], kept)

    def test_pauses_between_words_go_too(self):
        signal = torch.cat([recording((0.3, 0.5, 0.5)), recording((0.5, 0.5, 0.3))])
        assert len(remove_pauses(signal, 16000, margin=0.1)) / 16000 == pytest.approx(1.4, abs=0.08)

    def test_what_is_softer_than_the_limit_is_a_pause(self):
        loud, soft = 0.3 * torch.randn(8000), 0.3 * 10 ** (-25 / 20) * torch.randn(8000)
        signal = torch.cat([loud, soft])
        assert len(remove_pauses(signal, 16000, below_db=35)) == 16000
        assert len(remove_pauses(signal, 16000, below_db=15, margin=0)) == pytest.approx(8000, abs=400)

    @pytest.mark.parametrize("samples", [1, 100, 320, 1000])
    def test_short_and_silent_signals_stay(self, samples):
        assert len(remove_pauses(torch.zeros(samples), 16000)) in (samples, samples // 320 * 320)
        assert len(remove_pauses(torch.randn(samples), 16000)) > 0


def test_mixtures_are_of_distinct_files(data, tmp_path):
    manifests = prepare_speech_to_intent(data, tmp_path / "out", dynamic_mixing=True, **SMALL)
    assert len({utterance.speaker for utterance in read_utterances(manifests["train"], 8000)}) == 16
    valid, test = (speakers_of(manifests[split]) for split in ("valid", "test"))
    assert len(valid) == len(test) == 2 and not valid & test
    written = (tmp_path / "out" / "train_utterances.csv").stat().st_mtime_ns
    prepare_speech_to_intent(data / "data/speech/clean", tmp_path / "out", dynamic_mixing=True, **SMALL)
    assert (tmp_path / "out" / "train_utterances.csv").stat().st_mtime_ns == written


def test_bad_files_are_left_out_and_listed(data, tmp_path):
    clean = data / "data/speech/clean"
    (clean / "99-broken.wav").write_bytes(b"RIFFnothing")
    manifests = prepare_speech_to_intent(data, tmp_path / "out", dynamic_mixing=True, **SMALL)
    assert len(read_utterances(manifests["train"], 8000)) == 16
    assert "99-broken.wav,not audio" in (tmp_path / "out" / "skipped.csv").read_text()
    write_audio(clean / "98-rate.wav", recording(rate=8000), 8000)
    with pytest.raises(ValueError, match=r"98-rate\.wav' has a sample rate of 8000 Hz, but 16000 Hz are wanted"):
        prepare_speech_to_intent(data, tmp_path / "again", dynamic_mixing=True, **SMALL)


def test_a_folder_without_the_speech_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="should be a clone of speech-to-intent-benchmark"):
        find_clean_speech(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has 0 usable \.wav file\(s\): clone the repository again"):
        prepare_speech_to_intent(tmp_path, tmp_path / "out")
