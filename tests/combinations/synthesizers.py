"""Synthesizers: VALL-M and its hybrid, and VALL-E, whose speech reads the text in each way and order."""

import itertools
from types import SimpleNamespace

import torch

from speechbrain_mamba.codecs import EnCodec
from speechbrain_mamba.dataio.prompted_batch import Padded, Utterances
from speechbrain_mamba.inference.synthesis import SpeechSynthesizer, export_synthesizer
from speechbrain_mamba.text.phonemes import TextTokenizer
from speechbrain_mamba.utils.hparams import load_hparams, read_hparams
from tests.combinations.decoders import MIMETIC
from tests.combinations.outcome import Outcome, train
from tests.conftest import HPARAMS
from tests.errors import relative_error, same_weights
from tests.inference.test_synthesis import CODEC, GREEDY

ORDERS = ({"prompt_order": "joint"}, {"prompt_order": "interleaved"})
DRAWN = [
    {"cross": "concat", "cross_config": MIMETIC},
    {"cross": "attention"},
    {"cross": "hidden_attention"},
    {"cross": "hidden_attention", "cross_config": {"positions": False, **MIMETIC}},
    {"cross": "prefix_bidirectional"},
    {"cross": "prefix_bidirectional", "cross_config": MIMETIC},
]
ALL = [
    {"cross": kind, **({"cross_config": config} if config else {})}
    for kind, configs in {
        "concat": ({}, MIMETIC),
        "attention": ({},),
        "hidden_attention": ({}, MIMETIC, {"positions": False}, {"positions": False, **MIMETIC}),
        "prefix_bidirectional": ({}, MIMETIC),
    }.items()
    for config in configs
]
SYNTHESIZERS = {
    "mini_vallm": {"others": [{**reading, **order} for reading, order in zip(DRAWN, itertools.cycle(ORDERS))]},
    "mini_vallm_hybrid": {"others": ORDERS},
    "mini_valle": {"others": ORDERS, "forms": ("inner", "outer")},
}
"""Arguments of :func:`~tests.combinations.choices.draw`."""
ALL_SYNTHESIZERS = {
    "mini_vallm": {"others": [{**reading, **order} for reading in ALL for order in ORDERS]},
    "mini_vallm_hybrid": {"others": ORDERS},
    "mini_valle": {"others": ORDERS},
}
"""Arguments of :func:`~tests.combinations.choices.every`."""


def make_synthesizer(name, changes):
    """A tiny synthesizer, its hyper-parameters, and what its stacks are trained on."""
    path = HPARAMS / "tts" / f"{name}.yaml"
    sizes = {**GREEDY, "d_ffn": 16, "nhead": 2, "attention_interval": 2, "dropout": 0.0, **changes}
    if name == "mini_valle":  # whose attention sets the size: with 16 channels too little for Mamba to meet it
        sizes["d_model"] = 32
    modules = load_hparams(path, sizes)["modules"]
    ar, nar = modules["ar"], modules["nar"]
    phonemes = Padded(torch.randint(8, (2, 5)), torch.tensor([5, 3]))
    speech = Utterances(phonemes, Padded(torch.randint(16, (2, 9, 4)), torch.tensor([9, 6])))
    prompt = Utterances(
        Padded(torch.randint(8, (2, 3)), torch.tensor([3, 2])),
        Padded(torch.randint(16, (2, 4, 4)), torch.tensor([4, 3])),
    )
    stage = torch.tensor([1, 3])

    def loss():
        _, logits = ar(prompt.first_codebook(), speech.first_codebook())
        first = torch.nn.functional.cross_entropy(logits[:, :6].flatten(0, 1), speech.codes.values[:, :6, 0].flatten())
        later = nar(prompt, speech, stage)[:, :6]
        target = speech.codes.values[torch.arange(2), :6, stage]
        return first + torch.nn.functional.cross_entropy(later.flatten(0, 1), target.flatten())

    layers = [*ar.backbone.layers.named_parameters("ar"), *nar.backbone.layers.named_parameters("nar")]
    return SimpleNamespace(
        modules=modules, text=read_hparams(path, sizes), prompt=prompt, speech=speech, stage=stage, loss=loss,
        trained=[(name, parameter) for name, parameter in layers if ".norm" not in name],
    )  # fmt: skip


def only(utterances, example):
    """One utterance of a batch, without padding."""
    return Utterances(
        *(
            Padded(part.values[example : example + 1, : part.lengths[example]], part.lengths[example : example + 1])
            for part in utterances
        )
    )


@torch.no_grad()
def predict(modules, made, example=None):
    """The logits of both models for the speech of all examples, or of one alone."""
    speech, prompt, stage = made.speech, made.prompt, made.stage
    if example is not None:
        speech, prompt, stage = only(speech, example), only(prompt, example), stage[example : example + 1]
    return modules["ar"](prompt.first_codebook(), speech.first_codebook())[1], modules["nar"](prompt, speech, stage)


@torch.no_grad()
def largest_difference_of_steps(made, whole):
    """Between the logits of single steps and of the whole, among valid frames of any example."""
    logits, state = made.modules["ar"].start(made.prompt.first_codebook(), made.speech.phonemes)
    found, (codes, lengths) = [logits], made.speech.codes
    for tokens in codes[:, :-1, 0].unbind(1):
        logits, state = made.modules["ar"].step(tokens, state)
        found.append(logits)
    steps = torch.stack(found, 1)
    return max(relative_error(steps[i, :length], whole[i, :length]) for i, length in enumerate(lengths))


def try_synthesizer(name, changes, folder, steps):
    """Train both models, generate a padded batch at once and token by token, export and load."""
    made = make_synthesizer(name, changes)
    training = train(made.trained, made.loss, steps)
    made.modules["ar"].eval(), made.modules["nar"].eval()
    whole, alone, short = predict(made.modules, made), predict(made.modules, made, 1), made.speech.codes.lengths[1]
    padding = max(relative_error(one[1:, :short], other[:, :short]) for one, other in zip(whole, alone))
    tokenizer = TextTokenizer.train(["one two three"], "characters")
    export_synthesizer(folder / "model", made.text, made.modules, tokenizer, EnCodec(**CODEC))
    loaded = SpeechSynthesizer.from_hparams(folder / "model").mods
    same = all(same_weights(loaded[part], module) for part, module in made.modules.items())
    again = max(relative_error(one, other) for one, other in zip(predict(loaded, made), whole))
    return Outcome(
        **vars(training),
        padding=padding,
        pieces=largest_difference_of_steps(made, whole[0]),
        loaded=again if same else float("inf"),
    )
