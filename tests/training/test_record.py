"""The record of a training run."""

import pytest

from speechbrain_mamba.training.record import record_epoch, save_hparams

PANELS = {"loss": ["train", "valid"], "rate": ["lr"]}


@pytest.fixture(autouse=True)
def _quick(figures):
    pass


def epoch(number, train=2.0, valid=3.0, lr=0.5):
    return {"epoch": number, "train": train, "valid": valid, "lr": lr}


def lines(folder):
    return (folder / "training.csv").read_text().splitlines()


def test_hyperparameters_are_written_down_with_their_references_resolved(tmp_path):
    save_hparams(str(tmp_path), "name: ä\nlr: 0.1\ntwice: !ref <lr> * 2\nhalf: !ref <lr>")
    path = tmp_path / "hyperparams.yaml"
    heading, *settings = path.read_text(encoding="utf-8").splitlines()
    assert heading.startswith("# speechbrain_mamba ") and settings == ["name: ä", "lr: 0.1", "twice: 0.2", "half: 0.1"]
    save_hparams(tmp_path, "lr: 3")
    assert path.read_text() == f"{heading}\nlr: 3\n"


def test_each_epoch_has_a_row(tmp_path):
    for number in (1, 2, 3):
        record_epoch(tmp_path, epoch(number, train=1.25 * number), PANELS)
    assert lines(tmp_path) == ["epoch,train,valid,lr", "1,1.25,3.0,0.5", "2,2.5,3.0,0.5", "3,3.75,3.0,0.5"]


@pytest.mark.parametrize(("resumed", "kept"), [(1, []), (2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (9, [1, 2, 3])])
def test_a_resumed_run_has_no_row_of_an_earlier_try(tmp_path, resumed, kept):
    for number in (1, 2, 3):
        record_epoch(tmp_path, epoch(number), PANELS)
    record_epoch(tmp_path, epoch(resumed, train=7.0), PANELS)
    rows = [f"{number},2.0,3.0,0.5" for number in kept]
    assert lines(tmp_path)[1:] == [*rows, f"{resumed},7.0,3.0,0.5"]


def test_epochs_are_ordered_as_numbers(tmp_path):
    for number in (9, 10, 11, 10):
        record_epoch(tmp_path, epoch(number), PANELS)
    assert [line.split(",")[0] for line in lines(tmp_path)[1:]] == ["9", "10"]


def test_a_value_that_is_not_known_stays_unknown(tmp_path):
    record_epoch(tmp_path, epoch(1, valid=None), PANELS)
    record_epoch(tmp_path, epoch(2, train=float("nan")), PANELS)
    record_epoch(tmp_path, epoch(3), PANELS)
    assert lines(tmp_path)[1:] == ["1,2.0,nan,0.5", "2,nan,3.0,0.5", "3,2.0,3.0,0.5"]


def test_rows_of_an_earlier_version_keep_their_columns(tmp_path):
    (tmp_path / "training.csv").write_text("epoch,train,gone\n1,2.0,4.0\n")
    record_epoch(tmp_path, epoch(2), PANELS)
    assert lines(tmp_path) == ["epoch,train,valid,lr,gone", "1,2.0,,,4.0", "2,2.0,3.0,0.5,"]


def test_the_picture_shows_the_epochs_so_far(tmp_path, figures):
    for number in (1, 2, 3, 2):
        record_epoch(tmp_path, epoch(number, train=1.5 * number, lr=1 / number), PANELS)
    assert [sum(len(axis.lines) for axis in figure.axes) for figure in figures] == [3] * 4
    loss, rate = figures[-1].axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in (*loss.lines, *rate.lines)}
    assert drawn == {"train": ([1, 2], [1.5, 3.0]), "valid": ([1, 2], [3.0, 3.0]), "lr": ([1, 2], [1.0, 0.5])}
    assert (loss.get_xlabel(), loss.get_ylabel(), rate.get_ylabel()) == ("epoch", "loss", "rate")
    assert (tmp_path / "training.png").exists()
