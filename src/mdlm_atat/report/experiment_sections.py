"""The part of a page on one corpus: its table, figures and samples, each empty where nothing is stored for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from mdlm_atat.errors import UserError
from mdlm_atat.formats import number
from mdlm_atat.report.experiment_pictures import (
    Picture,
    Run,
    RunsByArm,
    curve_notes,
    curve_pictures,
    decile_pictures,
    decile_table,
    profile_pictures,
)
from mdlm_atat.report.experiment_plots import HEIGHT_IN
from mdlm_atat.report.experiment_results import Arm, branches_of, load_beside, name_of, runs_of
from mdlm_atat.report.experiment_tables import Row, main_table, order_table, table_notes, verdicts
from mdlm_atat.report.figure import INK, TEXT_PT, new_figure, svg
from mdlm_atat.report.importance_page import heatmap
from mdlm_atat.report.run_reader import number_at
from mdlm_atat.report.sample_quality import draw_panel, legend_of, panels_of
from mdlm_atat.report.wording import section
from mdlm_atat.scoring.inspected_text import InspectedText
from mdlm_atat.scoring.quality import REFERENCE, SampleQuality

MAX_HEATMAP_TOKENS = 48
MAX_SAMPLES = 2  # of each arm
MAX_SAMPLE_LETTERS = 600
MAX_SAMPLERS = 6  # in one picture of a frontier, beside the reference


class Column(NamedTuple):
    """An arm's samples or inspected text, which stand beside those of the others."""

    arm: Arm
    note: str
    texts: list[str]
    drawing: Markup = Markup()


class Frontier(NamedTuple):
    arm: Arm
    note: str
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class CorpusPart:
    name: str
    rows: list[Row]
    """The main table."""
    order_heads: list[str]
    order_rows: list[Row]
    """The table of what the arms have of one order; empty where they have none."""
    verdicts: list[str]
    notes: list[str]
    curves: list[Picture]
    curve_notes: list[str]
    profile: list[Picture]
    deciles: list[Picture]
    decile_table: tuple[list[Arm], list[tuple[int, str, list[list[str]]]]]
    importance: list[Column]
    frontier: list[Frontier]
    samples: list[Column]


def corpus_part(
    results: Mapping[str, Any], corpus: str, arms: Sequence[Arm], folder: Path, gaps: list[str], *, name: str
) -> CorpusPart:
    """The part of the page on one corpus. What could not be read is added to `gaps`.

    `name` begins the ids of its pictures, and has to be unique in the page.
    """
    rows = main_table(results, corpus, arms)
    shown = [row.arm for row in rows]
    by_arm = {arm.name: runs_of(results, corpus=corpus, arm=arm.name) for arm in shown}
    branches = {arm.name: branches_of(results, corpus, arm.name) for arm in shown}
    derived = section(section(results, "derived"), corpus)
    baseline = next((arm.name for arm in shown if arm.role == "baseline"), "")
    target_nats = number_at(section(section(derived, baseline), "ppl_u"), "mean_nats")
    maps = [_importance(arm, by_arm[arm.name], folder, gaps) for arm in shown]
    frontiers = [
        _frontier(arm, by_arm[arm.name], folder, gaps, f"{name}-frontier-{index}") for index, arm in enumerate(shown)
    ]
    order_heads, order_rows = order_table(derived, shown)
    return CorpusPart(
        name=corpus,
        rows=rows,
        order_heads=order_heads,
        order_rows=order_rows,
        verdicts=verdicts(rows, derived, baseline),
        notes=table_notes(derived),
        curves=curve_pictures(shown, by_arm, branches, target_nats, name),
        curve_notes=curve_notes(shown, by_arm, branches),
        profile=profile_pictures(shown, by_arm, baseline, name),
        deciles=decile_pictures(shown, by_arm, baseline, name),
        decile_table=decile_table(shown, by_arm, baseline),
        importance=[found for found in maps if found is not None],
        frontier=[found for found in frontiers if found is not None],
        samples=_samples(shown, by_arm),
    )


def _importance(arm: Arm, runs: Sequence[Run], folder: Path, gaps: list[str]) -> Column | None:
    """The heatmap of the arm's first run that has an inspection; None where no run has one."""
    for run in runs:
        try:
            record = load_beside(folder, run, "inspection")
            if record is None:
                continue
            found = InspectedText.from_record(record)
        except ValueError as error:
            gaps.append(f"Importance of {name_of(run)}: {error}")
            continue
        note = (
            f"seed {run.get('seed')}; correlation of importance with the loss {number(found.pearson, 2)} (Pearson), "
            f"{number(found.spearman, 2)} (Spearman)"
        )
        return Column(arm, note, [], heatmap(found, MAX_HEATMAP_TOKENS))
    return None


def _frontier(arm: Arm, runs: Sequence[Run], folder: Path, gaps: list[str], name: str) -> Frontier | None:
    """The pictures of the arm's first run that has a sampler bench; None where no run has one."""
    for run in runs:
        try:
            record = load_beside(folder, run, "sampler_bench")
            if record is None:
                continue
            pictures, note = _frontier_pictures(SampleQuality.from_json(record, source="it"), name)
        except (UserError, ValueError) as error:
            gaps.append(f"Sampler bench of {name_of(run)}: {error}")
        else:
            return Frontier(arm, f"seed {run.get('seed')}; {note}", pictures)
    return None


def _frontier_pictures(record: SampleQuality, name: str) -> tuple[list[Picture], str]:
    curves = record.curves()
    kept = dict(sorted(curves.items(), key=lambda item: item[0] != REFERENCE)[: MAX_SAMPLERS + 1])  # stable
    pictures = []
    for index, panel in enumerate(panels_of(record)):
        figure = new_figure(height_in=HEIGHT_IN, num_named=len(kept) + 1)
        axes = figure.add_subplot()
        draw_panel(axes, record, panel, kept)
        lines, names = legend_of(kept)
        figure.legend(
            lines,
            names,
            loc="outside lower left",
            frameon=False,
            fontsize=TEXT_PT,
            labelcolor=INK,
            labelspacing=0.25,
            handlelength=3,
        )
        title = f"{panel.y_label[0].upper()}{panel.y_label[1:]}, against {panel.x_label}"
        pictures.append(Picture(title, Markup(svg(figure, name=f"{name}-{index}", title=title)), []))
    left_out = len(curves) - len(kept)
    setting = record.setting
    note = f"judge {record.judge or 'none'}, {setting.num_texts} texts of {setting.length} tokens"
    return pictures, note + (f"; {left_out} more samplers are in the bench's own file" if left_out else "")


def _samples(arms: Sequence[Arm], by_arm: RunsByArm) -> list[Column]:
    """The arms' samples, all of the seed that most arms have samples of."""
    with_samples = {
        arm.name: {str(run.get("seed")): texts for run in by_arm[arm.name] if (texts := _texts(run))} for arm in arms
    }
    seeds = list(dict.fromkeys(seed for found in with_samples.values() for seed in found))
    if not seeds:
        return []
    seed = max(seeds, key=lambda seed: sum(seed in found for found in with_samples.values()))
    columns = []
    for arm in arms:
        texts = with_samples[arm.name].get(seed, [])
        note = f"seed {seed}" if texts else f"no samples of seed {seed}"
        columns.append(Column(arm, note, [_cut(text) for text in texts[:MAX_SAMPLES]]))
    return columns


def _texts(run: Run) -> list[str]:
    samples = run.get("samples")
    found = samples if isinstance(samples, list) else []
    return [sample["text"] for sample in found if isinstance(sample, dict) and isinstance(sample.get("text"), str)]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE_LETTERS else text[:MAX_SAMPLE_LETTERS].rstrip() + " …"
