"""Codec language models: padding, cached generation, stages, and errors in words."""

from __future__ import annotations

import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.decoders.sampling import TokenSampler
from speechbrain_mamba.lobes.models.synthesis import (
    AutoregressiveCodecLM,
    GeneratedCodes,
    NonAutoregressiveCodecLM,
    VallE,
)
from speechbrain_mamba.lobes.models.synthesis.backbone import (
    BACKBONES,
)
from speechbrain_mamba.lobes.models.synthesis.speech import speak
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba

N_PHONEMES, CODEBOOK, BOOKS = 20, 32, 4
NHEAD = 4
PROMPTS, SPEECH = ("prompt_phonemes", "prompt_codes"), ("phonemes", "codes")


def make_model(
    backbone: str,
    prompt_order: str = "joint",
    positions: bool | None = None,
    tied_head: bool = False,
    cross: str | None = None,
    cross_config: dict | None = None,
) -> VallE:
    """A small model with weights far enough from zero for its outputs to depend on everything."""
    torch.manual_seed(0)
    sizes = {"backbone": backbone, "num_layers": 3, "d_model": 16, "d_ffn": 32, "nhead": NHEAD, "attention_interval": 2}
    sizes |= {"cross": cross, "cross_config": cross_config}
    order = {"prompt_order": prompt_order, "positions": positions, "tied_head": tied_head}
    ar, nar = (
        AutoregressiveCodecLM(N_PHONEMES, CODEBOOK, **sizes, **order),
        NonAutoregressiveCodecLM(N_PHONEMES, CODEBOOK, BOOKS, **sizes),
    )
    model = VallE(ar, nar).eval()
    if not tied_head:
        ar.head.bias.data[CODEBOOK] += 2  # so that speech comes to its end
    for name, parameter in model.named_parameters():
        if "norm" in name or "position_weight" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith(("scale", "weight")) else 0.0, 0.5)
    return model


MODELS = {backbone: (backbone,) for backbone in BACKBONES} | {
    "mamba-interleaved": ("mamba", "interleaved"),
    "mamba-positions": ("mamba", "joint", True),
    "mamba-interleaved-positions": ("mamba", "interleaved", True),
    "transformer-interleaved": ("transformer", "interleaved"),
    "hybrid-interleaved": ("hybrid", "interleaved"),
}
HIDDEN = {"d_state": 8, "headdim": 8}
READERS = {
    f"{cross}-{order}": ("mamba", order, None, False, cross, config)
    for cross, config in (("hidden_attention", HIDDEN), ("prefix_bidirectional", {"init": "mimetic"}))
    for order in ("joint", "interleaved")
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request) -> VallE:
    """A small model for each backbone, and for each order that it can have."""
    return make_model(*request.param)


@pytest.fixture(params=[*MODELS.values(), *READERS.values()], ids=[*MODELS, *READERS])
def any_model(request) -> VallE:
    """A small model as above, or one that reads the text otherwise, which no formula here describes."""
    return make_model(*request.param)


@pytest.fixture
def batch() -> dict[str, Padded]:
    """Three examples of different lengths, one of them without a prompt's text, garbage in the padding."""
    torch.manual_seed(1)
    return {
        "prompt_phonemes": Padded(torch.randint(N_PHONEMES, (3, 5)), torch.tensor([3, 0, 2])),
        "prompt_codes": Padded(torch.randint(CODEBOOK, (3, 9, BOOKS)), torch.tensor([2, 9, 5])),
        "phonemes": Padded(torch.randint(N_PHONEMES, (3, 6)), torch.tensor([4, 1, 6])),
        "codes": Padded(torch.randint(CODEBOOK, (3, 12, BOOKS)), torch.tensor([12, 6, 1])),
    }


@pytest.fixture
def unprompted(batch) -> dict[str, Padded]:
    """The examples, the second of which has no prompt."""
    codes = batch["prompt_codes"]
    return batch | {"prompt_codes": codes._replace(lengths=torch.tensor([2, 0, 5]))}


def alone(batch: dict[str, Padded], example: int) -> dict[str, Padded]:
    """One example without padding."""
    rows = slice(example, example + 1)
    return {name: Padded(t[rows, : int(lengths[example])], lengths[rows]) for name, (t, lengths) in batch.items()}


def utterances(batch: dict[str, Padded]) -> tuple[Utterances, Utterances]:
    """Prompts and speech."""
    return Utterances(*(batch[name] for name in PROMPTS)), Utterances(*(batch[name] for name in SPEECH))


def change(batch: dict[str, Padded], name: str, where: tuple, size: int) -> dict[str, Padded]:
    """The batch with another token at one place."""
    values = batch[name].values.clone()
    values[where] = (values[where] + 1) % size
    return batch | {name: batch[name]._replace(values=values)}


def pad(batch: dict[str, Padded], name: str, frames: int) -> dict[str, Padded]:
    """The batch with more padding."""
    values = batch[name].values
    room = (0, 0) * (values.dim() - 2) + (0, frames)
    return batch | {name: batch[name]._replace(values=F.pad(values, room))}


def run_ar(model: VallE, batch: dict[str, Padded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the first codebook, of prompts and of speech."""
    prompt, speech = utterances(batch)
    return model.ar(prompt.first_codebook(), speech.first_codebook())


def run_nar(model: VallE, batch: dict[str, Padded], stage: torch.Tensor) -> torch.Tensor:
    """Logits of one further codebook."""
    return model.nar(*utterances(batch), stage=stage)


def generate(model: VallE, batch: dict[str, Padded], **options) -> GeneratedCodes:
    """Say the phonemes."""
    return model.generate(utterances(batch)[0], batch["phonemes"], **options)


def valid(logits: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """What of each example counts."""
    return [row[:length] for row, length in zip(logits, lengths.tolist())]


class Formula:
    """A model of the paper written out for one example without padding; from ours come the weights alone."""

    def __init__(self, lm: nn.Module):
        self.weights, self.causal = lm.state_dict(), not hasattr(lm, "n_codebooks")
        self.width = self.weights["phoneme_embedding.embedding.weight"].shape[1]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def embed(self, table: str, *tokens: list[int], first: int = 0) -> torch.Tensor:
        """The sum of the embeddings of some rows of tokens, each codebook after the other in the table."""
        table_name, width = f"{table}_embedding", self.width
        weight = self.weights[f"{table_name}.embedding.weight"]
        x = sum(weight[torch.tensor(row, dtype=torch.long) + i * CODEBOOK] for i, row in enumerate(tokens))
        if f"{table_name}.position_weight" in self.weights:
            rates = 10000 ** (-torch.arange(width // 2) / (width // 2))
            angles = torch.arange(first, first + len(x))[:, None] * rates
            x = x + self.weights[f"{table_name}.position_weight"] * torch.cat([angles.sin(), angles.cos()], 1)
        return x

    def norm(self, name: str, x: torch.Tensor, stage: int | None) -> torch.Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        if stage is None:
            return x * self.weights[f"{name}.norm.weight"] + self.weights[f"{name}.norm.bias"]
        return x * self.weights[f"{name}.scale"][stage - 1] + self.weights[f"{name}.shift"][stage - 1]

    def attend(self, name: str, x: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self.linear(f"{name}.{kind}_proj", y).chunk(NHEAD, 1) for kind, y in zip("qkv", (x, memory, memory))
        )
        heads = []
        for q, k, v in zip(query, key, value):
            scores = (q @ k.T / k.shape[1] ** 0.5).masked_fill(~seen, -torch.inf)
            heads.append(scores.softmax(1) @ v)
        return self.linear(f"{name}.out_proj", torch.cat(heads, 1))

    def mix(self, name: str, x: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        if f"{name}.q_proj.weight" in self.weights:
            frames = torch.arange(len(x))
            seen = (frames <= frames[:, None]) | (texts == texts[:, None]) & (texts > 0) | (not self.causal)
            return self.attend(name, x, x, seen)
        layer = (Mamba if self.causal else BiMamba)(self.width)
        layer.load_state_dict({n.removeprefix(f"{name}."): w for n, w in self.weights.items() if n.startswith(name)})
        return layer(x[None])[0]

    def run(self, x: torch.Tensor, texts: list[int], stage: int | None = None) -> torch.Tensor:
        """All layers over a whole sequence, given the text that each frame belongs to, or 0."""
        text = torch.tensor(texts)
        for depth in itertools.count():
            name = f"backbone.layers.{depth}"
            if f"{name}.ffn.ffn.0.weight" not in self.weights:
                return self.norm("backbone.norm", x, stage)
            x = x + self.mix(f"{name}.mixer", self.norm(f"{name}.norm1", x, stage), text)
            if f"{name}.text_attention.q_proj.weight" in self.weights:
                y = self.norm(f"{name}.norm_text", x, stage)
                seen = text[text > 0] <= text.cummax(0).values[:, None]
                read = self.attend(f"{name}.text_attention", y, y[text > 0], seen | ~seen.any(1, keepdim=True))
                x = x + read * seen.any(1, keepdim=True)
            y = self.linear(f"{name}.ffn.ffn.0", self.norm(f"{name}.norm2", x, stage))
            x = x + self.linear(f"{name}.ffn.ffn.3", F.gelu(y))

    def first_book(self, phonemes: list[int], codes: list[int], said: int, spoken: int) -> torch.Tensor:
        """Logits of each code and the end; ``said`` phonemes and ``spoken`` codes in front are an utterance of their
        own."""
        bos, texts, speeches = CODEBOOK + 1, (phonemes[:said], phonemes[said:]), (codes[:spoken], codes[spoken:])
        parts, is_asked, blocks = [], [], []
        for text, speech, last in zip(texts, speeches, (False, True)):
            blocks += [1 + last] * len(text) + [0] * (1 + len(speech) if speech or last else 0)
            parts += [self.embed("phoneme", text)] if text else []
            parts += [self.embed("code", [bos, *speech])] if speech or last else []
            # behind a prompt's last code comes no other
            is_asked += [False] * len(text) + ([True] * len(speech) + [last] if speech or last else [])
        x = self.run(torch.cat(parts), blocks)[torch.tensor(is_asked)]
        if "head.weight" in self.weights:
            return self.linear("head", x)
        return x @ self.weights["code_embedding.embedding.weight"][: CODEBOOK + 1].T

    def further_book(self, phonemes: list[int], prompt: torch.Tensor, codes: torch.Tensor, book: int) -> torch.Tensor:
        """Logits of one book's codes, from (frames, books)."""
        parts = [
            self.embed("phoneme", phonemes),
            self.embed("code", *prompt.T.tolist()),
            self.embed("code", *codes.T.tolist()[:book], first=len(prompt)),
        ]
        texts = [1] * len(phonemes) + [0] * (len(prompt) + len(codes))
        x = self.run(torch.cat(parts), texts, book)[-len(codes) :]
        return x @ self.weights["code_embedding.embedding.weight"][book * CODEBOOK : (book + 1) * CODEBOOK].T


def unpadded(batch: dict[str, Padded], example: int) -> SimpleNamespace:
    """One example: phonemes as lists, codes as tensors."""
    one = {name: padded.values[0] for name, padded in alone(batch, example).items()}
    return SimpleNamespace(**one | {name: one[name].tolist() for name in ("phonemes", "prompt_phonemes")})


def check_first_book(model: VallE, batch: dict[str, Padded]) -> None:
    """Compare the logits of prompts and of speech with the formulas."""
    (prompt_logits, logits), formula = run_ar(model, batch), Formula(model.ar)
    for example in range(3):
        one = unpadded(batch, example)
        said, spoken = len(one.prompt_phonemes), len(one.prompt_codes)
        in_front = (0, 0) if model.ar.prompt_order == "joint" else (said, spoken)
        codes = torch.cat([one.prompt_codes, one.codes])[:, 0].tolist()
        expected = formula.first_book(one.prompt_phonemes + one.phonemes, codes, *in_front)
        torch.testing.assert_close(prompt_logits[example, :spoken], expected[:spoken], rtol=1e-4, atol=1e-4)
        rest = logits[example, : len(one.codes) + 1]
        torch.testing.assert_close(rest, expected[spoken:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_first_book_is_predicted_as_the_formulas_say(model, batch, unprompted):
    check_first_book(model, batch)
    check_first_book(model, unprompted)


@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
def test_a_tied_head_predicts_with_the_weights_that_embed(backbone, batch):
    """Section 4.2.1: all codes and the end, but not the beginning of speech, which is never predicted."""
    tied, untied = make_model(backbone, tied_head=True), make_model(backbone)
    with torch.no_grad():
        check_first_book(tied, batch)
        speech = generate(tied, batch, max_frames=4)
    (_, logits), lengths = run_ar(tied, batch | {"codes": Padded(speech.codes, speech.lengths)}), speech.lengths
    for row, said, length in zip(logits.argmax(-1), speech.codes[..., 0], lengths.tolist()):
        assert row[1:length].tolist() == said[1:length].tolist()  # steps agree with whole sequences
    count = lambda model: sum(parameter.numel() for parameter in model.ar.parameters())  # noqa: E731
    assert count(untied) - count(tied) == (16 + 1) * (CODEBOOK + 1)
    tied.ar(*[part.first_codebook() for part in utterances(batch)])[1][:, :, CODEBOOK].sum().backward()
    gradient = tied.ar.code_embedding.embedding.weight.grad
    assert gradient.shape == (CODEBOOK + 2, 16) and gradient[CODEBOOK].any()  # no input is the end


@torch.no_grad()
def test_prompts_may_have_text_or_speech_alone(batch):
    lengths = {"prompt_phonemes": torch.tensor([0, 0, 3]), "prompt_codes": torch.tensor([4, 6, 0])}
    batch |= {name: batch[name]._replace(lengths=length) for name, length in lengths.items()}
    check_first_book(make_model("mamba", "interleaved", True), batch)


@torch.no_grad()
def test_further_books_are_predicted_as_the_formulas_say(model, batch):
    formula = Formula(model.nar)
    for stages in ([1, 2, 3], [3, 1, 2]):
        logits = run_nar(model, batch, torch.tensor(stages))
        for example, stage in enumerate(stages):
            one = unpadded(batch, example)
            phonemes = one.prompt_phonemes + one.phonemes
            expected = formula.further_book(phonemes, one.prompt_codes, one.codes, stage)
            torch.testing.assert_close(logits[example, : len(expected)], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_further_books_are_the_likeliest_ones_one_after_the_other(model, batch):
    prompt, speech = utterances(batch)
    completed, broken = model.nar.complete(prompt, speech.first_codebook())
    assert not broken.any()
    formula = Formula(model.nar)
    for example in range(3):
        one = unpadded(batch, example)
        phonemes, expected = one.prompt_phonemes + one.phonemes, one.codes[:, :1]
        for book in range(1, BOOKS):
            likeliest = formula.further_book(phonemes, one.prompt_codes, expected, book).argmax(1)
            expected = torch.cat([expected, likeliest[:, None]], 1)
        assert torch.equal(completed[example, : len(one.codes)], expected)
        assert (completed[example, len(one.codes) :] == 0).all()


@pytest.mark.parametrize("name", ["phonemes", "prompt_phonemes"])
def test_text_padded_beyond_everything_else_changes_nothing(model, batch, name):
    wide, stage = pad(batch, name, 40), torch.tensor([1, 3, 2])
    for ours, theirs in zip(run_ar(model, wide), run_ar(model, batch)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run_nar(model, wide, stage), run_nar(model, batch, stage), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["codes", "prompt_codes"])
def test_codes_padded_beyond_the_longest_change_nothing(model, batch, name):
    wide, stage = pad(batch, name, 15), torch.tensor([1, 3, 2])
    ours, theirs = (
        [*run_ar(model, wide), run_nar(model, wide, stage)],
        [*run_ar(model, batch), run_nar(model, batch, stage)],
    )
    more = {"codes": (0, 15, 15), "prompt_codes": (15, 0, 0)}[name]
    assert [x.shape[1] for x in theirs] == [9, 13, 12]
    assert [x.shape[1] - frames for x, frames in zip(ours, more)] == [9, 13, 12]
    counted = batch["prompt_codes"].lengths, batch["codes"].lengths + 1, batch["codes"].lengths
    for one, other, lengths in zip(ours, theirs, counted):
        for row, expected in zip(valid(one, lengths), valid(other, lengths)):
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("interval", "num_layers", "attending"), [(4, 9, {3, 7}), (3, 7, {2, 5}), (1, 2, {0, 1})])
@pytest.mark.parametrize("kind", [AutoregressiveCodecLM, NonAutoregressiveCodecLM])
def test_every_so_many_layers_of_a_hybrid_attend_to_the_text(kind, interval, num_layers, attending):
    sizes = {"num_layers": num_layers, "d_model": 16, "d_ffn": 8}
    sizes |= {} if interval == 4 else {"attention_interval": interval}
    for backbone in BACKBONES:
        names = [name.split(".") for name in kind(N_PHONEMES, CODEBOOK, backbone=backbone, **sizes).state_dict()]
        in_text = {int(name[2]) for name in names if "text_attention" in name}
        assert in_text == (attending if backbone == "hybrid" else set())


@pytest.mark.parametrize("kind", [AutoregressiveCodecLM, NonAutoregressiveCodecLM])
def test_a_model_is_by_default_as_large_as_that_of_the_paper(kind):
    """Section 5.1: 12 layers, 16 heads, 1024 channels, 4096 within the feed-forward networks, dropout 0.1."""
    with torch.device("meta"):
        lm = kind(100, 1024)
    d_model, layers, d_ffn = 1024, 12, 4096
    layer = 4 * (d_model + 1) * d_model + (d_model + 1) * d_ffn + (d_ffn + 1) * d_model
    if kind is AutoregressiveCodecLM:
        norms, tables = 2 * layers + 1, (1024 + 2) * d_model + (d_model + 1) * (1024 + 1)
    else:
        assert lm.n_codebooks == 8
        norms, tables = (2 * layers + 1) * 7, 8 * 1024 * d_model
    count = layers * layer + norms * 2 * d_model + 100 * d_model + tables + 2
    assert sum(parameter.numel() for parameter in lm.parameters()) == count
    assert lm.backbone.layers[0].mixer.nhead == 16
    assert inspect.signature(kind).parameters["dropout"].default == 0.1


@pytest.mark.parametrize("kind", [AutoregressiveCodecLM, NonAutoregressiveCodecLM])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_dropout_is_everywhere_and_in_training_alone(kind, backbone, batch):
    sizes = {"backbone": backbone, "num_layers": 2, "d_model": 16, "d_ffn": 8, "nhead": 2, "attention_interval": 1}
    lm = kind(N_PHONEMES, CODEBOOK, **sizes, dropout=0.3)
    rates = [m.p if isinstance(m, nn.Dropout) else m.dropout for m in lm.modules() if isinstance(m, nn.Dropout) or
             isinstance(getattr(m, "dropout", None), float)]  # fmt: skip
    attending = {"transformer": 1, "mamba": 0, "hybrid": 1}[backbone]
    assert rates == [0.3] * (2 + 2 * (2 + attending))  # embeddings; in each layer its branches, and within them
    inputs = [Utterances(*(Padded.collate([sequence]) for sequence in ([0, 0, 0], torch.zeros(4, 8))))] * 2
    inputs = (
        [part.first_codebook() for part in inputs] if kind is AutoregressiveCodecLM else [*inputs, torch.tensor([1])]
    )

    def run():
        return torch.cat(lm(*inputs), 1) if kind is AutoregressiveCodecLM else lm(*inputs)

    assert not torch.equal(run(), run())
    lm.eval()
    assert torch.equal(run(), run())


def test_options_of_the_scan_reach_every_layer():
    sizes = {
        "num_layers": 2,
        "d_model": 8,
        "d_ffn": 8,
        "nhead": 2,
        "attention_interval": 2,
        "mamba_config": {"d_state": 5, "d_conv": 3},
    }
    for backbone, kind in itertools.product(("mamba", "hybrid"), (AutoregressiveCodecLM, NonAutoregressiveCodecLM)):
        layers = [m for m in kind(N_PHONEMES, CODEBOOK, backbone=backbone, **sizes).modules() if hasattr(m, "d_state")]
        assert [(type(layer), layer.d_state, layer.d_conv) for layer in layers] == [
            (Mamba if kind is AutoregressiveCodecLM else BiMamba, 5, 3)
        ] * 2


@pytest.mark.parametrize("positions", [None, False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_positions_are_there_by_default_where_the_backbone_attends(backbone, positions):
    sizes = {"num_layers": 1, "attention_interval": 1, "d_model": 16, "d_ffn": 8}
    ar = AutoregressiveCodecLM(N_PHONEMES, CODEBOOK, backbone, positions=positions, **sizes)
    nar = NonAutoregressiveCodecLM(N_PHONEMES, CODEBOOK, backbone=backbone, **sizes)
    attends = backbone != "mamba"
    for lm, expected in ((ar, attends if positions is None else positions), (nar, attends)):
        weights = [w for name, w in lm.named_parameters() if name.endswith("position_weight")]
        assert [w.item() for w in weights] == [0.25] * (2 if expected else 0)


class Script:
    """A first model that wants given tokens, one per frame and example, and remembers what it was told."""

    def __init__(self, model: VallE, tokens: list[list[int]], monkeypatch):
        self.tokens, self.fed, self.started, self.asked = torch.tensor(tokens), [], None, []
        monkeypatch.setattr(model.ar, "start", self.start)
        monkeypatch.setattr(model.ar, "step", self.step)

    def logits(self, frame: int) -> torch.Tensor:
        """Those tokens are the likeliest, and token 9 comes next."""
        return (2.0 * F.one_hot(self.tokens[:, frame], CODEBOOK + 1)).index_fill(1, torch.tensor([9]), 1.0)

    def start(self, *inputs):
        self.started = inputs
        return self.logits(0), 0

    def step(self, tokens, state):
        self.fed.append(tokens.tolist())
        return self.logits(state + 1), state + 1

    def sample(self, logits, history):
        self.asked.append((logits.argmax(1).tolist(), history.tolist()))
        return logits.argmax(1)


EOS = CODEBOOK


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(
    ("max_frames", "codes", "lengths", "finished", "fed"),
    [
        (9, [[5, 0, 0], [9, 7, 8], [1, 2, 0]], [1, 3, 2], [True] * 3, [[5, 9, 1], [0, 7, 2], [0, 8, 0]]),
        (3, [[5, 0, 0], [9, 7, 8], [1, 2, 0]], [1, 3, 2], [True, False, True], [[5, 9, 1], [0, 7, 2]]),
        (2, [[5, 0], [9, 7], [1, 2]], [1, 2, 2], [True, False, False], [[5, 9, 1]]),
        (1, [[5], [9], [1]], [1, 1, 1], [False] * 3, []),
    ],
)
def test_speech_goes_on_to_its_end_or_to_the_most_frames(
    batch, monkeypatch, sampled, max_frames, codes, lengths, finished, fed
):
    """The end is not taken for the first frame, what comes after it is silence, and sampling sees what was drawn."""
    model = make_model("mamba")
    script = Script(model, [[5, EOS, 6, 6], [EOS, 7, 8, EOS], [1, 2, EOS, 3]], monkeypatch)
    speech = generate(model, batch, max_frames=max_frames, sampler=script.sample if sampled else None)
    assert speech.codes[..., 0].tolist() == codes
    assert speech.lengths.tolist() == lengths
    assert speech.finished.tolist() == finished
    assert script.fed == fed
    rows = torch.tensor(codes)
    for frame, (likeliest, history) in enumerate(script.asked):
        assert likeliest == [[5, 9, 1], [EOS, 7, 2], [6, 8, EOS], [6, EOS, 3]][frame]
        assert history == rows[:, :frame].tolist()
    assert bool(script.asked) == sampled
    prompt, _ = utterances(batch)
    expected, _ = model.nar.complete(prompt, Utterances(batch["phonemes"], Padded(rows, torch.tensor(lengths))))
    assert torch.equal(speech.codes, expected) and not speech.broken.any()
    started, phonemes = script.started
    assert torch.equal(started.codes.values, batch["prompt_codes"].values[..., 0])
    assert (started.phonemes, phonemes) == (batch["prompt_phonemes"], batch["phonemes"])


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("frame", "lengths", "finished"),
    [(0, [1, 1, 1], [True, False, False]), (1, [1, 1, 1], [True, False, False]), (2, [1, 2, 2], [True, False, True])],
)
def test_logits_that_are_not_finite_end_their_example_alone(
    batch, monkeypatch, sampled, value, frame, lengths, finished
):
    """Those of the second example from a frame on, of the third in the first two, and of the first after its end."""
    model = make_model("mamba")
    script = Script(model, [[5, EOS, 6, 6], [9, 7, 8, EOS], [1, 2, EOS, 3]], monkeypatch)
    clean = script.logits

    def logits(place):
        rows = clean(place)
        rows[1, 3] = value if place >= frame else rows[1, 3]
        rows[2] = -torch.inf if frame < 2 and place >= 1 else rows[2]
        rows[0, 3] = value if place >= 2 else rows[0, 3]
        return rows

    monkeypatch.setattr(script, "logits", logits)
    sampler = TokenSampler(temperature=1e-3, seed=0) if sampled else None
    speech = generate(model, batch, max_frames=4, sampler=sampler)
    assert speech.broken.tolist() == [False, True, frame < 2]
    assert speech.lengths.tolist() == lengths and speech.finished.tolist() == finished
    assert speech.codes[0, 0, 0] == 5 and (frame < 2 or speech.codes[2, :2, 0].tolist() == [1, 2])
    monkeypatch.setattr(script, "logits", lambda place: clean(place) * torch.nan)
    speech = generate(model, batch, max_frames=4, sampler=sampler)
    assert speech.broken.all() and speech.lengths.tolist() == [1, 1, 1] and not speech.finished.any()


def test_further_books_that_are_not_finite_break_their_example_alone(batch, monkeypatch):
    model = make_model("mamba")
    forward = model.nar.forward

    def broken(prompt, speech, stage):
        logits = forward(prompt, speech, stage)
        logits[1, 0] = torch.nan
        for example, length in enumerate(speech.codes.lengths.tolist()):
            logits[example, length:] = torch.nan  # what is there is undefined
        return logits

    monkeypatch.setattr(model.nar, "forward", broken)
    speech = generate(model, batch, max_frames=3)
    assert speech.broken.tolist() == [False, True, False] and not speech.finished[1]
    codec = SimpleNamespace(
        n_codebooks=BOOKS, codebook_size=CODEBOOK, decode=lambda codes, lengths: (codes[..., 0].float(), lengths)
    )
    wavs = speak(model, codec, utterances(batch)[0], batch["phonemes"], 3).wavs
    assert wavs.isnan().any(1).tolist() == [False, True, False]
    assert wavs[1].isnan().tolist() == [frame < speech.lengths[1] for frame in range(wavs.shape[1])]


def test_a_codec_of_one_book_needs_no_second_model(batch):
    model = VallE(make_model("hybrid").ar).eval()
    assert model.n_codebooks == 1
    assert make_model("hybrid").n_codebooks == BOOKS
    expected = generate(make_model("hybrid"), batch, max_frames=6)
    codes = batch["prompt_codes"]
    speech = generate(model, batch | {"prompt_codes": codes._replace(values=codes.values[..., :1])}, max_frames=6)
    assert torch.equal(speech.codes, expected.codes[..., :1])
    assert torch.equal(speech.lengths, expected.lengths)


def test_texts_and_prompts_of_any_lengths_become_sound(batch):
    model = make_model("mamba", "interleaved")
    sampler, (prompt, _) = TokenSampler(top_k=3, seed=1), utterances(batch)
    expected = generate(model, batch, max_frames=7, sampler=sampler)

    def decode(codes, lengths):
        assert torch.equal(codes, expected.codes)
        return codes[..., 1].float() / 10, lengths * 40

    codec = SimpleNamespace(n_codebooks=BOOKS, codebook_size=CODEBOOK, decode=decode)
    sampler.restart()
    speech = speak(model, codec, prompt, batch["phonemes"], 7, sampler)
    assert torch.equal(speech.wavs, expected.codes[..., 1] / 10)
    assert torch.equal(speech.lengths, expected.lengths * 40)
    assert torch.equal(speech.finished, expected.finished)
    for name, value in {"n_codebooks": 3, "codebook_size": 64}.items():
        other = SimpleNamespace(**vars(codec) | {name: value})
        with pytest.raises(ValueError, match=rf"{name} of \d+, but the codec given has {value}"):
            speak(model, other, prompt, batch["phonemes"], 7)


def test_padding_changes_nothing(any_model, unprompted):
    model = any_model
    batch, stage = unprompted, torch.tensor([1, 2, 1])
    (prompt_logits, logits), nar = run_ar(model, batch), run_nar(model, batch, stage)
    for example in range(3):
        one, rows = alone(batch, example), slice(example, example + 1)
        spoken, length = (int(batch[name].lengths[example]) for name in ("prompt_codes", "codes"))
        in_front, expected = run_ar(model, one)
        torch.testing.assert_close(prompt_logits[rows, :spoken], in_front, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[rows, : length + 1], expected, rtol=1e-4, atol=1e-5)
        expected = run_nar(model, one, stage[rows])
        torch.testing.assert_close(nar[rows, :length], expected, rtol=1e-4, atol=1e-5)


def test_speech_sees_its_text_and_prompt_but_no_later_speech(any_model, batch):
    model = any_model
    prompt_logits, logits = run_ar(model, batch)

    def difference(name, where, size):
        changed = run_ar(model, change(batch, name, where, size))
        return [(ours[0] - theirs[0]).abs().amax(-1) for ours, theirs in zip(changed, (prompt_logits, logits))]

    before, after = difference("codes", (0, 5, 0), CODEBOOK)
    assert before[:2].max() < 1e-6 and after[:6].max() < 1e-6 and after[6:].min() > 1e-6
    before, after = difference("prompt_codes", (0, 1, 0), CODEBOOK)
    assert before[:2].max() < 1e-6 and after.min() > 1e-6
    before, after = difference("prompt_phonemes", (0, 2), N_PHONEMES)
    assert before[:2].min() > 1e-6 and after.min() > 1e-6
    before, after = difference("phonemes", (0, 3), N_PHONEMES)
    assert after.min() > 1e-6
    # interleaved, the prompt comes before that text
    assert (before[:2] == 0).all() if model.ar.prompt_order == "interleaved" else before[:2].min() > 1e-6


def test_a_prompt_in_front_is_an_utterance_of_its_own(batch):
    """In the interleaved order."""
    model, (prompt, _) = make_model("mamba", "interleaved"), utterances(batch)
    prompt = Utterances(prompt.phonemes._replace(lengths=torch.tensor([3, 1, 2])), prompt.codes).first_codebook()
    logits, _ = model.ar(prompt, utterances(batch)[1].first_codebook())
    _, expected = model.ar(prompt.emptied(), prompt)
    for ours, theirs in zip(valid(logits, prompt.codes.lengths), valid(expected, prompt.codes.lengths)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_prompts_the_orders_are_the_same(batch):
    speech = utterances(batch)[1].first_codebook()
    (no_logits, logits), (_, expected) = (
        make_model("mamba", order).ar(speech.emptied(), speech) for order in ("interleaved", "joint")
    )
    assert no_logits.shape == (3, 0, CODEBOOK + 1)
    for ours, theirs in zip(valid(logits, speech.codes.lengths + 1), valid(expected, speech.codes.lengths + 1)):
        torch.testing.assert_close(ours, theirs)


def test_a_stage_sees_the_codebooks_below_it_and_the_whole_prompt(model, batch):
    stage = torch.ones(3, dtype=torch.long)
    logits = run_nar(model, batch, stage)

    def difference(name: str, book: int) -> torch.Tensor:
        changed = change(batch, name, (0, 0, book), CODEBOOK)
        return (run_nar(model, changed, stage)[0] - logits[0]).abs().max()

    assert difference("codes", 0) > 1e-6
    assert difference("codes", 1) == 0
    assert difference("prompt_codes", 2) > 1e-6
    assert (run_nar(model, batch, stage + 1) - logits).abs().max() > 1e-3


def test_cached_generation_is_that_of_whole_sequences(any_model, batch):
    """Token by token, the state has to predict what running over everything anew predicts."""
    model = any_model
    sampler = TokenSampler(top_k=20, top_p=0.95, repetition_window=4, repetition_ratio=0.3, seed=3)
    speech = generate(model, batch, max_frames=40, sampler=sampler)

    sampler.restart()
    prompt = utterances(batch)[0].first_codebook()
    finished, history = torch.zeros(3, dtype=torch.bool), torch.zeros(3, 0, dtype=torch.long)
    lengths = torch.zeros(3, dtype=torch.long)
    for frame in range(40):
        codes = Padded(history, torch.full((3,), frame))
        logits = model.ar(prompt, Utterances(batch["phonemes"], codes))[1][:, frame]
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
    # with this seed, all examples of one of these models happen to end at the same frame
    assert len(set(lengths.tolist())) > 1 or model.ar.backbone.cross == "hidden_attention"
    for example, length in enumerate(lengths.tolist()):
        assert torch.equal(history[example, :length], speech.codes[example, :length, 0])
        assert (speech.codes[example, length:] == 0).all()


def test_everything_is_made_where_the_inputs_are(any_model, batch):
    """A tensor made on the default device would not go with the others."""
    model = any_model
    with torch.device("meta"):
        assert {logits.device.type for logits in run_ar(model, batch)} == {"cpu"}
        speech = generate(model, batch, max_frames=3)
    assert speech.codes.device.type == "cpu"


def test_a_cache_grows_past_its_room():
    model = make_model("transformer")
    phonemes, codes = Padded.collate([[1, 2, 3, 4, 5]]), torch.randint(CODEBOOK, (1, 300))
    speech = Utterances(phonemes, Padded(codes, torch.tensor([300])))
    nothing = speech.emptied()
    _, state = model.ar.start(nothing._replace(codes=Padded(codes[:, :1], torch.tensor([1]))), phonemes)
    for t in range(1, 300):
        logits, state = model.ar.step(codes[:, t], state)
    expected = model.ar(nothing, speech)[1][:, -1]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(any_model, batch):
    model = any_model
    stages = [torch.full((3,), stage) for stage in (1, 2)]
    outputs = [*run_ar(model, batch), *(run_nar(model, batch, stage) for stage in stages)]
    sum(logits.square().sum() for logits in outputs).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(
    ("name", "values", "lengths", "words"),
    [
        ("prompt_codes", None, [2, 0, 5], "shorter than one frame"),
        ("phonemes", None, [4, 0, 6], "phonemes: lengths run from 0 to 6, but must lie in 1 to 6"),
        ("phonemes", None, [4, 7, 6], "phonemes: lengths run from 4 to 7, but must lie in 1 to 6"),
        (
            "prompt_phonemes",
            None,
            [3, -1, 2],
            "phonemes of the prompt: lengths run from -1 to 3, but must lie in 0 to 5",
        ),
        ("prompt_phonemes", None, [3, 6, 2], "phonemes of the prompt: lengths run from 2 to 6, but must lie in 0 to 5"),
        ("prompt_codes", None, [2, 10, 5], "prompt: lengths run from 2 to 10, but must lie in 1 to 9"),
        ("prompt_codes", torch.zeros(3, 9, 8, dtype=torch.long), None, "its codec has to be the one"),
        ("prompt_codes", torch.zeros(3, 9, dtype=torch.long), None, "its codec has to be the one"),
        ("prompt_codes", torch.full((3, 9, BOOKS), CODEBOOK), None, "prompt: tokens run from 32 to 32.* 0 to 31"),
        ("prompt_codes", torch.full((3, 9, BOOKS), -1), None, "prompt: tokens run from -1 to -1"),
        (
            "phonemes",
            torch.full((3, 7), N_PHONEMES),
            None,
            "phonemes: tokens run from 20 to 20.* 0 to 19: .* inventory",
        ),
        ("phonemes", torch.full((3, 7), -1), None, "phonemes: tokens run from -1"),
        ("prompt_phonemes", torch.full((3, 7), N_PHONEMES), None, "phonemes of the prompt: tokens run from 20 to 20"),
        ("phonemes", torch.zeros(0, 7, dtype=torch.long), [], "phonemes: lengths run from None to None"),
    ],
)
def test_bad_input_is_named(batch, name, values, lengths, words):
    old = batch[name]
    values, lengths = (
        old.values if values is None else values,
        old.lengths if lengths is None else torch.tensor(lengths),
    )
    with pytest.raises(ValueError, match=words):
        generate(make_model("mamba"), batch | {name: Padded(values, lengths)}, max_frames=3)


def test_a_prompt_of_one_frame_is_enough(batch):
    codes = batch["prompt_codes"]._replace(lengths=torch.tensor([2, 1, 5]))
    assert generate(make_model("mamba"), batch | {"prompt_codes": codes}, max_frames=3).codes.shape[0] == 3


def test_a_prompt_without_text_is_enough(batch):
    batch["prompt_phonemes"] = Padded.collate([[], [], []])
    assert generate(make_model("mamba", "interleaved"), batch, max_frames=3).codes.shape[0] == 3


def test_a_prompt_longer_than_the_model_takes_is_named(batch):
    model = make_model("mamba")
    model.max_prompt_frames = 9
    generate(model, batch, max_frames=3)
    model.max_prompt_frames = 8
    with pytest.raises(ValueError, match="9 frames, but the model takes at most 8"):
        generate(model, batch, max_frames=3)


def test_models_of_different_inventories_are_not_put_together():
    sizes = {"num_layers": 1, "d_model": 8, "d_ffn": 8, "nhead": 1}
    with pytest.raises(ValueError, match="n_phonemes is 20 in the autoregressive model, but 21 in the other"):
        VallE(AutoregressiveCodecLM(20, 32, **sizes), NonAutoregressiveCodecLM(21, 32, 3, **sizes))
    with pytest.raises(ValueError, match="codebook_size is 32 in the autoregressive model, but 16 in the other"):
        VallE(AutoregressiveCodecLM(20, 32, **sizes), NonAutoregressiveCodecLM(20, 16, 3, **sizes))
    with pytest.raises(ValueError, match="n_codebooks is 1, but with fewer than 2"):
        NonAutoregressiveCodecLM(20, 32, 1, **sizes)
    assert NonAutoregressiveCodecLM(20, 32, 2, **sizes).n_codebooks == 2


def test_an_unknown_backbone_is_named():
    with pytest.raises(ValueError, match="transformer, mamba, hybrid"):
        AutoregressiveCodecLM(20, 32, "lstm")


def test_an_order_that_a_model_cannot_have_is_named():
    with pytest.raises(ValueError, match="prompt_order is 'shuffled', but must be one of joint, interleaved"):
        AutoregressiveCodecLM(20, 32, "mamba", prompt_order="shuffled")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cross": "gated"}, "cross is 'gated', but must be one of concat"),
        ({"cross": "interleaved"}, "set prompt_order to interleaved"),
        ({"backbone": "hybrid", "cross": "hidden_attention"}, "the backbone 'hybrid' attends to the text"),
        ({"backbone": "transformer", "cross": "attention"}, "the backbone 'transformer' attends to the text"),
        ({"cross": "attention", "cross_config": {"init": "mimetic"}}, "no states to initialize"),
        ({"cross_config": {"init": "zeros"}}, "init of cross is 'zeros'"),
        ({"cross_config": {"d_state": 8}}, "d_state, which are for hidden_attention"),
        (
            {"cross": "hidden_attention", "attention_interval": 2},
            "attention_interval is 2, by which no layer of 1 reads the text by hidden_attention: .* from 1 to 1",
        ),
        ({"backbone": "hybrid"}, "attention_interval is 4, by which no layer of 1 reads the text by attention"),
        ({"attention_interval": 0}, "attention_interval is 0"),
        ({"cross": "prefix_bidirectional"}, "num_layers is 1: set it to 2 or more"),
        ({"cross_config": {"init": "mimetic"}, "mixer": "attention", "nhead": 2}, "all mixers are attention"),
    ],
)
def test_readings_that_a_model_cannot_have_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        AutoregressiveCodecLM(20, 32, **{"backbone": "mamba", "num_layers": 1, "d_model": 8, "d_ffn": 8, **options})


def test_attention_to_the_text_by_either_name():
    """A hybrid is Mamba that reads by attention."""
    sizes = {"num_layers": 2, "d_model": 8, "d_ffn": 8, "nhead": 2, "attention_interval": 2}
    models = []
    for options in ({"backbone": "hybrid"}, {"backbone": "mamba", "cross": "attention"}):
        torch.manual_seed(0)
        models.append(AutoregressiveCodecLM(20, 32, **options, **sizes).state_dict())
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())
    assert models[0].keys() == models[1].keys()
