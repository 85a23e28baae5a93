"""Reports of several processes, put together, say what the report of one process says."""

import pytest
import torch

from speechbrain_mamba.evaluation.codec_report import CodecReport
from speechbrain_mamba.evaluation.recognition_report import RecognitionReport
from speechbrain_mamba.evaluation.speaker_report import SpeakerReport
from speechbrain_mamba.utils import distributed
from tests.processes import process_group


def add_words(report, i):
    report.add(f"utt{i}", {"greedy": "ONE TWO" if i % 2 else "ONE"}, "ONE THREE")


def add_voices(report, i):
    report.add(f"utt{i}", f"speaker{i % 2}", torch.tensor([1.0, 0.1 * i, float(i % 2)]))


def add_sounds(report, i):
    report.add_utterance_losses(f"utt{i}", {"mel": 0.5 * i, "time": 0.1}, torch.arange(i + 1), samples=100 + i)


CASES = {
    "recognition": (lambda folder: RecognitionReport(folder, ["greedy"]), add_words, lambda report: report.summarize()),
    "speaker": (SpeakerReport, add_voices, lambda report: report.summarize()),
    "codec": (lambda folder: CodecReport(folder, None, 8000), add_sounds, lambda report: report.losses()),
}


@pytest.mark.parametrize("case", CASES)
def test_they_equal_the_report_of_one_process(case, tmp_path, monkeypatch):
    make, add, summarize = CASES[case]
    whole, first, second = (make(tmp_path) for _ in range(3))
    for i in range(6):
        add(whole, i)
        add(first if i < 2 else second, i)
    sent = []
    with process_group(tmp_path, rank=0):
        monkeypatch.setattr(distributed, "gather", lambda value: sent.append(value) or [value])
        distributed.merge_totals(second, second.collected)
        monkeypatch.setattr(distributed, "gather", lambda value: [value, *sent])
        distributed.merge_totals(first, first.collected)
    assert summarize(first) == pytest.approx(summarize(whole))
    assert [row["id"] for row in first.rows] == [f"utt{i}" for i in range(6)]
