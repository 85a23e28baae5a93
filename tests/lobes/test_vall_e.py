"""Codec language models: padding, cached generation, stages, and errors in words."""

from __future__ import annotations

import pytest
import torch

from speechbrain_mamba.decoders.sampling import TokenSampler
from speechbrain_mamba.lobes.models.vall_e import AutoregressiveCodecLM, NonAutoregressiveCodecLM, VallE
from speechbrain_mamba.lobes.models.vall_e.backbone import BACKBONES

N_PHONEMES, CODEBOOK, BOOKS = 20, 32, 3
SAID, SPOKEN = torch.tensor([3, 0, 2]), torch.tensor([5, 0, 1])  # phonemes and frames that are a prompt's


def make_model(backbone: str, prompt_order: str = "joint", positions: bool | None = None) -> VallE:
    """A small model with weights far enough from zero for its outputs to depend on everything."""
    torch.manual_seed(0)
    sizes = {"backbone": backbone, "num_layers": 2, "d_model": 16, "d_ffn": 32, "nhead": 2, "attention_interval": 2}
    ar, nar = (
        AutoregressiveCodecLM(N_PHONEMES, CODEBOOK, **sizes, prompt_order=prompt_order, positions=positions),
        NonAutoregressiveCodecLM(N_PHONEMES, CODEBOOK, BOOKS, **sizes),
    )
    model = VallE(ar, nar).eval()
    ar.head.bias.data[CODEBOOK] += 2  # so that speech comes to its end
    for module in model.modules():
        if hasattr(module, "scale") and module.scale is not None:
            torch.nn.init.normal_(module.scale, 1.0)
            torch.nn.init.normal_(module.shift)
    return model


MODELS = {backbone: (backbone,) for backbone in BACKBONES} | {
    "mamba-interleaved": ("mamba", "interleaved"),
    "mamba-positions": ("mamba", "joint", True),
    "mamba-interleaved-positions": ("mamba", "interleaved", True),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request) -> VallE:
    """A small model for each backbone, and for each order that it can have."""
    return make_model(*request.param)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three examples of different lengths, garbage in the padding."""
    torch.manual_seed(1)
    return {
        "phonemes": torch.randint(N_PHONEMES, (3, 7)),
        "phoneme_lengths": torch.tensor([7, 1, 4]),
        "prompt_codes": torch.randint(CODEBOOK, (3, 9, BOOKS)),
        "prompt_lengths": torch.tensor([2, 9, 5]),
        "codes": torch.randint(CODEBOOK, (3, 12, BOOKS)),
        "code_lengths": torch.tensor([12, 6, 1]),
    }


def alone(batch: dict, example: int) -> dict:
    """One example without padding."""
    one = {name: tensor[example : example + 1] for name, tensor in batch.items()}
    for name, sequence in {"phoneme": "phonemes", "prompt": "prompt_codes", "code": "codes"}.items():
        one[sequence] = one[sequence][:, : int(one[f"{name}_lengths"])]
    return one


def run_ar(model: VallE, batch: dict, examples: slice = slice(None)) -> torch.Tensor:
    """Logits of the first codebook."""
    prompt, codes = (SAID[examples], SPOKEN[examples]), batch["codes"][..., 0]
    return model.ar(batch["phonemes"], batch["phoneme_lengths"], codes, batch["code_lengths"], prompt)


def test_padding_changes_nothing(model, batch):
    stage = torch.tensor([1, 2, 1])
    ar, nar = run_ar(model, batch), model.nar(**batch, stage=stage)
    for example in range(3):
        one, length = alone(batch, example), int(batch["code_lengths"][example])
        expected = run_ar(model, one, slice(example, example + 1))
        torch.testing.assert_close(ar[example : example + 1, : length + 1], expected, rtol=1e-4, atol=1e-5)
        expected = model.nar(**one, stage=stage[example : example + 1])
        torch.testing.assert_close(nar[example : example + 1, :length], expected, rtol=1e-4, atol=1e-5)


def test_speech_sees_its_text_but_no_later_speech(model, batch):
    logits = run_ar(model, batch)
    changed = batch | {"codes": batch["codes"].clone()}
    changed["codes"][0, 5] = (changed["codes"][0, 5] + 1) % CODEBOOK
    other = run_ar(model, changed)
    torch.testing.assert_close(other[0, :6], logits[0, :6])
    assert (other[0, 6:] - logits[0, 6:]).abs().amax(-1).min() > 1e-6
    changed = batch | {"phonemes": batch["phonemes"].clone()}
    changed["phonemes"][0, 6] = (changed["phonemes"][0, 6] + 1) % N_PHONEMES
    difference = (run_ar(model, changed)[0] - logits[0]).abs().amax(-1)
    before = int(SPOKEN[0]) if model.ar.prompt_order == "interleaved" else 0  # frames that come before that text
    assert difference[before:].min() > 1e-6
    assert (difference[:before] == 0).all()


def test_a_prompt_in_front_is_an_utterance_of_its_own(batch):
    model = make_model("mamba", "interleaved")
    logits = run_ar(model, batch)
    for example in (0, 2):
        said, spoken = SAID[example], SPOKEN[example]
        inputs = batch["phonemes"][[example], :said], said[None], batch["codes"][[example], :spoken, 0], spoken[None]
        torch.testing.assert_close(logits[example, :spoken], model.ar(*inputs)[0, :spoken], rtol=1e-4, atol=1e-5)


def test_without_prompts_the_orders_are_the_same(batch):
    inputs = batch["phonemes"], batch["phoneme_lengths"], batch["codes"][..., 0], batch["code_lengths"]
    logits, expected = (make_model("mamba", order).ar(*inputs) for order in ("interleaved", "joint"))
    for example, length in enumerate(batch["code_lengths"].tolist()):
        torch.testing.assert_close(logits[example, : length + 1], expected[example, : length + 1])


def test_a_stage_sees_the_codebooks_below_it_and_the_whole_prompt(model, batch):
    stage = torch.ones(3, dtype=torch.long)
    logits = model.nar(**batch, stage=stage)

    def change(name: str, book: int) -> torch.Tensor:
        codes = batch[name].clone()
        codes[0, 0, book] = (codes[0, 0, book] + 1) % CODEBOOK
        return (model.nar(**batch | {name: codes}, stage=stage)[0] - logits[0]).abs().max()

    assert change("codes", 0) > 1e-6
    assert change("codes", 1) == 0
    assert change("prompt_codes", 2) > 1e-6
    assert (model.nar(**batch, stage=stage + 1) - logits).abs().max() > 1e-3


def test_cached_generation_is_that_of_whole_sequences(model, batch):
    """Token by token, the state has to predict what running over everything anew predicts."""
    inputs = [batch[name] for name in ("phonemes", "phoneme_lengths", "prompt_codes", "prompt_lengths")]
    sampler = TokenSampler(top_k=20, top_p=0.95, repetition_window=4, repetition_ratio=0.3, seed=3)
    speech = model.generate(*inputs, max_frames=40, sampler=sampler, prompt_phoneme_lengths=SAID)

    sampler.restart()
    phonemes, phoneme_lengths, prompt, prompt_lengths = inputs
    finished, history = torch.zeros(3, dtype=torch.bool), torch.zeros(3, 0, dtype=torch.long)
    lengths = torch.zeros(3, dtype=torch.long)
    for frame in range(40):
        codes = torch.zeros(3, 9 + frame, dtype=torch.long)
        for example, length in enumerate(prompt_lengths.tolist()):
            codes[example, : length + frame] = torch.cat([prompt[example, :length, 0], history[example]])
        logits = model.ar(phonemes, phoneme_lengths, codes, prompt_lengths + frame, (SAID, prompt_lengths))
        logits = logits[torch.arange(3), prompt_lengths + frame]
        if frame == 0:
            logits[:, CODEBOOK] = -torch.inf
        tokens = sampler(logits, history)
        finished = finished | (tokens == CODEBOOK)
        if finished.all():
            break
        lengths += ~finished
        history = torch.cat([history, tokens.masked_fill(finished, 0)[:, None]], 1)
    assert lengths.tolist() == speech.lengths.tolist()
    assert finished.tolist() == speech.finished.tolist()
    assert len(set(lengths.tolist())) > 1
    for example, length in enumerate(lengths.tolist()):
        assert torch.equal(history[example, :length], speech.codes[example, :length, 0])
        assert (speech.codes[example, length:] == 0).all()


def test_a_cache_grows_past_its_room():
    model = make_model("transformer")
    phonemes = torch.randint(N_PHONEMES, (1, 5)), torch.tensor([5])
    codes = torch.randint(CODEBOOK, (1, 300))
    _, state = model.ar.start(*phonemes, codes[:, :1], torch.tensor([1]))
    for t in range(1, 300):
        logits, state = model.ar.step(codes[:, t], state)
    expected = model.ar(*phonemes, codes, torch.tensor([300]))[:, -1]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(model, batch):
    stages = [torch.full((3,), stage) for stage in (1, 2)]
    loss = run_ar(model, batch).square().sum() + sum(model.nar(**batch, stage=stage).square().sum() for stage in stages)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt_lengths": torch.tensor([2, 0, 5])}, "shorter than one frame"),
        ({"phoneme_lengths": torch.tensor([7, 0, 4])}, "phonemes: lengths run from 0"),
        ({"prompt_codes": torch.zeros(3, 9, 8, dtype=torch.long)}, "its codec has to be the one"),
        ({"prompt_codes": torch.full((3, 9, BOOKS), CODEBOOK)}, "another codec"),
        ({"phonemes": torch.full((3, 7), N_PHONEMES)}, "another codec or phoneme inventory"),
    ],
)
def test_bad_input_is_named(batch, change, words):
    model, inputs = make_model("mamba"), {name: t for name, t in batch.items() if not name.startswith("code")}
    with pytest.raises(ValueError, match=words):
        model.generate(**inputs | change, max_frames=3)


def test_a_prompt_longer_than_the_model_takes_is_named(batch):
    model = make_model("mamba")
    model.max_prompt_frames = 8
    inputs = {name: t for name, t in batch.items() if not name.startswith("code")}
    with pytest.raises(ValueError, match="9 frames, but the model takes at most 8"):
        model.generate(**inputs, max_frames=3)


def test_models_of_different_inventories_are_not_put_together():
    sizes = {"num_layers": 1, "d_model": 8, "d_ffn": 8, "nhead": 1}
    with pytest.raises(ValueError, match="n_phonemes is 20"):
        VallE(AutoregressiveCodecLM(20, 32, **sizes), NonAutoregressiveCodecLM(21, 32, 3, **sizes))


def test_an_unknown_backbone_is_named():
    with pytest.raises(ValueError, match="transformer, mamba, hybrid"):
        AutoregressiveCodecLM(20, 32, "lstm")


def test_an_order_that_a_model_cannot_have_is_named(batch):
    with pytest.raises(ValueError, match="prompt_order is 'shuffled', but must be one of joint, interleaved"):
        AutoregressiveCodecLM(20, 32, "mamba", prompt_order="shuffled")
    with pytest.raises(ValueError, match="the backbone 'hybrid' attends to text that has to be in one piece"):
        AutoregressiveCodecLM(20, 32, "hybrid", prompt_order="interleaved")
    model = make_model("mamba", "interleaved")
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("code")}
    with pytest.raises(ValueError, match="give prompt_phoneme_lengths"):
        model.generate(**inputs, max_frames=3)
    with pytest.raises(ValueError, match=r"prompt_phoneme_lengths are \[3, 1, 2\], but must be"):
        model.generate(**inputs, max_frames=3, prompt_phoneme_lengths=torch.tensor([3, 1, 2]))
