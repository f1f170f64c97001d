"""atat samplers: what there is to sample with, and how they compare on a model."""

from __future__ import annotations

from mdlm_atat.cli.parser import choose

HELP = """\
usage: atat samplers
       atat samplers bench RUN ...
       atat samplers bench --help

List the samplers with their options and defaults, or compare them on a trained model.

examples:
  atat samplers
  atat generate runs/demo --sampler uncertainty:score=margin,amount=entropy_budget,gamma=0.2
  atat samplers bench runs/demo --judge runs/causal
"""


def main(argv: list[str]) -> int:
    if not argv:
        print("\n".join(listing()))
        return 0
    match choose("atat samplers", argv, ("bench",), HELP):
        case ("bench", rest):
            from mdlm_atat.cli.samplers_bench import main as bench

            return bench(rest)
    return 0


def listing() -> list[str]:
    """Every sampler: what it does in a sentence, its options with their defaults."""
    from mdlm_atat import plugins
    from mdlm_atat.samplers.catalogue import PRESETS, RULES, describe

    lines = []
    for rule in map(describe, RULES):
        lines += [f"{rule.name:16} {rule.summary}"]
        options = [f"{option}={value}" for option, value in rule.options.items() if not option.startswith("draw.")]
        if options:
            lines.append(f"    {', '.join(options)}")
    offered = [name for name in plugins.names("sampler") if name not in RULES]
    lines += [f"{name:16} {plugins.described('sampler', name)}" for name in offered]
    lines += ["", "short for"]
    lines += [f"    {name:16} {spec}" for name, spec in PRESETS.items()]
    lines += [
        "",
        "An option is set by --sampler NAME:OPTION=VALUE,... and num_steps by --steps. Every sampler also takes",
        "draw.temperature, draw.top_k and draw.top_p. sizes and amount: constant, cosine, half_cosine, or optimal",
        "(after atat eval RUN --profile); amount also entropy_budget and threshold. A sampler of your own goes as",
        "package.module:Class, with options package.module:Class:OPTION=VALUE,...",
    ]
    return lines
