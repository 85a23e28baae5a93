"""What the pictures show."""

import logging
import math
import sys

import pytest
import torch
from matplotlib.figure import Figure
from torchaudio.transforms import MelSpectrogram, Spectrogram

from speechbrain_mamba.utils.plots import plot_curves, plot_pairs, plot_spectrograms

RATE = 8000


def test_curves(tmp_path, figures):
    rows = [{"step": 10, "a": 1.0, "b": 5.0, "c": 3.0}, {"step": 30, "a": 2.0, "b": 4.0, "c": 9.0}]
    plot_curves(tmp_path / "curves.png", rows, "step", {"one": ["a", "c"], "two": ["b"]})
    plot_curves(tmp_path / "one.png", rows, "step", {"one": ["a"]})
    (one, two), (alone,) = (figure.axes for figure in figures)
    assert [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in one.lines] == [
        ("a", [10, 30], [1, 2]), ("c", [10, 30], [3, 9])
    ]  # fmt: skip
    assert [list(line.get_ydata()) for line in two.lines] == [[5, 4]]
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in (one, two)] == [("step", "one"), ("step", "two")]
    assert [[text.get_text() for text in axis.get_legend().get_texts()] for axis in (one, two)] == [["a", "c"], ["b"]]
    assert all(line.get_marker() not in ("", "None") for line in one.lines)  # a single epoch is to be seen
    assert all(line.get_visible() for axis in (one, two) for line in (*axis.get_xgridlines(), *axis.get_ygridlines()))
    assert [axis.get_subplotspec().get_geometry() for axis in (one, two, alone)] == [
        (1, 2, 0, 0), (1, 2, 1, 1), (1, 1, 0, 0)
    ]  # fmt: skip
    widths, heights = zip(*(figure.get_size_inches() for figure in figures))
    assert widths[0] == 2 * widths[1] and heights[0] == heights[1]
    assert (tmp_path / "curves.png").exists()


def shown(figure):
    """The images of a figure, and the bar of its levels."""
    *axes, bar = figure.axes
    return [axis.images[0] for axis in axes], bar


@pytest.mark.parametrize(("n_mels", "unit", "top"), [(None, "kHz", 4), (20, "mel band", 20)])
def test_spectrograms(tmp_path, figures, n_mels, unit, top):
    time = torch.arange(2000) / RATE
    signals = {"low": torch.sin(2000 * math.pi * time), "high": 0.1 * torch.sin(6000 * math.pi * time)[:1500]}
    signals["silent"] = torch.zeros(100)
    plot_spectrograms(tmp_path / "speech.png", signals, RATE, n_mels=n_mels)
    options = {"n_fft": 256, "hop_length": 64, "power": 2}
    reference = MelSpectrogram(RATE, n_mels=n_mels, **options) if n_mels else Spectrogram(**options)
    images, bar = shown(figures[0])
    padded = [*list(signals.values())[:2], torch.zeros(256)]
    for image, (title, signal), whole in zip(images, signals.items(), padded, strict=True):
        levels = 10 * torch.log10(reference(whole) + 1e-16)
        assert image.get_array().shape == levels.shape
        assert torch.allclose(torch.tensor(image.get_array().data), levels, atol=0.05, rtol=0)
        assert image.get_extent() == pytest.approx([0, len(signal) / RATE, 0, top])
        assert image.origin == "lower"
        assert image.axes.get_title(loc="left") == title
        assert image.axes.get_ylabel() == unit
        assert image.axes.get_aspect() == "auto"
    loudest = max(float(image.get_array().max()) for image in images)
    assert [image.get_clim() for image in images] == [pytest.approx((loudest - 70, loudest))] * 3
    assert [image.axes.get_xlabel() for image in images] == ["", "", "s"]
    assert [image.axes.get_subplotspec().get_geometry()[:2] for image in images] == [(3, 1)] * 3
    assert bar.get_ylim() == pytest.approx((loudest - 70, loudest))
    assert (tmp_path / "speech.png").exists()


def test_each_spectrogram_has_a_height_of_its_own(tmp_path, figures):
    for names in ("a", "abc"):
        plot_spectrograms(tmp_path / "speech.png", dict.fromkeys(names, torch.randn(2000)), RATE)
    (width, height), (same_width, sum_of_heights) = (figure.get_size_inches() for figure in figures)
    assert (same_width, sum_of_heights) == pytest.approx((width, 3 * height))


@pytest.mark.parametrize(("rate", "shape"), [(16000, (257, 16)), (5030, (81, 48)), (250, (9, 481))])
def test_the_window_of_spectrograms_has_16_samples_at_least(tmp_path, figures, rate, shape):
    signal = torch.randn(1920, dtype=torch.double, requires_grad=True)
    plot_spectrograms(tmp_path / "speech.png", {"noise": signal}, rate)
    ((image,), _) = shown(figures[0])
    assert image.get_array().shape == shape


def test_pairs(tmp_path, figures):
    plot_pairs(tmp_path / "pairs.png", [(0.9, 0.2), (0.7, 0.1), (0.5, 0.4)], ["right", "wrong"])
    (axis,) = figures[0].axes
    points, equal = axis.lines
    assert (list(points.get_xdata()), list(points.get_ydata())) == ([0.9, 0.7, 0.5], [0.2, 0.1, 0.4])
    assert points.get_linestyle() == "None"
    assert (equal.get_xy1(), equal.get_slope()) == ((0, 0), 1)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("right", "wrong")
    assert all(line.get_visible() for line in axis.get_xgridlines())
    width, height = figures[0].get_size_inches()
    assert width == height  # both axes have one unit
    assert (tmp_path / "pairs.png").exists()


def test_a_picture_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "pairs.png").write_text("old")

    def savefig(self, path, **options):
        path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(OSError, match="no space left"):
        plot_pairs(tmp_path / "pairs.png", [(0.9, 0.2)], ["right", "wrong"])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("pairs.png", "old")]


def test_matplotlib_is_asked_for_and_kept_quiet(tmp_path, monkeypatch, figures):
    monkeypatch.setattr(logging.getLogger("matplotlib"), "level", logging.NOTSET)
    plot_pairs(tmp_path / "pairs.png", [(0.9, 0.2)], ["right", "wrong"])
    assert logging.getLogger("matplotlib").level == logging.WARNING
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "speechbrain_mamba\[recipes\]"'):
        plot_pairs(tmp_path / "pairs.png", [(0.9, 0.2)], ["right", "wrong"])
