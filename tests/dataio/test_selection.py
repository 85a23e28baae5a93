"""Utterances that are left out."""

import logging

import pytest
import torch

from speechbrain_mamba.dataio.selection import encoder_frames, select_usable
from speechbrain_mamba.text.tokenizer import FILE_NAME, train_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return train_tokenizer(tmp_path / FILE_NAME, ["ABBA", "ABAB"], vocab_size=6, token_type="char")


def test_unusable_utterances_are_named(tokenizer, caplog):
    items = {
        "good": {"duration": 1.0, "wrd": "AB"},
        "empty": {"duration": 1.0, "wrd": " "},
        "strange": {"duration": 1.0, "wrd": "AÉ"},
        "short": {"duration": 0.1, "wrd": "AAA"},
        "tiny": {"duration": 0.019, "wrd": "A"},
    }

    def frames(item):
        return encoder_frames(item["duration"], 16000, 160)

    with caplog.at_level(logging.WARNING):
        assert list(select_usable(items, tokenizer, "utterances", frames, 0.02)) == ["good"]
    text = caplog.text
    assert "Left out 1 of 5 utterances with an empty transcript: empty." in text
    assert "with characters that the tokenizer does not know: strange." in text
    assert "with fewer frames than their transcript needs for CTC: short." in text
    assert "with less than the 20 ms of audio that are needed: tiny." in text
    assert list(select_usable(items, tokenizer, "utterances", None, 0.02)) == ["good", "strange", "short"]
    assert list(select_usable(items, tokenizer, "utterances")) == ["good", "strange", "short", "tiny"]
    with pytest.raises(ValueError, match="None of the 1 utterances can be used: 1 with an empty transcript"):
        select_usable({"empty": items["empty"]}, tokenizer, "utterances")


@pytest.mark.parametrize(("text", "needed"), [("AB", 3), ("AAB", 5), ("AAA", 6), ("A AB", 5)])
def test_training_needs_a_frame_per_token_and_one_between_equal_ones(tokenizer, text, needed):
    """A text begins with a space of its own."""
    items = {"a": {"duration": 1.0, "wrd": text}, "long": {"duration": 2.0, "wrd": text}}
    for frames, usable in ((needed, ["a", "long"]), (needed - 1, ["long"])):
        kept = select_usable(items, tokenizer, "utterances", lambda item: round(item["duration"] * frames))  # noqa: B023
        assert list(kept) == usable
        assert all(kept[name] is items[name] for name in usable)


@pytest.mark.parametrize(("count", "ending"), [(10, "u8, u9."), (11, "u8, u9 and 1 more."), (14, "u8, u9 and 4 more.")])
def test_no_more_than_ten_are_named(tokenizer, caplog, count, ending):
    items = {f"u{i}": {"duration": 0.01, "wrd": "AB"} for i in range(count)}
    select_usable({"good": {"duration": 0.1, "wrd": "AB"}, **items}, tokenizer, "readings", None, 0.02)
    names = ", ".join(f"u{i}" for i in range(8))
    assert caplog.messages == [
        f"Left out {count} of {count + 1} readings with less than the 20 ms of audio that are needed: {names}, {ending}"
    ]


def test_nothing_is_said_when_all_can_be_used(tokenizer, caplog):
    items = {"a": {"duration": 0.1, "wrd": "AB"}}
    assert select_usable(items, tokenizer, "utterances") == items
    assert not caplog.messages


@pytest.mark.parametrize("seconds", [0.03, 0.1, 1.0, 1.23, 20.0])
def test_encoder_frames_are_those_of_the_front_end(seconds):
    from speechbrain.lobes.features import Fbank

    from speechbrain_mamba.lobes.models.recognition.convolution import ConvolutionFrontEnd

    frontend = ConvolutionFrontEnd((8, 10, 80), 2, 1, (4, 4), (3, 3), (2, 2), residuals=(False, False))
    feats = Fbank(n_mels=80)(torch.randn(1, round(seconds * 16000)))
    assert frontend(feats).shape[1] == encoder_frames(seconds, 16000, 160)


@pytest.mark.parametrize("strides", [(), (2,), (3, 2), (2, 2, 2)])
@pytest.mark.parametrize("samples", [1, 79, 80, 12345, 16080])
def test_encoder_frames_are_those_of_an_stft_and_strided_convolutions(samples, strides):
    window = torch.hann_window(160)
    stft = torch.stft(torch.zeros(samples), 160, 80, window=window, pad_mode="constant", return_complex=True)
    frames = stft.shape[1]
    for stride in strides:
        frames = torch.nn.functional.conv1d(torch.zeros(1, 1, frames), torch.zeros(1, 1, 3), None, stride, 1).shape[2]
    assert encoder_frames(samples / 8000, 8000, 80, strides) == frames
