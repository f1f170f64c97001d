"""The command line and the Python program that repeat a request."""

from __future__ import annotations

import shlex
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from mdlm_atat.samplers.template import ESCAPE_OR_GAP, GAP, Gap, parse_template
from mdlm_atat.serve.answers import Repeat
from mdlm_atat.serve.requests import GenerateRequest, InfillRequest, Sampled

HOW = {"sampler": None, "steps": None, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""Settings of how to sample, which have one name everywhere, and their defaults."""


@dataclass(frozen=True)
class ModelNamed:
    """How the model that is served is named."""

    command: list[str]
    """Words of a command line: the run, and flags such as --device."""
    python: str
    """An expression that gives it, of `import mdlm_atat`."""
    flags: list[str] = field(default_factory=list)


def repeat(model: ModelNamed, request: Sampled, seed: int, max_tokens: int | None = None) -> Repeat:
    """What repeats a request with this seed. `max_tokens`: what was taken for `GenerateRequest.max_tokens`."""
    how = {name: getattr(request, name) for name in HOW if getattr(request, name) != HOW[name]}
    match request:
        case InfillRequest():
            return _infill(model, request, seed, how)
        case GenerateRequest():
            return _generate(model, request, seed, how, max_tokens)
        case _:
            raise AssertionError(request)


def _infill(model: ModelNamed, request: InfillRequest, seed: int, how: dict[str, Any]) -> Repeat:
    text, escape = typed(request.text, escape=request.escape)
    more: dict[str, Any] = {} if request.candidates is None else {"candidates": request.candidates}
    more |= {} if request.pick == "likeliest" else {"pick": request.pick}
    parts = parse_template(request.text, escape=request.escape)
    if any(isinstance(part, Gap) and part.shortest < part.longest for part in parts):
        more["length_draws"] = request.length_draws
    flags = how | {"seed": seed, "num_samples": request.num_samples} | more
    words = [*model.command, *as_flags(flags), *(["--escape"] if escape else []), "--", text]
    keywords = {"alternatives": request.num_samples, "seed": seed} | how | more
    keywords |= {"escape": True} if request.escape else {}
    call = f"lm.infill({request.text!r}, {as_keywords(keywords)})"
    return Repeat(as_command("infill", words), program(model, call, "text.text"))


def _generate(
    model: ModelNamed, request: GenerateRequest, seed: int, how: dict[str, Any], max_tokens: int | None
) -> Repeat:
    prompt, escape = typed(request.prompt, escape=False, template=False)
    flags = how | {"seed": seed, "num_samples": request.num_samples, "max_new_tokens": max_tokens}
    given = [f"--prompt={prompt}"] if prompt else []
    words = [*model.command, *as_flags(flags), *(["--escape"] if escape else []), *given]
    keywords = {"max_new_tokens": max_tokens, "seed": seed} | how
    prompts = f"[{request.prompt!r}]" + (f" * {request.num_samples}" if request.num_samples > 1 else "")
    call = f"lm.generate({prompts}, {as_keywords(keywords)})"
    if not request.stop:
        return Repeat(as_command("generate", words), program(model, call, "text.text"))
    start = len(request.prompt)
    ends = f"[({start} + at + len(s), {start} + at) for s in {list(request.stop)!r} if (at := made.find(s)) >= 0]"
    cut = f"""\
for text in {call}:
    made = text.text[{start}:]
    ends = {ends}
    print(text.text[: min(ends)[1]] if ends else text.text)
"""
    return Repeat(None, f"{head(model)}{cut}")


def program(model: ModelNamed, call: str, shown: str) -> str:
    return f"{head(model)}for text in {call}:\n    print({shown})\n"


def head(model: ModelNamed) -> str:
    return f"import mdlm_atat\n\nlm = {model.python}\n"


def as_command(command: str, words: list[str]) -> str:
    return shlex.join(["atat", command, *words])


def as_flags(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def as_keywords(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def typed(text: str, *, escape: bool, template: bool = True) -> tuple[str, bool]:
    r"""A text as one line that can be pasted into a terminal, and whether it is read with --escape: control characters
    (a tab completes, an end of line ends the command) are written as escapes. `escape`: it holds escapes already.
    `template`: [MASK] is a gap."""
    if not any(map(is_control, text)):
        return text, escape
    typed, end = "", 0
    for match in (ESCAPE_OR_GAP if escape else GAP).finditer(text) if template else ():
        if match[0].startswith("["):
            typed += _as_escapes(text[end : match.start()], escape=escape) + "".join(match[0].split())
            end = match.end()
    return typed + _as_escapes(text[end:], escape=escape), True


def _as_escapes(text: str, *, escape: bool) -> str:
    plain = text if escape else text.replace("\\", "\\\\")
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return "".join(named.get(char) or (f"\\u{ord(char):04X}" if is_control(char) else char) for char in plain)


def is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Zl", "Zp")
