"""Tiny models and recordings that the commands work on."""

from pathlib import Path

import pytest
import torch

from speechbrain_mamba.cli.main import main
from speechbrain_mamba.dataio.audio import write_audio


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder of models with random weights: ``separator``, ``streaming_separator``, ``recognizer``,
    ``streaming_recognizer`` and ``synthesizer``."""
    pytest.importorskip("encodec")
    from speechbrain_mamba.codecs import EnCodec
    from speechbrain_mamba.corpora.mini.sentences import DIGITS
    from speechbrain_mamba.inference.separation import export_separator
    from speechbrain_mamba.inference.synthesis import export_synthesizer
    from speechbrain_mamba.text.phonemes import TextTokenizer
    from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
    from tests.conftest import HPARAMS
    from tests.inference.tiny_recognizers import make_recognizer

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, task in (("separator", "mini_mambatasnet"), ("streaming_separator", "mini_mambatasnet_streaming")):
        path, sizes = HPARAMS / f"separation/{task}.yaml", {"N_encoder_out": 16, "out_channels": 8, "n_mamba": 1}
        export_separator(folder / name, read_hparams(path, sizes), load_hparams(path, sizes)["modules"])
    for name, causal in (("recognizer", False), ("streaming_recognizer", True)):
        made = make_recognizer(folder / "made" / name, "mini_conmamba_ctc_fsdd", causal=causal)
        made.folder.rename(folder / name)
    codec = EnCodec(8000, (8, 5, 4), n_codebooks=4, codebook_size=16, dimension=8, n_filters=2)
    codec(torch.randn(4, 4000))  # fills the codebooks
    sizes = {"token_folder": "unused", "n_codebooks": 4, "codebook_size": 16, "num_layers": 1, "d_model": 16}
    sizes |= {"max_seconds": 0.4, "sampler": {"temperature": 1.0}}
    path, tokenizer = (
        HPARAMS / "tts/mini_vallm.yaml",
        TextTokenizer.train([" ".join(DIGITS)], "characters"),
    )
    modules = load_hparams(path, sizes)["modules"]
    export_synthesizer(folder / "synthesizer", read_hparams(path, sizes), modules, tokenizer, codec.eval())
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with ``talk.wav``, ``stereo.wav``, ``voice.wav``, and ``recordings`` with two files."""
    folder = tmp_path / "a place with spaces, ö"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for number, name in enumerate(("talk.wav", "voice.wav", "recordings/one.wav", "recordings/zwei ü.flac")):
        torch.manual_seed(number)
        write_audio(folder / name, 0.1 * torch.randn(4000 + 800 * number), 8000)
    import soundfile

    soundfile.write(folder / "stereo.wav", 0.1 * torch.randn(8000, 2).numpy(), 16000)
    return folder


@pytest.fixture
def run(capsysbinary):
    """Run a command; answers its exit code and what it wrote to stdout and stderr, bytes that are no text replaced."""

    def run(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, *(written.decode("utf-8", "replace") for written in capsysbinary.readouterr())

    return run
