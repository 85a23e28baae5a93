"""Searches with cached states against SpeechBrain's, which decode the whole prefix for each token."""

import itertools

import pytest
import torch
from speechbrain.decoders import S2STransformerBeamSearcher, S2STransformerGreedySearcher
from speechbrain.decoders.scorer import CoverageScorer, CTCScorer, LengthScorer, ScorerBuilder, TransformerLMScorer
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR as SpeechBrainASR
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from speechbrain.nnet.linear import Linear

from speechbrain_mamba.decoders import S2SMambaBeamSearcher, S2SMambaGreedySearcher
from speechbrain_mamba.lobes.models.recognition.transformer_asr import TransformerASR
from tests.errors import relative_error

VOCABULARY = 20


CROSSES = {
    "attention": {"nhead": 2},
    "prefix_bidirectional": {},
    "hidden_attention": {"d_state": 8, "headdim": 8},
    "interleaved": {"init": "mimetic"},
}


def make_modules(cross="concat"):
    seq_lin, ctc_lin = (Linear(input_size=16, n_neurons=VOCABULARY) for _ in range(2))
    reading = {"cross": cross, "cross_config": CROSSES.get(cross)}
    reading |= {"places_by": ctc_lin} if cross == "interleaved" else {}
    net = TransformerASR(
        tgt_vocab=VOCABULARY, input_size=24, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=2, d_ffn=24,
        normalize_before=True, causal=False, attention_type="RelPosMHAXL", kernel_size=9,
        encoder_module="conmamba", decoder_module="mamba", mamba_config={"d_state": 4}, **reading,
    )  # fmt: skip
    with torch.no_grad():
        seq_lin.w.weight.mul_(2)  # peaked enough that hypotheses differ
    return torch.nn.ModuleList([net, seq_lin, ctc_lin]).eval()


@pytest.fixture
def modules():
    return make_modules()


@pytest.fixture
def memory(modules):
    wav_len = torch.tensor([1.0, 0.4, 0.75])
    return modules[0].encode(torch.randn(3, 20, 24), wav_len).detach(), wav_len


def make_scorer(name, ctc_lin):
    ctc = CTCScorer(ctc_fc=ctc_lin, blank_index=0, eos_index=2)
    lm = TransformerLM(vocab=VOCABULARY, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=0, d_ffn=16)
    lm = TransformerLMScorer(language_model=lm.eval(), temperature=1.15)
    if name == "ctc":
        return ScorerBuilder(full_scorers=[ctc], weights={"ctc": 0.4})
    if name == "ctc and transformerlm":
        return ScorerBuilder(full_scorers=[lm, ctc], weights={"ctc": 0.4, "transformerlm": 0.6})
    if name == "ctc alone":
        return ScorerBuilder(full_scorers=[ctc], weights={"ctc": 1.0})
    if name == "ctc on candidates, length":
        return ScorerBuilder(
            full_scorers=[LengthScorer(vocab_size=VOCABULARY)], partial_scorers=[ctc], scorer_beam_scale=1.5,
            weights={"ctc": 0.4, "length": 0.2},
        )  # fmt: skip
    return None


def assert_same(ours, theirs):
    assert [list(h) for h in ours[0]] == [list(h) for h in theirs[0]]
    assert torch.equal(torch.as_tensor(ours[1]), torch.as_tensor(theirs[1]))
    for a, b in zip(ours[2:], theirs[2:]):
        assert torch.equal(a.isinf(), b.isinf())
        assert relative_error(a.nan_to_num(neginf=0), b.nan_to_num(neginf=0)) < 1e-4


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("scorer", [None, "ctc", "ctc and transformerlm", "ctc alone", "ctc on candidates, length"])
def test_beam_search_is_that_of_whole_prefixes(modules, memory, scorer, beam_size):
    net, seq_lin, ctc_lin = modules
    options = dict(
        modules=[net, seq_lin], bos_index=1, eos_index=2, min_decode_ratio=0.1, max_decode_ratio=0.8,
        beam_size=beam_size, temperature=1.15, using_eos_threshold=False, scorer=make_scorer(scorer, ctc_lin),
        length_normalization=scorer != "ctc on candidates, length",
    )  # fmt: skip
    ours, theirs = S2SMambaBeamSearcher(**options), S2STransformerBeamSearcher(**options)
    with torch.no_grad():
        assert_same(ours(*memory), theirs(*memory))
        assert_same(ours(*memory), theirs(*memory))  # nothing is left over of the last search


@pytest.mark.parametrize("cross", CROSSES)
def test_search_with_another_cross_is_that_of_whole_prefixes(cross):
    net, seq_lin, _ = make_modules(cross)
    wav_len = torch.tensor([1.0, 0.4, 0.75])
    memory = net.encode(torch.randn(3, 20, 24), wav_len).detach()
    memory[1, 8:] = float("nan")
    if cross == "interleaved":
        places = net._places(memory, torch.tensor([20, 8, 15]))
        assert len(set(places[0].tolist())) > 2  # the targets lie in between
        assert not any(name.startswith("_places_by") or "ctc" in name for name in net.state_dict())
    options = dict(
        modules=[net, seq_lin], bos_index=1, eos_index=2, min_decode_ratio=0.1, max_decode_ratio=0.8, beam_size=4,
        using_eos_threshold=False,
    )  # fmt: skip
    with torch.no_grad():
        ours, theirs = (cls(**options)(memory, wav_len) for cls in (S2SMambaBeamSearcher, S2STransformerBeamSearcher))
    assert_same(ours, theirs)


def test_all_beams_are_those_of_whole_prefixes(modules, memory):
    options = dict(
        modules=list(modules[:2]), bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=0.5, beam_size=6,
        using_eos_threshold=True, return_topk=True, topk=4,
    )  # fmt: skip
    with torch.no_grad():
        ours, theirs = S2SMambaBeamSearcher(**options)(*memory), S2STransformerBeamSearcher(**options)(*memory)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert relative_error(ours[2], theirs[2]) < 1e-4 and relative_error(ours[3], theirs[3]) < 1e-4
    assert len({tuple(h.tolist()) for h in ours[0][0]}) > 1


def test_greedy_search_is_that_of_whole_prefixes(modules, memory):
    options = dict(modules=list(modules[:2]), bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=0.8)
    ours, theirs = S2SMambaGreedySearcher(**options)(*memory), S2STransformerGreedySearcher(**options)(*memory)
    assert_same(ours, theirs)


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_greedy_search_draws_the_tokens_of_whole_prefixes(modules, memory, temperature):
    options = dict(modules=list(modules[:2]), bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=0.8)
    drawn = []
    for searcher in (S2SMambaGreedySearcher, S2STransformerGreedySearcher):
        torch.manual_seed(3)
        drawn.append(searcher(**options, temperature=temperature)(*memory))
    assert_same(*drawn)


def all_hypotheses(modules, memory, steps, eos, temperature, normalize):
    """Scores of all token lists of a number of steps for a memory (1, frames, d_model), each list fed as a whole."""
    net, seq_lin = modules
    lists = torch.tensor(list(itertools.product(range(SMALL), repeat=steps)))
    fed = torch.cat([torch.ones(len(lists), 1, dtype=torch.long), lists[:, :-1]], 1)
    pred, _ = net.decode(fed, memory.expand(len(lists), -1, -1), torch.full((len(lists),), memory.shape[1]))
    each = (seq_lin(pred) / temperature).log_softmax(-1).gather(-1, lists[..., None])[..., 0]
    scores = {}
    for tokens, row in zip(lists.tolist(), each):
        length = tokens.index(eos) + 1 if eos in tokens else steps
        score = row[:length].sum().item() / (length if normalize else 1)
        said = tuple(tokens[: length - 1])  # the last one is the end, or counts as such
        scores[said] = max(score, scores.get(said, score))
    return scores


SMALL = 5


@pytest.mark.parametrize("eos, temperature, normalize", [(2, 1.0, True), (2, 1.7, False), (4, 0.8, True)])
def test_a_beam_of_all_finds_the_best_of_all(modules, memory, eos, temperature, normalize):
    net = TransformerASR(
        tgt_vocab=SMALL, input_size=24, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=2, d_ffn=24,
        normalize_before=True, causal=False, encoder_module="conmamba", decoder_module="mamba",
        mamba_config={"d_state": 4},
    )  # fmt: skip
    seq_lin = Linear(input_size=16, n_neurons=SMALL)
    with torch.no_grad():
        seq_lin.w.weight.mul_(1.5)
    net.eval()
    frames, lens = memory
    searcher = S2SMambaBeamSearcher(
        modules=[net, seq_lin], bos_index=1, eos_index=eos, min_decode_ratio=0.0, max_decode_ratio=0.15,
        beam_size=SMALL**3, temperature=temperature, using_eos_threshold=False, length_normalization=normalize,
    )  # fmt: skip
    with torch.no_grad():
        hypotheses, _, scores, _ = searcher(frames, lens)
        for i, length in enumerate((20, 8, 15)):
            every = all_hypotheses([net, seq_lin], frames[i : i + 1, :length], 3, eos, temperature, normalize)
            best = max(every, key=every.get)
            assert hypotheses[i] == list(best)
            assert scores[i].item() == pytest.approx(every[best], abs=1e-4)


def test_memory_is_consumed_once_and_tokens_one_by_one(modules, memory, monkeypatch):
    net, calls = modules[0], []
    for layer in net.decoder.layers:
        forward = layer.cross_mamba.forward
        monkeypatch.setattr(
            layer.cross_mamba, "forward", lambda x, *a, f=forward, **k: (calls.append(tuple(x.shape)), f(x, *a, **k))[1]
        )
    searcher = S2SMambaBeamSearcher(
        modules=list(modules[:2]), bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=0.8, beam_size=5
    )
    with torch.no_grad():
        searcher(*memory)
    assert calls == [(3, 20, 16)] * 2


def test_no_more_tokens_than_positions(modules, memory):
    net, seq_lin, _ = modules
    net.positional_encoding_decoder.max_len = 7
    with torch.no_grad():
        seq_lin.w.bias[2] = -1e4  # never ends on its own
    options = dict(modules=[net, seq_lin], bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=1.0)
    with torch.no_grad():
        beam = S2SMambaBeamSearcher(**options, beam_size=3, using_eos_threshold=False)(*memory)
        greedy = S2SMambaGreedySearcher(**options)(*memory)
    assert max(len(h) for h in beam[0]) <= 7 and max(len(h) for h in greedy[0]) <= 7


def test_errors(modules):
    net, seq_lin, _ = modules
    options = dict(bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=1.0)
    attention = TransformerASR(
        tgt_vocab=VOCABULARY, input_size=24, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=1, d_ffn=24,
        normalize_before=True, causal=False,
    )  # fmt: skip
    for cls, more in ((S2SMambaBeamSearcher, {"beam_size": 2}), (S2SMambaGreedySearcher, {})):
        for model in (attention, SpeechBrainASR(VOCABULARY, 24, 16, 2, 1, 1, 24)):
            with pytest.raises(TypeError, match="The model, a TransformerASR, has no Mamba decoder"):
                cls(modules=[model, seq_lin], **options, **more)
    with pytest.raises(ValueError, match="using_max_attn_shift is True"):
        S2SMambaBeamSearcher(modules=[net, seq_lin], beam_size=2, using_max_attn_shift=True, **options)
    scorer = ScorerBuilder(full_scorers=[CoverageScorer(vocab_size=VOCABULARY)], weights={"coverage": 0.3})
    with pytest.raises(ValueError, match="has a coverage scorer"):
        S2SMambaBeamSearcher(modules=[net, seq_lin], beam_size=2, scorer=scorer, **options)


def test_searches_that_could_find_nothing_are_told(modules, memory):
    options = dict(modules=list(modules[:2]), bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=1.0)
    for wrong, message in (
        ({"beam_size": 0}, "beam_size is 0"),
        ({"beam_size": 2, "temperature": 0}, "temperature is 0"),
        ({"beam_size": 2, "topk": 0}, "topk is 0"),
        ({"beam_size": 2, "min_decode_ratio": 1.2}, "min_decode_ratio is 1.2, above max_decode_ratio"),
    ):
        with pytest.raises(ValueError, match=message):
            S2SMambaBeamSearcher(**{**options, **wrong})
    with pytest.raises(ValueError, match="max_decode_ratio is 0, but must be above 0"):
        S2SMambaGreedySearcher(**{**options, "max_decode_ratio": 0})
    few = {**options, "max_decode_ratio": 0.04}
    for search in (S2SMambaBeamSearcher(**few, beam_size=2), S2SMambaGreedySearcher(**few)):
        with pytest.raises(ValueError, match=r"max_decode_ratio is 0\.04, which leaves 0 steps to decode"):
            search(*memory)


@pytest.mark.parametrize(("limit", "steps"), [(None, (2, 90)), (30, (2, 30)), (300, (2, 90))])
def test_a_search_takes_no_more_steps_than_the_decoder_has_positions(modules, monkeypatch, limit, steps):
    monkeypatch.setattr(type(modules[0]), "max_target_length", limit)
    search = S2SMambaGreedySearcher(
        modules=list(modules[:2]), bos_index=1, eos_index=2, min_decode_ratio=0.0, max_decode_ratio=1.0
    )
    assert search.change_max_decoding_length(2, 90) == steps
