"""Programs compute what models do, in torch and in onnxruntime: recordings, steps of decoders, pieces of streams."""

import json
from types import SimpleNamespace

import pytest
import torch
from speechbrain.lobes.models.Xvector import Xvector

import speechbrain_mamba.ops  # noqa: F401  # the operations of exported programs
from speechbrain_mamba.codecs import save_codec
from speechbrain_mamba.inference import deployment
from speechbrain_mamba.inference.deployment import make_programs, write_onnx, write_torch
from speechbrain_mamba.inference.judges import load_speaker_encoder
from speechbrain_mamba.inference.programs.program import flat
from speechbrain_mamba.inference.programs.voices import speaker_programs
from speechbrain_mamba.inference.recognition import Recognizer
from speechbrain_mamba.inference.separation import SpeechSeparator, export_separator
from speechbrain_mamba.inference.speaker import export_speaker_encoder
from speechbrain_mamba.inference.streaming import StreamingRecognizer
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.conftest import HPARAMS
from tests.inference import test_synthesis
from tests.inference.test_synthesis import write_model
from tests.inference.tiny_recognizers import make_recognizer, speech


def _separator(folder, name="mini_mambatasnet", **options):
    path = HPARAMS / f"separation/{name}.yaml"
    sizes = {"N_encoder_out": 16, "out_channels": 8, **options}
    torch.manual_seed(0)
    export_separator(folder, read_hparams(path, sizes), load_hparams(path, sizes)["modules"])
    return folder


def _speaker_encoder(folder):
    path, sizes = HPARAMS / "speaker/mini_speaker.yaml", {"manifest_folder": "unused", "emb_dim": 8}
    hparams = load_hparams(path, sizes)
    export_speaker_encoder(folder, read_hparams(path, sizes), hparams["modules"], ["a"], hparams["n_speakers"])
    return folder


def _codec(folder):
    save_codec(write_model(folder / "synthesizer", "mini_vallm", codec={"lstm": 2}).codec, folder / "codec")
    return folder / "codec"


DUAL_PATH = {"n_dp": 1, "chunk_size": 30, "data_folder": "unused"}
MAKERS = {
    "separator": lambda folder: _separator(folder, n_mamba=1),
    "causal separator": lambda folder: _separator(folder, "mini_mambatasnet_streaming", n_mamba=1),
    "dual path": lambda folder: _separator(folder, "dpmamba_XS", n_mamba=1, **DUAL_PATH),
    "sepformer": lambda folder: _separator(folder, "mini_sepformer", n_transformer=1, nhead=2, d_ffn=8, **DUAL_PATH),
    "recognizer": lambda folder: make_recognizer(folder).folder,
    "chunks": lambda folder: make_recognizer(folder, streaming=True, chunk_size=4).folder,
    "causal recognizer": lambda folder: make_recognizer(folder, causal=True, chunk_size=6).folder,
    "mamba decoder": lambda folder: make_recognizer(folder, "mini_conmambamamba_s2s_fsdd").folder,
    "transformer decoder": lambda folder: make_recognizer(folder, "mini_conmamba_s2s_fsdd").folder,
    "vallm": lambda folder: write_model(folder / "model", "mini_vallm") and folder / "model",
    "hybrid": lambda folder: write_model(folder / "model", "mini_vallm_hybrid") and folder / "model",
    "valle": lambda folder: write_model(folder / "model", "mini_valle") and folder / "model",
    "speaker encoder": _speaker_encoder,
    "codec": _codec,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny model of a kind, made once."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = MAKERS[kind](tmp_path_factory.mktemp(kind.replace(" ", "_")) / "folder")
        return made[kind]

    return make


# ------------------------------------------------------------------------------------- what the modules compute


def _windows(wav, samples, step, before, count):
    """Windows of a stream (1, samples), and their valid samples."""
    padded = torch.nn.functional.pad(wav, (before, samples + count * step))
    for index in range(count):
        left = before + wav.shape[1] - index * step
        yield padded[:, index * step : index * step + samples], torch.tensor([max(0, min(samples, left))])


def _stream(program, wav, step, samples, count):
    """The outputs of all windows of a stream."""
    states = [torch.zeros_like(state[:1]) for state in program.states.values()]
    windows = program.facts["windows"]
    for window, lengths in _windows(wav, samples, step, windows["before"], count):
        outputs = program.run(window, lengths, states=states)
        states = outputs[len(program.outputs) :]
        yield outputs


@pytest.mark.parametrize("samples", [700, 1234])
def test_windows_of_a_stream_are_separated_like_the_whole(model, samples):
    separator = SpeechSeparator.from_hparams(model("causal separator"))
    program = make_programs(model("causal separator"))["stream"]
    windows, wav = program.facts["windows"], speech(0.2)[:, :samples]
    step = 5 * windows["step_is_a_multiple_of"]
    outputs = _stream(program, wav, step, step + windows["overlap"], -(-samples // step))
    estimates = torch.cat([found[0] for found in outputs], 1)[:, :samples]
    wanted = make_programs(model("causal separator"))["separator"].run(wav, torch.tensor([samples]))[0]
    torch.testing.assert_close(estimates, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(wanted, separator.separate_batch(wav), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["chunks", "causal recognizer"])
@pytest.mark.parametrize("extra", [0, 1, 77, 650])
def test_windows_of_a_stream_are_recognized_like_the_whole(model, kind, extra):
    recognizer, program = StreamingRecognizer.from_hparams(model(kind)), make_programs(model(kind))["stream"]
    windows = program.facts["windows"]
    samples = 3 * windows["step"] + extra
    wav = speech(2.0)[:, :samples]
    found = []
    for log_probs, frames, *_ in _stream(
        program, wav, windows["step"], windows["samples"], samples // windows["step"] + 1
    ):
        found.append(log_probs[:, : int(frames)])
    with torch.no_grad():
        wanted = recognizer.mods.encoder(wav, torch.ones(1))
    torch.testing.assert_close(torch.cat(found, 1), wanted, atol=1e-4, rtol=1e-4)


def test_a_program_gives_what_the_recognizer_gives(model):
    recognizer, deployed = Recognizer.from_hparams(model("recognizer")), make_programs(model("recognizer"))
    wav = speech(1.0)
    log_probs, frames = deployed["recognizer"].run(wav, torch.tensor([wav.shape[1]]))
    with torch.no_grad():
        wanted, _ = recognizer.mods.encoder.encode(wav, torch.ones(1))
    torch.testing.assert_close(log_probs, wanted)
    assert frames.tolist() == [wanted.shape[1]]
    blank = deployed.facts["blank"]
    assert deployed.facts["tokens"][blank] == recognizer.tokenizer.id_to_piece(recognizer.hparams.blank_index)


@pytest.mark.parametrize("kind", ["mamba decoder", "transformer decoder"])
def test_decoders_give_what_the_recognizer_gives(model, kind):
    recognizer, deployed = Recognizer.from_hparams(model(kind)), make_programs(model(kind))
    wav, tokens = speech(1.0), torch.tensor([[1, 4, 5, 3]])
    lengths = torch.tensor([wav.shape[1]])
    encoder, decoder = deployed["encoder"], deployed["decoder"]
    outputs = encoder.run(wav, lengths)
    found = []
    if decoder.takes_states:
        states = outputs[2:]
        for token in tokens.T:
            log_probs, *states = decoder.run(token, states=states)
            found.append(log_probs)
    else:
        memory, frames, _ = outputs
        found = [decoder.run(tokens[:, : i + 1], memory, frames)[0] for i in range(tokens.shape[1])]
    with torch.no_grad():
        transformer = recognizer.mods.encoder.transformer
        memory, _ = recognizer.mods.encoder.encode(wav, torch.ones(1))
        prediction, _ = transformer.decode(tokens, memory, torch.tensor([memory.shape[1]]))
        wanted = recognizer.mods.decoder.fc(prediction).log_softmax(-1)
    torch.testing.assert_close(torch.stack(found, 1), wanted, atol=1e-5, rtol=1e-4)


def _prompt(batch=1):
    generator = torch.Generator().manual_seed(0)
    phonemes = torch.randint(5, (batch, 4), generator=generator)
    codes = torch.randint(16, (batch, 12, 4), generator=generator)
    text = torch.randint(5, (batch, 6), generator=generator)
    full = [torch.full((batch,), x.shape[1]) for x in (phonemes, codes, text)]
    return phonemes, full[0], codes, full[1], text, full[2]


@pytest.mark.parametrize("kind", ["vallm", "hybrid", "valle"])
def test_programs_say_what_the_synthesizer_says(model, kind):
    synthesizer, deployed = SpeechSynthesizer.from_hparams(model(kind)), make_programs(model(kind))
    said, said_lengths, codes, code_lengths, text, text_lengths = _prompt()
    reading = (said, said_lengths, codes[..., 0], code_lengths, text, text_lengths)
    logits, *states = deployed["start"].run(*reading)
    logits[:, deployed.facts["end"]] = -torch.inf
    tokens, most = [], 5
    while len(tokens) < most and (token := logits.argmax(-1)) != deployed.facts["end"]:
        tokens.append(token)
        logits, *states = deployed["step"].run(token, states=states)
    books = deployed.facts["codebooks"]
    found = torch.zeros(1, len(tokens), books, dtype=torch.long)
    found[..., 0] = torch.stack(tokens, 1)
    lengths = torch.tensor([len(tokens)])
    for stage in range(1, books):
        arguments = (said, said_lengths, codes, code_lengths, text, text_lengths, found, lengths, torch.tensor([stage]))
        found[..., stage] = deployed["further"].run(*arguments)[0]
    from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances

    prompt = Utterances(Padded(said, said_lengths), Padded(codes, code_lengths))
    wanted = synthesizer.model.generate(prompt, Padded(text, text_lengths), most)
    assert torch.equal(found, wanted.codes)
    torch.testing.assert_close(deployed["codec_decoder"].run(found, lengths)[0], synthesizer.codec.decode(found)[0])


def test_a_program_gives_what_the_speaker_encoder_gives(model):
    program, wav = make_programs(model("speaker encoder"))["speaker_encoder"], speech(1.0)
    embed = load_speaker_encoder(str(model("speaker encoder")))
    found = program.run(wav, torch.tensor([wav.shape[1]]))[0]
    torch.testing.assert_close(found[0], embed(wav[0], 8000), atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------- what is exported

OF_LENGTHS = {
    "lengths": "samples", "frames": "frames", "prompt_phoneme_lengths": "prompt_phonemes",
    "prompt_code_lengths": "prompt_frames", "phoneme_lengths": "phonemes", "code_lengths": "frames",
}  # fmt: skip


def _arguments(program, batch, more):
    """Arguments of another size than the example: another batch, and more of everything else that may have any size."""
    generator = torch.Generator().manual_seed(batch)

    def resize(name, value, axes):
        shape = [
            size if axis not in axes else batch if axes[axis] == "batch" else size + more
            for axis, size in enumerate(value.shape)
        ]
        if name in OF_LENGTHS:
            longest = value.max() + (more if OF_LENGTHS[name] in _open_axes(program) else 0)
            return (longest - torch.arange(batch)).clamp(min=1)
        if value.is_floating_point():
            return 0.1 * torch.randn(shape, generator=generator)
        if value.dtype == torch.bool:
            return torch.ones(shape, dtype=torch.bool)
        return value.flatten()[torch.randint(value.numel(), shape, generator=generator)]

    inputs = [resize(name, value, program.axes.get(name, {})) for name, value in program.inputs.items()]
    states = [resize(name, value, program.state_axes.get(name, {0: "batch"})) for name, value in program.states.items()]
    return inputs, states if program.takes_states else []


def _open_axes(program):
    return {axis for name in program.inputs for axis in program.axes.get(name, {}).values()}


def _compare(program, run):
    for batch, more in ((1, 3), (3, 9)):
        inputs, states = _arguments(program, batch, more)
        wanted = program.run(*inputs, states=states)
        found = run(inputs, states)
        assert len(found) == len(wanted) == len(program.output_names)
        for got, right in zip(found, wanted):
            torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-4)


WITH_ONNX = [
    "causal separator", "dual path", "sepformer", "recognizer", "chunks", "mamba decoder", "transformer decoder",
    "vallm", "hybrid", "valle", "codec", "speaker encoder",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITH_ONNX)
def test_onnxruntime_agrees_at_any_length(kind, model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    text = write_onnx(model(kind), tmp_path / "deployed")
    about = json.loads((tmp_path / "deployed/deployed.json").read_text(encoding="utf-8"))
    deployed = make_programs(model(kind))
    assert about["kind"] == deployed.kind and about["sample_rate"] == 8000
    for program, described in zip(deployed.programs, about["programs"]):
        assert described["file"] in text
        session = onnxruntime.InferenceSession(tmp_path / "deployed" / described["file"])
        states = [*described.get("states", ())]
        names = [*described["inputs"], *states]
        assert [value.name for value in session.get_inputs()] == names
        after = [f"next_{name}" for name in states] or [*described.get("makes_states", ())]
        assert [value.name for value in session.get_outputs()] == [*described["outputs"], *after]

        def run(inputs, states, session=session, names=names):
            feed = {name: value.numpy() for name, value in zip(names, [*inputs, *states])}
            return [torch.from_numpy(output) for output in session.run(None, feed)]

        _compare(program, run)


WITH_TORCH = ["causal separator", "dual path", "sepformer", "chunks", "mamba decoder", "valle", "speaker encoder"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITH_TORCH)
def test_torch_programs_agree_at_any_length(kind, model, tmp_path):
    write_torch(model(kind), tmp_path / "deployed")
    for program in make_programs(model(kind)).programs:
        module = torch.export.load(tmp_path / f"deployed/{program.name}.pt2").module()
        _compare(program, lambda inputs, states: list(flat(module(*inputs, *([states] if states else [])))))  # noqa: B023


def test_models_on_the_hub_are_deployed(model, local_hub):
    for kind in ("separator", "codec"):
        local_hub.add(f"me/{kind}", {path.name: path.read_bytes() for path in model(kind).iterdir()})
        assert make_programs(f"me/{kind}").kind == kind
    with pytest.raises(FileNotFoundError, match=r"the Hub gave no hyperparams\.yaml of a model with this id"):
        make_programs("me/nothing")


def test_what_cannot_be_deployed_is_refused_in_a_sentence(model, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="give the name of a new folder"):
        write_torch(model("separator"), tmp_path / "full")
    assert (tmp_path / "full/note.txt").read_text() == "mine"
    monkeypatch.setattr(deployment, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"speechbrain_mamba\[onnx\]"):
        write_onnx(model("separator"), tmp_path / "new")
    reading = {"cross": "prefix_bidirectional", "num_layers": 2}
    monkeypatch.setattr(test_synthesis, "GREEDY", test_synthesis.GREEDY | reading)
    write_model(tmp_path / "read", "mini_vallm")
    with pytest.raises(ValueError, match="reads its text by prefix_bidirectional"):
        write_torch(tmp_path / "read", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="pools like x-vectors"):
        speaker_programs(SimpleNamespace(mods=torch.nn.ModuleDict({"embedding_model": Xvector()})))
