"""What the notebooks show, in one look: claim cards, verdicts, ledgers, figures with captions, footers.

Everything here turns tables that exist into something to look at; nothing is computed. `stamp` and `is_stale` tell
whether the outputs of a committed notebook still belong to its cells and to `data/reference/`.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Image, Markdown, display
from numpy.typing import ArrayLike

from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare import figures
from candor.declare.ledger import Claim, Tables
from candor.measure.intervals import t_interval

# --- Words and numbers ----------------------------------------------------------------------------


def say(text: str) -> None:
    """Show Markdown: the prose of a notebook whose numbers come from tables, as an f-string."""
    display(Markdown(text))


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number for prose: fixed digits, a real minus sign, a dash for what is not there.

    >>> number(0.39712), number(-0.02, 2), number(0.165, sign=True), number(float("nan"))
    ('0.397', '−0.02', '+0.165', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(values: ArrayLike, digits: int = 3, *, sign: bool = False) -> str:
    """Mean over seeds and its 95 % t-interval (none for one seed), such as "0.271 [0.262, 0.280]".

    >>> interval([0.25, 0.27, 0.29], 2)
    '0.27 [0.22, 0.32]'
    """
    values = pd.Series(values, dtype=float).dropna()
    if values.empty:
        return "–"
    mean = number(values.mean(), digits, sign=sign)
    if len(values) < 2:
        return mean
    low, high = t_interval(values.to_numpy())
    return f"{mean} [{number(low, digits, sign=sign)}, {number(high, digits, sign=sign)}]"


@contextmanager
def when_there() -> Iterator[None]:
    """Run a cell's body on tables that may not be there: a missing table, arm or column becomes one sentence."""
    try:
        yield
    except KeyError as error:
        say(f"*Nothing to show here yet: `{error.args[0]}` has not been computed. `make replicate` does it.*")


# --- Evidence -------------------------------------------------------------------------------------


def evidence(claim: str | None, scale: str = "laptop", source: str = "auto"):
    """`candor.run.evidence.load`, and where there is nothing to load an empty evidence whose label says so."""
    from candor.run.evidence import load

    try:
        return load(claim, scale=scale, source=source)
    except CandorError as error:
        nothing = {name: pd.DataFrame() for name in ("ledger", "checks", "verdicts")}
        return SimpleNamespace(tables={}, label=str(error), provenance={}, source="nothing", **nothing)


def together(evidences, **replaced: pd.DataFrame) -> SimpleNamespace:
    """The ledgers, checks and verdicts of several claims as one evidence; `replaced` takes the place of a frame."""
    evidences = list(evidences)
    frames = {}
    for name in ("ledger", "checks", "verdicts"):
        parts = [getattr(e, name) for e in evidences if len(getattr(e, name))]
        frames[name] = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return SimpleNamespace(**(frames | replaced))


def over_seeds(
    summary: pd.DataFrame, setting: str, arms: Sequence[str], measures: Mapping[str, str], digits: int = 3
) -> pd.DataFrame:
    """A row an arm: mean and 95 % t-interval over seeds of the columns `measures` (column -> heading).

    `summary` has the columns setting, arm, seed and the measures. Arms that are not in it are left out;
    `KeyError` if none is.
    """
    rows = []
    for arm in arms:
        part = summary[(summary["setting"] == setting) & (summary["arm"] == arm)]
        if len(part):
            row = {"arm": figures.label(arm), "seeds": len(part)}
            rows.append(row | {title: interval(part[column], digits) for column, title in measures.items()})
    if not rows:
        raise KeyError(f"{setting}/{arms[0]}")
    return pd.DataFrame(rows)


# --- Tables and figures ---------------------------------------------------------------------------


_TERMS = ("ECE", "AUROC", "RLVR", "RLCR", "SFT", "DPO", "PPO", "KL", "BCE", "IDK")


def heading(name: str) -> str:
    """A column's or an arm's name as people write it.

    >>> heading("rlvr_ece"), heading("change_accuracy"), heading("brier")
    ('RLVR ECE', 'change accuracy', 'Brier')
    """
    words = name.replace("_", " ").replace("brier", "Brier").split(" ")
    return " ".join(word.upper() if word.upper() in _TERMS else word for word in words)


def table(frame: pd.DataFrame, digits: int = 3, *, title: str = "") -> None:
    """Show a small table: numbers with fixed digits, whole numbers whole, no index, an optional title above."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return html.escape(heading(value) if value.islower() and " " not in value else value)
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if pd.isna(value):
            return "–"
        whole = isinstance(value, int | np.integer) or (abs(value) > 1 and float(value).is_integer())
        return f"{value:,.0f}".replace("-", "−") if whole else number(value, digits)

    text = pd.DataFrame({heading(str(column)): [cell(v) for v in frame[column]] for column in frame})
    caption = f"<p><b>{html.escape(title)}</b></p>" if title else ""
    display(HTML(caption + text.to_html(index=False, border=0, escape=False)))


def figure(plot: figures.Plot, tables: Tables) -> None:
    """Show a figure of a claim with its alt text, and its caption below; one sentence if its tables are missing."""
    with when_there():
        missing = [name for name in plot.tables if name not in tables]
        if missing:
            raise KeyError(missing[0])
        image(plot(tables), caption=plot.caption, alt=plot.alt)


def image(drawn, *, caption: str, alt: str) -> None:
    """Show a matplotlib figure made in a notebook, with alt text and caption."""
    buffer = io.BytesIO()
    with figures.style():
        drawn.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    width = round(drawn.get_figwidth() * 100)
    display(Image(data=buffer.getvalue(), alt=alt, width=width))
    say(f"*{caption}*")


# --- Claims and verdicts --------------------------------------------------------------------------


def badge(verdict: str) -> str:
    """A verdict as HTML: its sign and its word, on its colour (the words still tell where colours are lost)."""
    fill, ink, sign = figures.VERDICTS[verdict]
    style = f"background: {fill}; color: {ink}; padding: .1em .5em; border-radius: .3em; white-space: nowrap"
    return f'<span style="{style}">{sign}&nbsp;{verdict}</span>'


def _text(value: Any) -> str:
    """A cell of a ledger file as HTML; nothing for what is not there."""
    return "" if pd.isna(value) else html.escape(str(value))


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of cells that are HTML already, aligned to the left and wrapped."""
    left = 'style="text-align: left; vertical-align: top"'
    top = "".join(f"<th {left}>{h}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td {left}>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def claim_card(claim: Claim) -> HTML:
    """The claim as published, where, its parts, and the criteria that were declared before anything ran."""
    e = html.escape
    parts = "".join(f"<li><b>{e(p.id)}</b> {e(p.statement)}: {e(', '.join(p.criteria))}</li>" for p in claim.parts)
    rows = [[f"<b>{c.id}</b>", e(c.evidence), e(c.statement), e(c.estimator), e(c.band)] for c in claim.criteria]
    return HTML(
        f'<div style="border-left: 4px solid #0072B2; padding: .2em 1em">'
        f"<p><b>Claim {claim.number}.</b> “{e(claim.statement)}”</p><p>{e(claim.citation)}</p>"
        f"<p>Parts that get separate verdicts:</p><ul>{parts}</ul></div>"
        f"<details><summary>The {len(rows)} criteria, declared before anything ran</summary>"
        + grid(("", "evidence", "statement", "estimator", "passes if"), rows)
        + "</details>"
    )


def verdict_strip(evidence) -> HTML:
    """The parts of the claim (of all claims, where the evidence has several) and the overall verdict, a row each."""
    verdicts = evidence.verdicts
    if verdicts.empty:
        return HTML("<p><i>No verdict yet: <code>make replicate</code> gives one.</i></p>")
    rows = [
        [f"<b>{_text(row.part)}</b>", badge(row.verdict), *map(_text, (row.statement, row.criteria, row.note))]
        for row in verdicts.itertuples()
    ]
    return _by_claim(verdicts, ["part", "verdict", "statement", "criteria", "note"], rows)


def _by_claim(frame: pd.DataFrame, head: list[str], rows: list[list[str]]) -> HTML:
    """A grid with a row of cells for each of the frame's; of several claims it has a column that names them."""
    if frame["claim"].nunique() > 1:
        head, rows = ["claim", *head], [[_text(claim), *row] for claim, row in zip(frame["claim"], rows)]
    return HTML(grid(head, rows))


COUNTED = ("cells", "grid points", "acts", "comparisons", "runs")  # units of a count out of n


def value_of(row) -> str:
    """The value of a ledger or checks row with its interval, as text; whole counts as "10 of 11"."""
    if pd.isna(row.value):
        return "–"
    if row.unit in COUNTED and pd.notna(row.n):
        return f"{row.value:.0f} of {row.n:.0f}"
    if pd.notna(row.ci_low):
        return f"{number(row.value)} [{number(row.ci_low)}, {number(row.ci_high)}]"
    return number(row.value)


def short_of(evidence, claim: str, criterion: str) -> str:
    """Which checks of a criterion with several keep it from being replicated, with their values; empty if none does."""
    checks = evidence.checks
    if checks.empty:
        return ""
    rows = checks[(checks["claim"] == claim) & (checks["criterion"] == criterion)]
    missed = rows[~rows["verdict"].isin(["replicated", "reported", "not attempted"])]
    if len(rows) < 2 or missed.empty:
        return ""
    parts = (f"{r.check} {value_of(r)} (band {r.band}), {r.verdict}" for r in missed.itertuples())
    return "What holds it back: " + "; ".join(parts) + "."


def ledger_table(evidence, criteria: Sequence[str] | None = None) -> HTML:
    """The ledger's rows beside the paper's values: criterion, band, value with interval, seeds passing, verdict.

    `criteria` picks some ids. Several claims get a column that names them.
    """
    ledger = evidence.ledger
    if criteria is not None and len(ledger):
        ledger = ledger[ledger["criterion"].isin(criteria)]
    if ledger.empty:
        return HTML("<p><i>No row of the ledger yet: <code>make replicate</code> writes it.</i></p>")
    rows = []
    for row in ledger.itertuples():
        before = [_text(row.statement), _text(row.band), value_of(row), _text(row.passes), _text(row.paper_value)]
        note = ". ".join(filter(None, (_text(row.note), _text(short_of(evidence, row.claim, row.criterion)))))
        rows.append([f"<b>{row.criterion}</b>", *before, badge(row.verdict), note])
    head = ["", "statement", "passes if", "value [95 %]", "seeds", "the paper", "verdict", "note"]
    return _by_claim(ledger, head, rows)


def checks_table(evidence, criterion: str | None = None) -> HTML:
    """The single bands behind the criteria (of one criterion, or of all), with the value of every seed."""
    checks = evidence.checks
    if criterion is not None and len(checks):
        checks = checks[checks["criterion"] == criterion]
    if checks.empty:
        return HTML("<p><i>No checks yet: <code>make replicate</code> writes them.</i></p>")
    rows = []
    for row in checks.itertuples():
        text = [_text(t) for t in (row.check, row.band, row.passes, row.per_seed)]
        rows.append([f"<b>{row.criterion}</b>", text[0], text[1], value_of(row), *text[2:], badge(row.verdict)])
    return HTML(grid(("", "check", "band", "value [95 %]", "seeds", "each seed", "verdict"), rows))


def provenance_footer(evidence) -> HTML:
    """Where the numbers above come from: the evidence's label, commit, versions and hardware."""
    lines = [f"<b>Where these numbers come from.</b> {html.escape(evidence.label)}"]
    if evidence.provenance:
        text = json.dumps(evidence.provenance, indent=1, default=str, ensure_ascii=False)
        lines.append(f"<details><summary>Versions and hardware</summary><pre>{html.escape(text)}</pre></details>")
    return HTML(
        f'<div style="border-top: 1px solid #999; padding-top: .5em; font-size: .9em">{"<br>".join(lines)}</div>'
    )


_NEEDS = {
    "smoke": "two CPU cores, minutes; mechanics only, never a verdict",
    "released": "one CPU core, a minute; 12 MB of the authors' outputs, no model",
    "laptop": "two CPU cores, hours",
    "sweep": "two CPU cores, two hours; other sizes of the small models, no claim of its own",
    "gpu": "one GPU, days; the papers' data sets",
    "paper": "four to six GPUs of 80 GB, days; the papers' data sets",
}


def scales_table() -> HTML:
    """What each scale does, from `config/`, and what it needs."""
    from candor.core import settings as config

    rows = []
    for name in sorted(config.scales(), key=lambda s: [*_NEEDS, s].index(s)):
        settings = config.load(name)
        seeds = [f"world: {len(settings.seeds)}"] if "world" in settings.evidence else []
        if "models" in settings.evidence:
            seeds.append(f"models: {len(settings.models.seeds)}")
        rows.append([f"<code>{name}</code>", ", ".join(settings.evidence), "; ".join(seeds), _NEEDS.get(name, "")])
    return HTML(grid(("scale", "evidence", "seeds of each trained arm", "needs"), rows))


# --- Training in a cell ---------------------------------------------------------------------------


def shipped(name: str):
    """A small model that comes with the project, as (model, tokenizer); None after one sentence if it is missing.

    `name` is a folder of `data/live`: models of a tuning seed, never one that a verdict rests on.
    """
    folder = ROOT / "data" / "live" / name
    if not folder.exists():
        say(f"*A small model is missing: restore the folder `data/live/{name}`.*")
        return None
    import warnings

    from candor.train import models

    # transformers imports tqdm for notebooks, which says at length that there are no widgets here.
    warnings.filterwarnings("ignore", message="IProgress not found")
    models.quiet()
    return models.load_decoder(folder)


def live_start(live: bool, name: str = "base"):
    """The small model that live cells train; None after one sentence that says why not."""
    if not live:
        say("*Live training was off when this was made: run all cells yourself, with `live = True` in the first.*")
        return None
    return shipped(name)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for a training loop: `with progress("training") as tick: train(..., progress=tick)`."""
    import sys

    from tqdm import tqdm

    with tqdm(desc=title, total=1, unit="step", file=sys.stdout, bar_format="{l_bar}{bar:30}{r_bar}") as bar:

        def tick(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tick


# --- Committed outputs ----------------------------------------------------------------------------


def source_digest(notebook) -> str:
    """Sixteen hexadecimal digits that change when a cell is edited, added, removed or moved.

    `notebook` is a dict as `nbformat.read` gives it. Cells that papermill injects do not count.
    """
    cells = [
        (cell["cell_type"], cell["source"])
        for cell in notebook["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", ())
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def reference_digest(folder: Path = ROOT / "data" / "reference") -> str:
    """Sixteen hexadecimal digits that change when any file of the reference results does."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def stamp(notebook) -> None:
    """Write into an executed notebook's metadata which cells and which reference its outputs belong to."""
    notebook["metadata"]["candor"] = {"source": source_digest(notebook), "reference": reference_digest()}


def is_stale(notebook) -> bool:
    """Whether a notebook's outputs are missing, or older than its cells or than `data/reference/`."""
    expected = {"source": source_digest(notebook), "reference": reference_digest()}
    return dict(notebook["metadata"].get("candor", {})) != expected
