"""Streams at once: the largest batch in real time is found, and pieces are compared with the whole."""

from __future__ import annotations

import pytest
import torch

import streams


@pytest.mark.parametrize("capacity", [0, 1, 5, 31, 512])
def test_the_largest_batch_in_real_time_is_found(monkeypatch, capacity):
    """To within a sixteenth, with few trials; time grows with the batch."""
    tried = []

    def time_pieces(model, samples, batch, rounds):
        tried.append(batch)
        return [0.32 * batch / (capacity + 0.5)] * rounds

    monkeypatch.setattr(streams, "time_pieces", time_pieces)
    found = streams.largest_in_real_time(None, 5120, 320.0, 3)
    assert found <= capacity and (capacity - found) * 16 <= capacity
    assert len(tried) < 20


def test_pieces_of_a_separator_give_what_it_gives_at_once():
    torch.manual_seed(0)
    separator = streams.SeparationStreams(streams.FOLDER / "separation/mini_mambatasnet_streaming.yaml")
    assert streams.disagreement(separator, 500) < 1e-4


def test_outputs_that_do_not_fit_are_told():
    class Cut(streams.SeparationStreams):
        def at_once(self, wavs):
            return super().at_once(wavs)[:, 1:]

    cut = Cut(streams.FOLDER / "separation/mini_mambatasnet_streaming.yaml")
    with pytest.raises(RuntimeError, match=r"The streams gave \(2, 2623, 2\), but at once there are \(2, 2622, 2\)"):
        streams.disagreement(cut, 500)
