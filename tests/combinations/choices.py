"""Which combinations of a system there are, and which of them are drawn."""

import itertools
import random

from speechbrain_mamba.nnet.mixers import BIDIRECTIONAL, MIXERS

LAYOUTS = [None, "low", "high", "spread", "every 2", [0]]
"""Layers that attend, of which combinations are drawn."""
WINDOW = 3
"""Frames that attention sees where it does not see all."""


def draw(system, forms=BIDIRECTIONAL, others=({},)):
    """Draw combinations of a system, always the same ones: each mixer, and each of the others, once at least, with a
    layout and what goes with it."""
    chance = random.Random(system)
    mixers, others = chance.sample(MIXERS, len(MIXERS)), chance.sample(others, len(others))
    for number in range(max(len(mixers), len(others))):
        other, mixer = others[number % len(others)], mixers[number % len(mixers)]
        if "init" in other.get("cross_config", {}) and mixer == "attention":
            mixer = "mamba2"  # what has states to initialize
        changes = {"mixer": mixer, "attention_layers": chance.choice(LAYOUTS), **other}
        attends = mixer == "attention" or changes["attention_layers"] is not None
        changes["attention_window"] = chance.choice([None, WINDOW]) if attends else None
        if forms:
            changes["bidirectional"] = chance.choice(forms)
        yield changes


def every(forms=BIDIRECTIONAL, others=({},)):
    """All combinations of a system: each mixer alone, with attention in some layers, and with a window there; in each
    form, and with each of the others. Of the forms beside the first one, which concern one of two models where there
    are others, each goes with the first of these only."""
    stacks = [(mixer, None, window) for mixer, window in itertools.product(MIXERS, (None, WINDOW))]
    stacks = [stack for stack in stacks if stack[0] == "attention" or stack[2] is None]
    stacks += [(mixer, "spread", window) for mixer, window in itertools.product(MIXERS, (None, WINDOW))]
    for (number, other), (mixer, layers, window), form in itertools.product(enumerate(others), stacks, forms or [None]):
        if mixer == "attention" and (layers is not None or form != (forms or [None])[0]):
            continue  # the same again
        if number and forms and form != forms[0]:
            continue
        if mixer == "attention" and _starts_states_of_mixers(other):
            continue  # refused: attention has none
        changes = {"mixer": mixer, "attention_layers": layers, **other, "attention_window": window}
        yield {**changes, "bidirectional": form} if forms else changes


def _starts_states_of_mixers(other):
    return "init" in other.get("cross_config", {}) and other["cross"] != "hidden_attention"


def name_of(system, changes):
    """What a combination is called: the changes, and the options among them, without the place that all have."""
    words = [system]
    for key, value in changes.items():
        if isinstance(value, dict):
            words += [f"{option} {one}" for option, one in value.items()]
        elif value is not None and key != "places_by":
            words.append(str(value))
    return "-".join(words)
