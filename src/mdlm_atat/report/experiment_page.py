"""The page of an experiment: one HTML file, made from its stored results alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import write_text
from mdlm_atat.formats import count, counted
from mdlm_atat.report.experiment_results import (
    Arm,
    all_runs,
    arms_of,
    corpora_of,
    corpus_of,
    final_of,
    is_done,
    is_exact,
    name_of,
    runs_of,
)
from mdlm_atat.report.experiment_sections import corpus_part
from mdlm_atat.report.experiment_tables import (
    ABOUT_ORDERS,
    HEADS,
    budget_words,
    caveats_of,
    commits,
    differences_table,
    groups,
    runs_table,
    shared_settings,
)
from mdlm_atat.report.page import template
from mdlm_atat.report.wording import plain, section

MAX_ERROR_LETTERS = 300


def write_experiment_page(results: dict[str, Any], folder: Path) -> Path:
    """Write `folder/report.html`, one file that needs no network, and return its path.

    `results` is the content of an experiment's results.json. Whatever is missing, because runs are waiting or have
    failed, is named on the page. Inspections and sampler benches that runs name are read from `folder`.
    """
    page = template("experiment_page.html.j2").render(**_contents(results, folder))
    path = folder / "report.html"
    write_text(path, page)
    return path


def _contents(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    arms = arms_of(results)
    gaps = _gaps(results, arms)
    parts = [
        corpus_part(results, corpus, arms, folder, gaps, name=f"c{index}")
        for index, corpus in enumerate(corpora_of(results))
    ]
    return {
        "name": str(results.get("name") or folder.resolve().name),
        "description": str(results.get("description") or ""),
        "subtitle": _subtitle(results),
        "status": _status(results),
        "baseline": str(results.get("baseline") or ""),
        "caveats": caveats_of(results),
        "gaps": gaps,
        "parts": parts,
        "heads": HEADS,
        "about_orders": ABOUT_ORDERS,
        "is_exact": any(map(is_exact, runs_of(results))),
        "arms": [(arm, count(arm.num_parameters), count(arm.flops_per_token)) for arm in arms],
        "differences": differences_table(results, arms),
        "shared": shared_settings(results, arms),
        "runs": runs_table(results),
        "machines": groups(results, "machine"),
        "data": groups(results, "data"),
        "versions": _versions(results),
        "commands": [(name_of(run), str(run["command"])) for run in all_runs(results) if run.get("command")],
    }


def _subtitle(results: Mapping[str, Any]) -> str:
    created = str(results.get("created") or "")[:16].replace("T", " ")
    seeds = {str(run.get("seed")) for run in runs_of(results)}
    parts = [
        counted(len(arms_of(results)), "arm"),
        counted(len(seeds), "seed") if seeds else "",
        budget_words(results),
        created,
    ]
    return " · ".join(part for part in parts if part)


def _status(results: Mapping[str, Any]) -> str:
    runs = all_runs(results)
    if not runs:
        return "No run is stored."
    found = Counter(str(run.get("status") or "unknown") for run in runs)
    if found["done"] == len(runs):
        return f"All {len(runs)} runs are done." if len(runs) > 1 else "The one run is done."
    return f"Of {len(runs)} runs " + ", ".join(f"{num} {status}" for status, num in found.items()) + "."


def _gaps(results: Mapping[str, Any], arms: Sequence[Arm]) -> list[str]:
    """A sentence for each thing that is missing."""
    gaps = []
    for run in all_runs(results):
        who = name_of(run) + (f" on {corpus_of(run)}" if corpus_of(run) else "")
        if run.get("status") == "failed":
            lines = [line.strip() for line in str(run.get("error") or "").splitlines() if line.strip()]
            gaps.append(f"{who} failed: {lines[-1][:MAX_ERROR_LETTERS] if lines else 'no error is stored'}")
        elif not is_done(run):
            gaps.append(f"{who} is {run.get('status') or 'of unknown status'}: no final numbers yet.")
        elif final_of(run) is None:
            gaps.append(f"{who} is done but holds no final evaluation.")
    if not results.get("baseline"):
        gaps.append("No baseline is named, so nothing is compared.")
    elif not any(arm.role == "baseline" and runs_of(results, arm=arm.name) for arm in arms):
        gaps.append(f"No run of the baseline {results['baseline']} is stored.")
    derived = section(results, "derived")
    gaps += [
        f"Nothing has been derived{f' for {corpus}' if corpus else ''} yet: the table has no numbers."
        for corpus in corpora_of(results)
        if not section(derived, corpus)
    ]
    return gaps


def _versions(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("code version", plain(results.get("code_version")))]
    if results.get("commit"):
        rows.append(("its commit", str(results["commit"])))
    return rows + [(f"commit of {runs}", commit) for commit, runs in commits(results)]
