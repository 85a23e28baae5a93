"""Codecs: padding, saving and loading, training, and errors in words."""

from __future__ import annotations

import pytest
import torch

encodec = pytest.importorskip("encodec", reason="the package encodec is not installed")

from speechbrain_mamba.codecs import EnCodec, load_codec, save_codec  # noqa: E402

SIZES = {
    "sample_rate": 8000,
    "ratios": (5, 4, 2),
    "n_codebooks": 3,
    "codebook_size": 16,
    "dimension": 8,
    "n_filters": 4,
}


@pytest.fixture
def codec() -> EnCodec:
    """A small codec whose codebooks have been filled."""
    torch.manual_seed(0)
    codec = EnCodec(**SIZES)
    codec(torch.randn(4, 4000))
    return codec.eval()


def test_padding_changes_neither_tokens_nor_sound(codec):
    torch.manual_seed(1)
    lengths = torch.tensor([4000, 1001, 90, 1])
    wavs = torch.randn(4, 4000)
    for i, length in enumerate(lengths):
        wavs[i, length:] = torch.nan
    codes, code_lengths = codec.encode(wavs, lengths)
    sound, sound_lengths = codec.decode(codes, code_lengths)
    assert code_lengths.tolist() == [100, 26, 3, 1]
    assert sound_lengths.tolist() == [4000, 1040, 120, 40]
    for i, length in enumerate(lengths):
        alone, _ = codec.encode(wavs[i : i + 1, :length])
        assert torch.equal(codes[i, : code_lengths[i]], alone[0])
        assert (codes[i, code_lengths[i] :] == 0).all()
        expected, _ = codec.decode(alone)
        torch.testing.assert_close(sound[i, : sound_lengths[i]], expected[0], rtol=1e-4, atol=1e-5)
        assert (sound[i, sound_lengths[i] :] == 0).all()


def test_a_saved_codec_is_the_same_when_loaded(codec, tmp_path):
    save_codec(codec, tmp_path)
    wavs = torch.randn(2, 800)
    loaded = load_codec(tmp_path)
    assert torch.equal(loaded.encode(wavs)[0], codec.encode(wavs)[0])
    assert torch.equal(load_codec(tmp_path, 2).encode(wavs)[0], codec.encode(wavs)[0][..., :2])
    assert loaded.frame_rate == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec.ckpt", "codec.json"]


def test_a_codec_with_codebooks_that_are_not_in_use_is_saved_whole(codec, tmp_path):
    save_codec(codec, tmp_path / "whole")
    save_codec(load_codec(tmp_path / "whole", 2), tmp_path / "part")
    wavs = torch.randn(2, 800)
    assert torch.equal(load_codec(tmp_path / "part", 2).encode(wavs)[0], codec.encode(wavs)[0][..., :2])
    assert load_codec(tmp_path / "part").n_codebooks == 3


def test_published_weights_are_wrapped_with_any_number_of_codebooks(tmp_path):
    model = encodec.EncodecModel._get_model([1.5, 24.0])
    codec = EnCodec.from_encodec(model, 8)
    assert (codec.frame_rate, codec.n_codebooks, codec.codebook_size) == (75, 8, 1024)
    model.set_target_bandwidth(1.5)
    wavs = torch.randn(1, 4800)
    assert torch.equal(codec.encode(wavs)[0][..., :2], model.encode(wavs[:, None])[0][0].transpose(1, 2))
    with pytest.raises(ValueError, match="has 1 to 32"):
        EnCodec.from_encodec(model, 33)
    with pytest.raises(ValueError, match="take EnCodec's for 24 kHz"):
        EnCodec.from_encodec(encodec.EncodecModel.encodec_model_48khz(pretrained=False))


def test_training_reaches_every_parameter():
    torch.manual_seed(0)
    codec = EnCodec(**SIZES)
    wavs = torch.randn(4, 1000)
    for _ in range(2):
        reconstruction, commitment, codes = codec(wavs, torch.tensor([1000, 900, 500, 1000]))
    assert reconstruction.shape == (4, 1000)
    assert codes.shape == (4, 25, 3)
    ((reconstruction - wavs).square().mean() + commitment).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (torch.zeros(1, 5, 4, dtype=torch.long), "another codec"),
        (torch.full((1, 5, 3), 16), "those from 0 to 15"),
        (torch.zeros(1, 0, 3, dtype=torch.long), "another codec"),
    ],
)
def test_tokens_of_another_codec_are_named(codec, codes, words):
    with pytest.raises(ValueError, match=words):
        codec.decode(codes)


def test_what_cannot_be_loaded_is_named(tmp_path, codec):
    with pytest.raises(FileNotFoundError, match=r"has no codec\.json"):
        load_codec(tmp_path)
    save_codec(codec, tmp_path)
    with pytest.raises(ValueError, match="has 1 to 3"):
        load_codec(tmp_path, 4)
    with pytest.raises(ValueError, match=r"takes \(batch, samples\)"):
        codec.encode(torch.zeros(1, 0))


def test_weights_that_cannot_be_had_are_named(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(FileNotFoundError, match="train a codec with"):
        load_codec("encodec_24khz")


def test_a_new_codec_does_not_swallow_the_sound():
    torch.manual_seed(0)
    codec = EnCodec(8000, (5, 4, 4, 2), n_codebooks=4, codebook_size=256, dimension=64, n_filters=8, lstm=1)
    wavs = 0.1 * torch.randn(2, 8000)
    encoded = codec.encoder(wavs[:, None])
    assert encoded.std(2).mean() > 0.02
    assert codec.decoder(encoded).std() > 0.02
