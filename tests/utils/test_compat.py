"""The private interfaces that the package touches are where it expects them."""

from typing import ClassVar

import pytest
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from speechbrain_mamba.utils._compat import (
    BatchesOfEpoch,
    encodec_24khz,
    make_encodec,
    quantize,
    quantize_to_codes,
)

# ---------------------------------------------------------------------------------------------------- SpeechBrain


def test_the_batches_of_an_epoch_can_be_selected():
    class LongestFirst(BatchesOfEpoch, DynamicBatchSampler):
        epochs: ClassVar = []

        def select_batches(self, batches, epoch):
            self.epochs.append(epoch)
            return sorted(batches, key=lambda batch: -max(self.get_durations(batch)))

    dataset = DynamicItemDataset({str(i): {"duration": float(i)} for i in range(1, 6)})
    sampler = LongestFirst(dataset, 10, 3, max_batch_ex=1)
    sampler.set_epoch(3)
    assert list(sampler) == [[4], [3], [2], [1], [0]] and sampler.epochs[:2] == [0, 3]
    plain = DynamicBatchSampler(dataset, 10, 3, max_batch_ex=1)
    plain.set_epoch(3)
    assert sorted(plain) == [[0], [1], [2], [3], [4]]


def test_dual_path_models_cut_into_chunks_and_add_up():
    import torch
    from speechbrain.lobes.models.dual_path import Dual_Path_Model

    from speechbrain_mamba.utils._compat import overlap_add, segment

    model = Dual_Path_Model(3, 3, torch.nn.Identity(), torch.nn.Identity(), K=4)
    x = torch.randn(2, 3, 11)
    chunks, gap = segment(model, x)
    assert chunks.shape[:3] == (2, 3, 4)
    torch.testing.assert_close(overlap_add(model, chunks, gap), 2 * x)  # half of each chunk overlaps with the next one


# ---------------------------------------------------------------------------------------------------- PyTorch

# ---------------------------------------------------------------------------------------------------- Triton

# ---------------------------------------------------------------------------------------------------- EnCodec


@pytest.fixture
def quantizer():
    """EnCodec's quantizer, whose codebooks have been filled."""
    pytest.importorskip("encodec", reason="the package encodec is not installed")
    torch.manual_seed(0)
    *_, quantizer = make_encodec({"dimension": 8, "n_filters": 2, "ratios": [5, 4]}, 3, 16)
    quantizer.vq(torch.randn(4, 8, 50))
    return quantizer.eval()


def test_encodec_is_made_of_an_encoder_a_decoder_and_a_quantizer(quantizer):
    sizes = {"dimension": 8, "n_filters": 2, "ratios": [5, 4], "lstm": 1, "causal": True}
    encoder, decoder, own = make_encodec(sizes, 3, 16)
    assert (encoder.ratios, encoder.dimension, encoder.n_filters) == ([4, 5], 8, 2)
    assert (own.n_q, own.bins) == (3, 16) and list(decoder.ratios) == [5, 4]
    assert decoder(encoder(torch.randn(2, 1, 200))).shape == (2, 1, 200)


def test_encodec_quantizes_with_any_number_of_codebooks(quantizer):
    x = torch.randn(2, 8, 20)
    for count in (1, 3):
        quantized, codes, commitment = quantize(quantizer, x, count)
        assert quantized.shape == x.shape and codes.shape == (2, 20, count) and commitment.shape[0] == count
        assert torch.equal(quantize_to_codes(quantizer, x, count), codes)
        torch.testing.assert_close(quantizer.decode(codes.permute(2, 0, 1)), quantized)
    books = [layer.codebook for layer in quantizer.vq.layers]
    assert [book.shape for book in books] == [(16, 8)] * 3


def test_encodec_names_a_folder_without_the_published_weights(tmp_path):
    pytest.importorskip("encodec", reason="the package encodec is not installed")
    with pytest.raises((OSError, ValueError), match="encodec_24khz"):
        encodec_24khz(tmp_path)


def test_a_missing_encodec_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: make_encodec({}, 1, 1), encodec_24khz):
        with pytest.raises(ModuleNotFoundError, match=r"pip install \"speechbrain_mamba\[tts\]\""):
            call()
