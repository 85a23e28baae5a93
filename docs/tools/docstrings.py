"""An extension of griffe: docstrings in SpeechBrain's way become NumPy's, and Sphinx's roles links of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

HEADINGS = {"Arguments": "Parameters", "Example": "Examples", "Keyword Arguments": "Other Parameters"}
HEADING = re.compile(r"^(?P<name>" + "|".join(HEADINGS) + r")\n-{3,}$", re.MULTILINE)
ROLE = re.compile(
    r":(?:class|func|meth|mod|attr|data|obj|exc):`(?:(?P<title>[^`<]+?)\s*<)?(?P<name>~?[\w.]+)(?:\(\))?>?`"
)
MATH = re.compile(r"^\.\. math::\n(?P<body>(?:\n|[ \t]+.*\n?)+)", re.MULTILINE)
LITERAL = re.compile(r"::$", re.MULTILINE)


def translate(docstring: str, package: str = "speechbrain_mamba") -> str:
    """Translate a docstring.

    Example
    -------
    >>> print(translate("Runs :class:`~speechbrain_mamba.nnet.mamba.Mamba`.\\n\\nArguments\\n---------\\nx : Tensor"))
    Runs <autoref identifier="speechbrain_mamba.nnet.mamba.Mamba" optional>`Mamba`</autoref>.
    <BLANKLINE>
    Parameters
    ----------
    x : Tensor
    """

    def heading(match: re.Match[str]) -> str:
        name = HEADINGS[match["name"]]
        return f"{name}\n{'-' * len(name)}"

    def role(match: re.Match[str]) -> str:
        name = match["name"].lstrip("~")
        title = match["title"] or (name.rsplit(".", 1)[-1] if match["name"].startswith("~") else name)
        code = f"`{title}`"
        # Optional, as not every module has a page. That the name exists, tests/docs checks.
        return f'<autoref identifier="{name}" optional>{code}</autoref>' if name.startswith(f"{package}.") else code

    def math(match: re.Match[str]) -> str:
        lines = [line.strip() for line in match["body"].strip().splitlines()]
        return "\n".join(["```latex", *lines, "```", "", ""])

    docstring = HEADING.sub(heading, docstring)
    docstring = MATH.sub(math, docstring)
    docstring = ROLE.sub(role, docstring)
    return LITERAL.sub(":", docstring)


class SpeechBrainDocstrings(griffe.Extension):
    """Translates every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = translate(obj.docstring.value)
