"""The recognition recipes as modules, and a recognizer with nothing to learn: its audio spells the tokens, sample by
sample, and its networks read them."""

import importlib
import sys
from types import SimpleNamespace

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import nn

from speechbrain_mamba.utils.checkpoints import AtomicCheckpointer
from tests.conftest import HPARAMS

RECIPE = HPARAMS.parent / "recipes" / "asr"
LETTERS = " ABCDEFGHIJKLMNOPQRST"
BLANK, BOS, EOS, FIRST = 0, 1, 2, 3
N_TOKENS = FIRST + len(LETTERS)
KEYS = ["id", "sig", "wrd", "tokens", "tokens_bos", "tokens_eos"]


def importer(monkeypatch):
    """A function that imports a module of the recipes, again in each test."""
    monkeypatch.syspath_prepend(RECIPE)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # SpeechBrain replaces it
    for file in RECIPE.glob("*.py"):
        sys.modules.pop(file.stem, None)
    return importlib.import_module


class Alphabet:
    """A tokenizer of characters."""

    def encode(self, text):
        return [FIRST + LETTERS.index(letter) for letter in text]

    def decode(self, tokens):
        return "".join(LETTERS[token - FIRST] for token in tokens)

    def id_to_piece(self, token):
        return ["<unk>", "<s>", "</s>", *LETTERS][token].replace(" ", "▁")

    def vocab_size(self):
        return N_TOKENS

    def is_control(self, token):
        return token in (BOS, EOS)

    def is_unknown(self, token):
        return token == BLANK

    def is_unused(self, token):
        return False


def utterance(words, duration=1.0):
    """What a dataset gives for words, each of their letters followed by a blank in the audio."""
    tokens = Alphabet().encode(words)
    return {
        "duration": duration,
        "sig": torch.tensor([value for token in tokens for value in (token, BLANK)], dtype=torch.float),
        "wrd": words,
        "tokens": torch.tensor(tokens),
        "tokens_bos": torch.tensor([BOS, *tokens]),
        "tokens_eos": torch.tensor([*tokens, EOS]),
    }  # fmt: skip


def spoken(*texts, durations=None):
    """A dataset of utterances, named by their place and words."""
    durations = durations or [1.0] * len(texts)
    items = {f"{i}{words}": utterance(words, seconds) for i, (words, seconds) in enumerate(zip(texts, durations))}
    return DynamicItemDataset(items, output_keys=KEYS)


def read(src):
    """The tokens that each example of a batch (batch, samples, 1) spells."""
    return [[token for token in row.round().long().flatten().tolist() if token != BLANK] for row in src]


class Features(nn.Module):
    """Each sample as a frame, and one more, as with a spectrogram."""

    compute_STFT = SimpleNamespace(hop_length=1)

    def forward(self, wavs):
        return nn.functional.pad(wavs, (0, 1))[..., None]


class Passing(nn.Module):
    """Returns its input, in some precision, and records with what it was called."""

    def __init__(self, dtype=torch.float):
        super().__init__()
        self.calls, self.dtype = [], dtype

    def forward(self, x, *arguments, **options):
        self.calls.append(SimpleNamespace(x=x, arguments=arguments, **options))
        return x.to(self.dtype)

    def output_lens(self, lens, frames):
        return lens


class Head(nn.Module):
    """Says what it reads, surely. Where it is evaluated in an epoch of ``errors`` it misses so many tokens, the first.

    Its weight does nothing but be saved in checkpoints and averaged.
    """

    def __init__(self, epoch_counter, errors=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.epoch_counter, self.errors = epoch_counter, errors or {}

    def forward(self, x):
        tokens = x[..., 0].round().long()
        if not self.training:
            missed = (tokens >= FIRST).cumsum(1) <= self.errors.get(self.epoch_counter.current, 0)
            tokens = torch.where((tokens >= FIRST) & missed, BLANK, tokens)
        return (20 * nn.functional.one_hot(tokens, N_TOKENS) + 0 * self.weight).to(x.dtype)


class Decoder(nn.Module):
    """Encoder and decoder in half precision: the encoder passes its input, the decoder says the next token as long as
    it is fed the ones before."""

    def __init__(self):
        super().__init__()
        self.fed = []

    def forward(self, src, tgt, wav_len=None, pad_idx=0):
        self.fed.append(SimpleNamespace(src=src, tgt=tgt, wav_len=wav_len, pad_idx=pad_idx))
        said = torch.full((*tgt.shape, 1), float(BLANK))
        for i, tokens in enumerate(read(src)):
            for j, token in enumerate([*tokens, EOS]):
                if tgt[i, : j + 1].tolist() == [BOS, *tokens[:j]]:
                    said[i, j] = token
        return src.bfloat16(), said.bfloat16()


class Search:
    """A search that reads all but the first few tokens, and records with what it was made and called."""

    made = ()
    missed = 0

    def __init__(self, **options):
        self.options, self.calls = options, []
        Search.made = (*Search.made, self)

    def __call__(self, encoder_out, lens):
        self.calls.append(SimpleNamespace(encoder_out=encoder_out, lens=lens))
        return [tokens[self.missed :] for tokens in read(encoder_out)], None, None, None


class Doubling:
    """An augmentation that puts copies behind the originals, as SpeechBrain's ``Augmenter`` does."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, lens):
        self.batches.append(x)
        return torch.cat([x, x]), torch.cat([lens, lens])

    def replicate_labels(self, labels):
        return torch.cat([labels, labels])


class Turning(Doubling):
    """An augmentation that turns the order of a batch around."""

    def __call__(self, x, lens):
        self.batches.append(x)
        return x.flip(0), lens.flip(0)

    def replicate_labels(self, labels):
        return labels.flip(0)


class QuickCheckpointer(AtomicCheckpointer):
    """SpeechBrain adds a sort order to a default argument at each save: the saves of a long process become slow."""

    def save_and_keep_only(self, *args, **kwargs):
        super().save_and_keep_only(*args, **{"importance_keys": [], **kwargs})
