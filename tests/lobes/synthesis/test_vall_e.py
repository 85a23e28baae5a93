"""Codec language models: padding, cached generation, stages, and errors in words."""

from __future__ import annotations

import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_mamba.decoders.sampling import TokenSampler
from speechbrain_mamba.lobes.models.synthesis import AutoregressiveCodecLM, NonAutoregressiveCodecLM, VallE
from speechbrain_mamba.lobes.models.synthesis.backbone import (
    BACKBONES,
    AdaptiveLayerNorm,
    CodecLanguageBackbone,
    CodecLanguageLayer,
)
from speechbrain_mamba.lobes.models.synthesis.embeddings import TokenEmbedding
from speechbrain_mamba.lobes.models.synthesis.packing import Packing, split_at
from speechbrain_mamba.lobes.models.synthesis.speech import speak
from speechbrain_mamba.nnet.mamba import BiMamba, Mamba

N_PHONEMES, CODEBOOK, BOOKS = 20, 32, 4
NHEAD = 4
SAID, SPOKEN = torch.tensor([3, 0, 2]), torch.tensor([5, 0, 1])  # phonemes and frames that are a prompt's


def make_model(backbone: str, prompt_order: str = "joint", positions: bool | None = None) -> VallE:
    """A small model with weights far enough from zero for its outputs to depend on everything."""
    torch.manual_seed(0)
    sizes = {"backbone": backbone, "num_layers": 3, "d_model": 16, "d_ffn": 32, "nhead": NHEAD, "attention_interval": 2}
    ar, nar = (
        AutoregressiveCodecLM(N_PHONEMES, CODEBOOK, **sizes, prompt_order=prompt_order, positions=positions),
        NonAutoregressiveCodecLM(N_PHONEMES, CODEBOOK, BOOKS, **sizes),
    )
    model = VallE(ar, nar).eval()
    ar.head.bias.data[CODEBOOK] += 2  # so that speech comes to its end
    for name, parameter in model.named_parameters():
        if "norm" in name or "position_weight" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith(("scale", "weight")) else 0.0, 0.5)
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

    def mix(self, name: str, x: torch.Tensor, text: int) -> torch.Tensor:
        if f"{name}.q_proj.weight" in self.weights:
            frames = torch.arange(len(x))
            seen = (frames <= frames[:, None]) | (frames < text) & (frames[:, None] < text) | (not self.causal)
            return self.attend(name, x, x, seen)
        layer = (Mamba if self.causal else BiMamba)(self.width)
        layer.load_state_dict({n.removeprefix(f"{name}."): w for n, w in self.weights.items() if n.startswith(name)})
        return layer(x[None])[0]

    def run(self, x: torch.Tensor, text: int, stage: int | None = None) -> torch.Tensor:
        """All layers over a whole sequence that begins with so many phonemes."""
        for depth in itertools.count():
            name = f"backbone.layers.{depth}"
            if f"{name}.ffn.ffn.0.weight" not in self.weights:
                return self.norm("backbone.norm", x, stage)
            x = x + self.mix(f"{name}.mixer", self.norm(f"{name}.norm1", x, stage), text)
            if f"{name}.text_attention.q_proj.weight" in self.weights:
                y = self.norm(f"{name}.norm_text", x, stage)
                x = x + self.attend(f"{name}.text_attention", y, y[:text], torch.tensor(True))
            y = self.linear(f"{name}.ffn.ffn.0", self.norm(f"{name}.norm2", x, stage))
            x = x + self.linear(f"{name}.ffn.ffn.3", F.gelu(y))

    def first_book(self, phonemes: list[int], codes: list[int], said: int, spoken: int) -> torch.Tensor:
        """Logits of each code and the end; ``said`` phonemes and ``spoken`` codes in front are an utterance of their
        own."""
        bos, texts, speeches = CODEBOOK + 1, (phonemes[:said], phonemes[said:]), (codes[:spoken], codes[spoken:])
        parts, is_asked = [], []
        for text, speech, last in zip(texts, speeches, (False, True)):
            parts += [self.embed("phoneme", text)] if text else []
            parts += [self.embed("code", [bos, *speech])] if speech or last else []
            # behind a prompt's last code comes no other
            is_asked += [False] * len(text) + ([True] * len(speech) + [last] if speech or last else [])
        return self.linear("head", self.run(torch.cat(parts), len(phonemes))[torch.tensor(is_asked)])

    def further_book(self, phonemes: list[int], prompt: torch.Tensor, codes: torch.Tensor, book: int) -> torch.Tensor:
        """Logits of one book's codes, from (frames, books)."""
        parts = [
            self.embed("phoneme", phonemes),
            self.embed("code", *prompt.T.tolist()),
            self.embed("code", *codes.T.tolist()[:book], first=len(prompt)),
        ]
        x = self.run(torch.cat(parts), len(phonemes), book)[-len(codes) :]
        return x @ self.weights["code_embedding.embedding.weight"][book * CODEBOOK : (book + 1) * CODEBOOK].T


def unpadded(batch: dict, example: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Phonemes, prompt and codes of an example."""
    one = alone(batch, example)
    return one["phonemes"][0].tolist(), one["prompt_codes"][0], one["codes"][0]


@torch.no_grad()
def test_the_first_book_is_predicted_as_the_formulas_say(model, batch):
    logits, formula = run_ar(model, batch), Formula(model.ar)
    for example in range(3):
        phonemes, _, codes = unpadded(batch, example)
        in_front = (0, 0) if model.ar.prompt_order == "joint" else (int(SAID[example]), int(SPOKEN[example]))
        expected = formula.first_book(phonemes, codes[:, 0].tolist(), *in_front)
        torch.testing.assert_close(logits[example, : len(codes) + 1], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_prompts_may_have_text_or_speech_alone(batch):
    model = make_model("mamba", "interleaved", True)
    said, spoken = torch.tensor([0, 0, 3]), torch.tensor([4, 6, 0])
    inputs = batch["phonemes"], batch["phoneme_lengths"], batch["codes"][..., 0], batch["code_lengths"]
    logits, formula = model.ar(*inputs, (said, spoken)), Formula(model.ar)
    for example in range(3):
        phonemes, _, codes = unpadded(batch, example)
        expected = formula.first_book(phonemes, codes[:, 0].tolist(), int(said[example]), int(spoken[example]))
        torch.testing.assert_close(logits[example, : len(codes) + 1], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_further_books_are_predicted_as_the_formulas_say(model, batch):
    formula = Formula(model.nar)
    for stages in ([1, 2, 3], [3, 1, 2]):
        logits = model.nar(**batch, stage=torch.tensor(stages))
        for example, stage in enumerate(stages):
            expected = formula.further_book(*unpadded(batch, example), stage)
            torch.testing.assert_close(logits[example, : len(expected)], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_further_books_are_the_likeliest_ones_one_after_the_other(model, batch):
    inputs = [batch[name] for name in ("phonemes", "phoneme_lengths", "prompt_codes", "prompt_lengths")]
    completed = model.nar.complete(*inputs, batch["codes"][..., 0], batch["code_lengths"])
    formula = Formula(model.nar)
    for example in range(3):
        phonemes, prompt, codes = unpadded(batch, example)
        expected = codes[:, :1]
        for book in range(1, BOOKS):
            likeliest = formula.further_book(phonemes, prompt, expected, book).argmax(1)
            expected = torch.cat([expected, likeliest[:, None]], 1)
        assert torch.equal(completed[example, : len(codes)], expected)
        assert (completed[example, len(codes) :] == 0).all()


def test_text_padded_beyond_everything_else_changes_nothing(model, batch):
    wide = batch | {"phonemes": F.pad(batch["phonemes"], (0, 40))}
    stage = torch.tensor([1, 3, 2])
    torch.testing.assert_close(run_ar(model, wide), run_ar(model, batch), rtol=1e-4, atol=1e-5)
    expected = model.nar(**batch, stage=stage)
    torch.testing.assert_close(model.nar(**wide, stage=stage), expected, rtol=1e-4, atol=1e-5)


def test_codes_padded_beyond_the_longest_change_nothing(model, batch):
    wide = batch | {"codes": F.pad(batch["codes"], (0, 0, 0, 15))}
    logits, expected, stage = run_ar(model, wide), run_ar(model, batch), torch.tensor([1, 3, 2])
    assert logits.shape == (3, 28, CODEBOOK + 1)
    assert expected.shape == (3, 13, CODEBOOK + 1)
    further, expected_further = model.nar(**wide, stage=stage), model.nar(**batch, stage=stage)
    assert further.shape == (3, 27, CODEBOOK)
    for example, length in enumerate(batch["code_lengths"].tolist()):
        ours, theirs = logits[example, : length + 1], expected[example, : length + 1]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        ours, theirs = further[example, :length], expected_further[example, :length]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("interval", "num_layers", "attending"), [(4, 9, {3, 7}), (3, 7, {2, 5}), (1, 2, {0, 1}), (4, 3, set())]
)
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
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    assert (defaults["nhead"], defaults["dropout"]) == (16, 0.1)


@pytest.mark.parametrize("kind", [AutoregressiveCodecLM, NonAutoregressiveCodecLM])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_dropout_is_everywhere_and_in_training_alone(kind, backbone, batch):
    sizes = {"backbone": backbone, "num_layers": 2, "d_model": 16, "d_ffn": 8, "nhead": 2, "attention_interval": 1}
    lm = kind(N_PHONEMES, CODEBOOK, **sizes, dropout=0.3)
    rates = [m.p if isinstance(m, nn.Dropout) else m.dropout for m in lm.modules() if isinstance(m, nn.Dropout) or
             isinstance(getattr(m, "dropout", None), float)]  # fmt: skip
    attending = {"transformer": 1, "mamba": 0, "hybrid": 1}[backbone]
    assert rates == [0.3] * (2 + 2 * (2 + attending))  # embeddings; in each layer its branches, and within them
    one = torch.ones(1, dtype=torch.long)
    inputs = [torch.zeros(1, 3, dtype=torch.long), 3 * one]
    if kind is AutoregressiveCodecLM:
        inputs += [torch.zeros(1, 4, dtype=torch.long), 4 * one]
    else:
        inputs += [
            torch.zeros(1, 2, 8, dtype=torch.long),
            2 * one,
            torch.zeros(1, 4, 8, dtype=torch.long),
            4 * one,
            one,
        ]
    assert not torch.equal(lm(*inputs), lm(*inputs))
    lm.eval()
    assert torch.equal(lm(*inputs), lm(*inputs))


def test_all_branches_of_a_layer_and_all_embeddings_can_be_dropped():
    layer = CodecLanguageLayer(Mamba(8), 8, 16, dropout=1.0)
    x, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    assert torch.equal(layer(x, lengths, lengths, 5)[0], x)
    assert not torch.equal(layer.eval()(x, lengths, lengths, 5)[0], x)
    embedding = TokenEmbedding(10, 8, dropout=1.0)
    assert not embedding(torch.tensor([[1, 2]])).any()
    assert embedding.eval()(torch.tensor([[1, 2]])).all()


def test_defaults_of_a_stack_are_those_it_says():
    """In training, so that dropout would show."""
    x, lengths = torch.randn(2, 6, 32), torch.tensor([6, 4])

    def run(**options):
        torch.manual_seed(0)
        return CodecLanguageBackbone("hybrid", 5, 32, 8, **options)(x, lengths, lengths - 3, 3)

    said = {"nhead": 16, "causal": True, "dropout": 0.0, "mamba_config": {}, "attention_interval": 4, "n_stages": 0}
    assert torch.equal(run(), run(**said))
    for other in ({"nhead": 8}, {"causal": False}, {"dropout": 0.5}, {"attention_interval": 3}):
        assert not torch.equal(run(), run(**said | other))


def test_options_of_the_scan_reach_every_layer():
    sizes = {"num_layers": 2, "d_model": 8, "d_ffn": 8, "nhead": 2, "mamba_config": {"d_state": 5, "d_conv": 3}}
    for backbone, kind in itertools.product(("mamba", "hybrid"), (AutoregressiveCodecLM, NonAutoregressiveCodecLM)):
        layers = [m for m in kind(N_PHONEMES, CODEBOOK, backbone=backbone, **sizes).modules() if hasattr(m, "d_state")]
        assert [(type(layer), layer.d_state, layer.d_conv) for layer in layers] == [
            (Mamba if kind is AutoregressiveCodecLM else BiMamba, 5, 3)
        ] * 2


@pytest.mark.parametrize("positions", [None, False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_positions_are_there_by_default_where_the_backbone_attends(backbone, positions):
    sizes = {"num_layers": 1, "d_model": 16, "d_ffn": 8}
    ar = AutoregressiveCodecLM(N_PHONEMES, CODEBOOK, backbone, positions=positions, **sizes)
    nar = NonAutoregressiveCodecLM(N_PHONEMES, CODEBOOK, backbone=backbone, **sizes)
    attends = backbone != "mamba"
    for lm, expected in ((ar, attends if positions is None else positions), (nar, attends)):
        weights = [w for name, w in lm.named_parameters() if name.endswith("position_weight")]
        assert [w.item() for w in weights] == [0.25] * (2 if expected else 0)


def test_positions_of_vectors_start_where_they_are_told():
    """Channels of sines, then of cosines, at 1 and 0.01 radians per step; at first of the size of the embeddings."""
    embedding = TokenEmbedding(1000, 4)
    assert embedding.embedding.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert embedding.embedding.weight.mean().item() == pytest.approx(0, abs=0.05)
    x, first = torch.zeros(2, 3, 4), torch.tensor([0, 7])
    expected = torch.stack([first[:, None] + torch.arange(3), (first[:, None] + torch.arange(3)) / 100], 2)
    expected = 0.5 * torch.cat([expected.sin(), expected.cos()], 2)
    torch.testing.assert_close(embedding.place(x, first), expected)
    torch.testing.assert_close(embedding.place(x, 7)[0], expected[1])
    torch.testing.assert_close(embedding.place(x)[1], expected[0])
    tokens = torch.tensor([[4, 5], [999, 0]])
    added = embedding(tokens, first) - embedding.embedding.weight[tokens]
    torch.testing.assert_close(added, expected[:, :2])
    plain = TokenEmbedding(9, 4, positions=False)
    assert torch.equal(plain(tokens % 9, first), plain.embedding.weight[tokens % 9])


def test_norms_of_stages_are_plain_at_first():
    norm, x = AdaptiveLayerNorm(8, n_stages=3), torch.randn(2, 5, 8)
    for stage in range(3):
        torch.testing.assert_close(norm(x, torch.tensor([stage, 0])), F.layer_norm(x, (8,)))
    assert [(name, tuple(p.shape)) for name, p in norm.named_parameters()] == [("scale", (3, 8)), ("shift", (3, 8))]
    assert len(list(AdaptiveLayerNorm(8).parameters())) == 2


def test_parts_are_put_one_after_the_other_without_what_pads_them():
    lengths = [torch.tensor([2, 3]), torch.tensor([0, 2]), torch.tensor([3, 1])]
    parts = [torch.arange(2 * time * 2.0).reshape(2, time, 2) + 100 * time for time in (3, 4, 5)]
    for part, length in zip(parts, lengths):
        part[torch.arange(part.shape[1]) >= length[:, None]] = torch.nan
    packing = Packing(lengths, [3, 4, 5])
    whole = packing.pack(parts)
    assert packing.lengths.tolist() == [5, 6]
    assert whole.shape == (2, 6, 2)
    for example in range(2):
        expected = torch.cat([part[example, : length[example]] for part, length in zip(parts, lengths)])
        assert torch.equal(whole[example, : len(expected)], expected)
        assert not whole[example, len(expected) :].any()
    for index, part in enumerate(parts):
        assert torch.equal(packing.unpack(whole, index), part.nan_to_num(0))


@pytest.mark.parametrize("shape", [(), (2,)])
def test_examples_are_split_where_they_are_told(shape):
    whole, lengths = torch.arange(3 * 5 * 2).reshape(3, 5, 2), torch.tensor([0, 2, 3])
    whole = whole if shape else whole[..., 0]
    first, second = split_at(whole, lengths)
    assert first.shape == (3, 3, *shape)
    assert second.shape == (3, 5, *shape)
    assert split_at(whole, lengths.clamp(min=1))[1].shape == (3, 4, *shape)
    shortest = split_at(whole[:2, :1], torch.tensor([0, 1]))
    assert torch.equal(shortest[1][0], whole[0, :1]) and torch.equal(shortest[0][1], whole[1, :1])
    for example, length in enumerate(lengths):
        assert torch.equal(first[example, :length], whole[example, :length])
        assert torch.equal(second[example, : 5 - length], whole[example, length:])


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
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("code")}
    speech = model.generate(**inputs, max_frames=max_frames, sampler=script.sample if sampled else None)
    assert speech.codes[..., 0].tolist() == codes
    assert speech.lengths.tolist() == lengths
    assert speech.finished.tolist() == finished
    assert script.fed == fed
    rows = torch.tensor(codes)
    for frame, (likeliest, history) in enumerate(script.asked):
        assert likeliest == [[5, 9, 1], [EOS, 7, 2], [6, 8, EOS], [6, EOS, 3]][frame]
        assert history == rows[:, :frame].tolist()
    assert bool(script.asked) == sampled
    expected = model.nar.complete(*inputs.values(), rows, torch.tensor(lengths))
    assert torch.equal(speech.codes, expected)
    assert torch.equal(script.started[2], batch["prompt_codes"][..., 0])
    assert script.started[4] is None


def test_a_codec_of_one_book_needs_no_second_model(batch):
    model = VallE(make_model("hybrid").ar).eval()
    assert model.n_codebooks == 1
    assert make_model("hybrid").n_codebooks == BOOKS
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("code")}
    expected = make_model("hybrid").generate(**inputs, max_frames=6)
    inputs["prompt_codes"] = inputs["prompt_codes"][..., :1]
    speech = model.generate(**inputs, max_frames=6)
    assert torch.equal(speech.codes, expected.codes[..., :1])
    assert torch.equal(speech.lengths, expected.lengths)


def test_texts_and_prompts_of_any_lengths_become_sound(batch):
    """Each example says what it says in the tensors that the models take."""
    model = make_model("mamba", "interleaved")
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("code")}
    sampler = TokenSampler(top_k=3, seed=1)
    expected = model.generate(**inputs, max_frames=7, sampler=sampler, prompt_phoneme_lengths=SAID)

    def decode(codes, lengths):
        assert torch.equal(codes, expected.codes)
        return codes[..., 1].float() / 10, lengths * 40

    codec = SimpleNamespace(n_codebooks=BOOKS, codebook_size=CODEBOOK, decode=decode)
    phonemes, prompts = zip(*(unpadded(batch, example)[:2] for example in range(3)))
    sampler.restart()
    speech = speak(model, codec, phonemes, SAID.tolist(), prompts, 7, sampler)
    assert torch.equal(speech.wavs, expected.codes[..., 1] / 10)
    assert torch.equal(speech.lengths, expected.lengths * 40)
    assert torch.equal(speech.finished, expected.finished)
    for name, value in {"n_codebooks": 3, "codebook_size": 64}.items():
        other = SimpleNamespace(**vars(codec) | {name: value})
        with pytest.raises(ValueError, match=rf"{name} of \d+, but the codec given has {value}"):
            speak(model, other, phonemes, SAID.tolist(), prompts, 7)


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


def test_everything_is_made_where_the_inputs_are(model, batch):
    """A tensor made on the default device would not go with the others."""
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("code")}
    with torch.device("meta"):
        assert run_ar(model, batch).device.type == "cpu"
        speech = model.generate(**inputs, max_frames=3, prompt_phoneme_lengths=SAID)
    assert speech.codes.device.type == "cpu"


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
        ({"phoneme_lengths": torch.tensor([7, 0, 4])}, "phonemes: lengths run from 0 to 7, but must lie in 1 to 7"),
        ({"phoneme_lengths": torch.tensor([8, 1, 4])}, "phonemes: lengths run from 1 to 8, but must lie in 1 to 7"),
        ({"prompt_lengths": torch.tensor([2, 10, 5])}, "prompt: lengths run from 2 to 10, but must lie in 1 to 9"),
        ({"prompt_codes": torch.zeros(3, 9, 8, dtype=torch.long)}, "its codec has to be the one"),
        ({"prompt_codes": torch.zeros(3, 9, dtype=torch.long)}, "its codec has to be the one"),
        ({"prompt_codes": torch.full((3, 9, BOOKS), CODEBOOK)}, "prompt: tokens run from 32 to 32.* 0 to 31"),
        ({"prompt_codes": torch.full((3, 9, BOOKS), -1)}, "prompt: tokens run from -1 to -1"),
        ({"phonemes": torch.full((3, 7), N_PHONEMES)}, "phonemes: tokens run from 20 to 20.* 0 to 19: .* inventory"),
        ({"phonemes": torch.full((3, 7), -1)}, "phonemes: tokens run from -1"),
        (
            {"phonemes": torch.zeros(0, 7, dtype=torch.long), "phoneme_lengths": torch.zeros(0, dtype=torch.long)},
            "phonemes: lengths run from None to None",
        ),
    ],
)
def test_bad_input_is_named(batch, change, words):
    model, inputs = make_model("mamba"), {name: t for name, t in batch.items() if not name.startswith("code")}
    with pytest.raises(ValueError, match=words):
        model.generate(**inputs | change, max_frames=3)


def test_a_prompt_of_one_frame_is_enough(batch):
    inputs = {name: t for name, t in batch.items() if not name.startswith("code")}
    speech = make_model("mamba").generate(**inputs | {"prompt_lengths": torch.tensor([2, 1, 5])}, max_frames=3)
    assert speech.codes.shape[0] == 3


def test_a_prompt_longer_than_the_model_takes_is_named(batch):
    model = make_model("mamba")
    inputs = {name: t for name, t in batch.items() if not name.startswith("code")}
    model.max_prompt_frames = 9
    model.generate(**inputs, max_frames=3)
    model.max_prompt_frames = 8
    with pytest.raises(ValueError, match="9 frames, but the model takes at most 8"):
        model.generate(**inputs, max_frames=3)


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


def test_an_order_that_a_model_cannot_have_is_named(batch):
    with pytest.raises(ValueError, match="prompt_order is 'shuffled', but must be one of joint, interleaved"):
        AutoregressiveCodecLM(20, 32, "mamba", prompt_order="shuffled")
    with pytest.raises(ValueError, match="the backbone 'hybrid' attends to text that has to be in one piece"):
        AutoregressiveCodecLM(20, 32, "hybrid", prompt_order="interleaved")
    model = make_model("mamba", "interleaved")
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("code")}
    with pytest.raises(ValueError, match="give prompt_phoneme_lengths"):
        model.generate(**inputs, max_frames=3)
    for said in ([3, 1, 2], [3, -1, 2]):
        with pytest.raises(ValueError, match=rf"prompt_phoneme_lengths are \[3, {said[1]}, 2\], but must be"):
            model.generate(**inputs, max_frames=3, prompt_phoneme_lengths=torch.tensor(said))
