"""Files of models that are not what they seem: the class of attack that pyannote-audio's issue 2000 describes, in which
a downloaded configuration names what is called, in all the ways that HyperPyYAML, YAML and SpeechBrain's classes offer.

The payload is always the same: it makes an empty file, the marker.
"""

from __future__ import annotations

from dataclasses import dataclass

PRETRAINER = "speechbrain.utils.parameter_transfer.Pretrainer"
HEADER = "sample_rate: 8000\nnum_spks: 2\n"
TOUCH = "touch MARKER"
"""What the hostile files run. MARKER is replaced by a path."""
_REPEATED = "\n".join(f"a{i}: !ref <a{i - 1}><a{i - 1}><a{i - 1}><a{i - 1}>" for i in range(1, 40))
_COPIES = "\n".join(f"c{i}: [!copy <c{i - 1}>, !copy <c{i - 1}>]" for i in range(1, 40))
_HIDDEN = "(!!python/object/apply:os.system ['touch MARKER'])"
_LINEAR = "!new:torch.nn.Linear [2, 2]"


@dataclass(frozen=True)
class Hostile:
    """A hostile file.

    Attributes
    ----------
    name : str
        What it tries.
    text : str
        What it says below the header, which has two lines.
    line : int
        The line of the whole file that the refusal names; 0 if it names none.
    words : str
        What else the refusal says.
    runs : bool
        Whether HyperPyYAML, which SpeechBrain loads models with, runs the payload.
    """

    name: str
    text: str
    line: int
    words: str
    runs: bool = False


HOSTILE = [
    # ------------------------------------------------------------------------------------------ tags that call
    Hostile("apply", f"x: !apply:os.system [{TOUCH}]", 3, "!apply:os.system", runs=True),
    Hostile(
        "apply to names", f"x: !apply:subprocess.getoutput\n    cmd: {TOUCH}", 3, "subprocess.getoutput", runs=True
    ),
    Hostile("new", f"\nx: !new:subprocess.Popen [[{TOUCH.replace(' ', ', ')}]]", 4, "!new:subprocess.Popen", runs=True),
    Hostile("applyref", f"x: !applyref:os.system [{TOUCH}]", 3, "!applyref:os.system", runs=True),
    Hostile("a function passed on", "x: !name:os.system", 3, "!name:os.system"),
    Hostile("partial", f"x: !name:os.system [{TOUCH}]", 3, "!name:os.system"),
    Hostile("a module", "x: !module:os", 3, "!module:os"),
    Hostile("import runs code", "x: !module:hostile_module", 3, "!module:hostile_module", runs=True),
    Hostile("a name's import runs code", "x: !name:hostile_module.harmless", 3, "hostile_module.harmless", runs=True),
    Hostile("python apply", f"x: !!python/object/apply:os.system [{TOUCH}]", 3, "!!python/object/apply", runs=True),
    Hostile("python new", "x: !!python/object/new:os.system [a]", 3, "!!python/object/new:os.system"),
    Hostile("python name", "x: !!python/name:os.system", 3, "!!python/name:os.system"),
    Hostile("python module", "x: !!python/module:os", 3, "!!python/module:os"),
    Hostile("verbatim tag", f"x: !<!apply:os.system> [{TOUCH}]", 3, "!apply:os.system", runs=True),
    Hostile("escaped tag", f"x: !apply:os%2Esystem [{TOUCH}]", 3, "apply:os", runs=True),
    Hostile("unknown tag", "x: !os.system a", 3, "!os.system"),
    Hostile("set", "x: !!set {a, b}", 3, "!!set"),
    # ------------------------------------------------------------------------------------------ where they hide
    Hostile("in arguments", f"x: !new:torch.nn.ModuleList [[!apply:os.system [{TOUCH}]]]", 3, "os.system", runs=True),
    Hostile("in a key", f"x:\n  ? !apply:os.system [{TOUCH}]\n  : 1", 4, "!apply:os.system"),
    Hostile("in a merge", f"x: &x\n  k: !apply:os.system [{TOUCH}]\ny:\n  <<: *x", 4, "!apply:os.system", runs=True),
    Hostile("a merge", "x: &x {k: 1}\ny: {<<: *x}", 4, "<<"),
    Hostile("in an anchor", f"x: [1, &x !apply:os.system [{TOUCH}]]\ny: *x", 3, "!apply:os.system", runs=True),
    Hostile("in a tuple", f"x: {_HIDDEN}", 3, "a tag stands in the tuple", runs=True),
    Hostile("in a tagged tuple", f'x: !tuple "{_HIDDEN}"', 3, "a tag stands in the tuple", runs=True),
    Hostile("in a copy", f"x: {{k: !apply:os.system [{TOUCH}]}}\ny: !copy <x>", 3, "!apply:os.system", runs=True),
    Hostile("with two underscores", f"__x: !apply:os.system [{TOUCH}]", 3, "!apply:os.system", runs=True),
    Hostile("in the pretrainer", f"pretrainer: {{loadables: {{a: !apply:os.system [{TOUCH}]}}}}", 3, "os.system", True),
    Hostile("in another file", "x: !include:other.yaml", 3, "!include:other.yaml", runs=True),
    Hostile("a tag by another name", "", 1, "%TAG !e! !apply:", runs=True),
    Hostile("an older YAML", "", 1, "%YAML"),
    Hostile("a second document", f"---\nx: !apply:os.system [{TOUCH}]", 3, "one document"),
    # ------------------------------------------------------------------------------------------ names
    Hostile("through a module", f"x: !apply:speechbrain.utils.fetching.pathlib.os.system [{TOUCH}]", 3, "system", True),
    Hostile("a package that is allowed to have names", "x: !new:torch.nn", 3, "!new:torch.nn is not among"),
    Hostile("a class beside allowed ones", "x: !new:torch.nn.Bilinear [1, 1, 1]", 3, "torch.nn.Bilinear"),
    Hostile("a method of an allowed class", "x: !name:torch.nn.Linear.register_forward_hook", 3, "register_forward"),
    Hostile("an attribute of an object", f"l: {_LINEAR}\nx: !ref <l.__class__>", 4, "asks for an attribute"),
    Hostile("an allowed class applied", "x: !apply:torch.nn.Linear [1, 1]", 3, "!apply:torch.nn.Linear"),
    Hostile("an allowed function as a class", "x: !new:operator.not_ [1]", 3, "!new:operator.not_"),
    *(
        Hostile(name, f"x: !{kind}:{name} [MARKER]", 3, name)
        for kind, name in [
            ("apply", "builtins.eval"),
            ("apply", "builtins.__import__"),
            ("apply", "builtins.getattr"),
            ("apply", "importlib.import_module"),
            ("apply", "runpy.run_path"),
            ("apply", "pydoc.locate"),
            ("apply", "torch.load"),
            ("apply", "torch.hub.load"),
            ("apply", "torch.jit.load"),
            ("apply", "numpy.load"),
            ("apply", "pickle.loads"),
            ("apply", "shutil.rmtree"),
            ("new", "functools.partial"),
            ("new", "operator.attrgetter"),
            ("new", "operator.methodcaller"),
            ("new", "speechbrain.lobes.models.MSTacotron2.Tacotron2"),
            ("apply", "speechbrain.dataio.dataio.load_pickle"),
            ("apply", "speechbrain.utils.superpowers.run_shell"),
            ("apply", "speechbrain.utils.fetching.fetch"),
            ("apply", "speechbrain.inference.interfaces.foreign_class"),
            ("apply", "hyperpyyaml.load_hyperpyyaml"),
        ]
    ),
    # ------------------------------------------------------------------------------------------ arguments
    Hostile(
        "a tokenizer's file", "x: !new:sentencepiece.SentencePieceProcessor\n  model_file: /etc/passwd", 3, "model_f"
    ),
    Hostile("a tokenizer's file, no name", "x: !new:sentencepiece.SentencePieceProcessor [/etc/passwd]", 3, "names"),
    Hostile(
        "code of a downloaded model",
        "x: !new:speechbrain.lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2\n"
        "  source: evil/model\n  save_path: x\n  trust_remote_code: true",
        3,
        "trust_remote_code",
    ),
    Hostile(
        "a second model",
        "hub: evil/model\nx: !new:speechbrain.integrations.huggingface.whisper.Whisper\n  source: !ref <hub>",
        4,
        "downloads another model, 'evil/model'. If you want this, load it with sources",
    ),
    *(
        Hostile(
            f"pretrainer with {name}",
            f"l: {_LINEAR}\np: !new:{PRETRAINER}\n  loadables: {{l: !ref <l>}}\n  {text}",
            4,
            words,
        )
        for name, text, words in [
            ("hooks", "custom_hooks: {l: 1}", "custom_hooks"),
            ("conditions", "conditions: {l: 1}", "conditions"),
            ("a URL", "paths: {l: 'https://evil.example/l.ckpt'}", "leads out of the model"),
            ("a file URL", "paths: {l: 'file:///etc/passwd'}", "leads out of the model"),
            ("a folder above", "paths: {l: '../../l.ckpt'}", "leads out of the model"),
            ("a home", "paths: {l: '~/l.ckpt'}", "leads out of the model"),
            ("a hidden file", "paths: {l: 'x/.ssh'}", "leads out of the model"),
            ("no path", "paths: {l: [1]}", "leads out of the model"),
            ("no mapping", "paths: 1", "names with values"),
        ]
    ),
    Hostile(
        "a part with a path for a name",
        f"p: !new:{PRETRAINER}\n  loadables: {{../../l: 1}}",
        3,
        "'../../l', which is not a file's name",
    ),
    # ------------------------------------------------------------------------------------------ bombs
    Hostile("text that doubles", f"a0: 0123456789\n{_REPEATED}", 9, "without bound"),
    Hostile("numbers that grow", "a: 99999\nb: !ref <a> ** <a> ** <a>", 4, "without bound"),
    Hostile("a long number", f"a: {'9' * 60_000}", 3, "is not a value"),
    Hostile("copies of copies", f"c0: [1, 2]\n{_COPIES}", 0, "copies make more than 100000 values"),
    Hostile("deep lists", f"a: {'[' * 5000}{']' * 5000}", 3, "stand in one another"),
    Hostile("a value in itself", "a: &a [*a]", 3, "refers to itself"),
    Hostile("a reference to itself", "a: !ref <b>\nb: !ref <a>", 3, "refers to itself"),
    Hostile("a reference to nothing", "a: !ref <zzz>", 3, "<zzz> refers to nothing"),
    Hostile("too large", f"a: {'x' * 300_000}", 0, "more than 200000 characters"),
    # ------------------------------------------------------------------------------------------ what YAML leaves open
    Hostile("escapes for the terminal", "x: !apply:os%1B%5B2Jsystem [a]", 3, "!apply:os"),
    Hostile("escapes in a key", '"\\e[2J": 1\n"\\e[2J": 2', 4, "stands twice"),
    Hostile("an endless tag", f"x: !apply:{'a' * 5000} [a]", 3, "..."),
    Hostile("a setting without a name", "1: a", 3, "the setting '1' is not a name"),
    Hostile("the same key twice", "a: 1\nb: 2\na: 3", 5, "'a' stands twice"),
    Hostile("no value yet", "a: !PLACEHOLDER", 3, "PLACEHOLDER has no value"),
    Hostile("not YAML", "a: [1, 2", 4, "not valid YAML"),
    Hostile("control characters", "a: \x07", 0, "not valid YAML"),
    Hostile("text in the place of arguments", "a: !new:torch.nn.ReLU touch", 3, "where its arguments stand"),
]

WHOLE = {
    "a tag by another name": f"%TAG !e! !apply:\n---\n{HEADER}x: !e!os.system [{TOUCH}]\n",
    "an older YAML": f"%YAML 1.1\n---\n{HEADER}",
}
"""Files without the header at their beginning."""


def hostile_text(case: Hostile, marker: str) -> str:
    """The text of a file that makes the marker, if it can."""
    return WHOLE.get(case.name, f"{HEADER}{case.text}\n").replace("MARKER", marker)
