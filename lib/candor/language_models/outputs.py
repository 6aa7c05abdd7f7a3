"""The released per-item outputs of arXiv 2507.16806: read, scored again by label and by option; no model needed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd

from candor.core.errors import CandorError, Incomplete
from candor.core.settings import ROOT
from candor.language_models import sets, text
from candor.measure import calibration as cal

OUTPUTS = {"commonsenseqa": "CommonsenseQA", "gpqa": "GPQA", "math-500": "MATH-500"}
OUTPUT_QUESTIONS = {"commonsenseqa": 1221, "gpqa": 448, "math-500": 500}
OUTPUT_ARMS = {
    "Base": "base",
    "RLVR": "rlvr",
    "RLVR-Classifier": "rlvr+bce_classifier",
    "Answer-Prob": "answer_probability",
    "RLCR": "rlcr",
}
OUTPUT_CELLS = [(dataset, arm) for dataset in OUTPUTS.values() for arm in OUTPUT_ARMS.values()]
JUDGED_OUTPUTS = ("CommonsenseQA", "GPQA")  # multiple choices, labelled by a language model
METRICS = ("accuracy", "brier", "ece", "auroc")
_TRAINED_ON = "trained on HotpotQA-Modified"  # in the published numbers


def root() -> Path:
    return sets.root() / "outputs"


def missing() -> list[str]:
    """The sentence where no released output is here."""
    if any(root().rglob("*.arrow")):
        return []
    return ["The released per-item outputs are missing: run `python -m candor fetch outputs` where there is a network."]


def items(folder: Path | None = None) -> pd.DataFrame:
    """The released per-item outcomes, empty if they were not fetched; five arms trained on HotpotQA, three data sets.

    Columns: dataset, arm, confidence, correct (the authors' label), and of multiple choices, whose label is a language
    model's, the answer's text read again: named ("" for no option or several), right (it names the right option).
    From the authors' repository (MIT licence). Raises: `CandorError` naming a file that is not what was fetched.
    """
    frames = []
    for name, dataset in OUTPUTS.items():
        for path in sorted((folder or root()).glob(f"{name}/*.arrow")):
            origin = path.parent / "source.json"
            try:
                content = path.read_bytes()
                if origin.exists() and json.loads(origin.read_text())["sha256"] != hashlib.sha256(content).hexdigest():
                    raise ValueError("it is not the file that was fetched")
                frames += [part.assign(dataset=dataset) for part in output_frames(content)]
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise CandorError(
                    f"{path} cannot be read ({_in_short(error)}): run `python -m candor fetch outputs` where there is "
                    "a network."
                ) from None
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:120].rstrip(".")


def output_frames(content: bytes) -> list[pd.DataFrame]:
    """The items of a released file, a frame an arm. Raises: `ValueError` where it is truncated or not such a file."""
    import pyarrow as pa

    try:
        rows, found = pa.ipc.open_stream(content).read_all().to_pydict(), []
        options, gold = _options(rows)
        for theirs, arm in OUTPUT_ARMS.items():
            columns = {"confidence": f"{theirs}-confidence_levels", "correct": f"{theirs}-evals"}
            if not set(columns.values()) <= set(rows):
                continue
            part = pd.DataFrame({ours: [row[0] for row in rows[column]] for ours, column in columns.items()})
            if options and f"{theirs}-output_0" in rows:
                said = (text.last_tag(output, "answer") or "" for output in rows[f"{theirs}-output_0"])
                part["named"] = [text.option(*both) for both in zip(said, options)]
                part["right"] = (part["named"] == gold).astype(float)
            found.append(part.assign(arm=arm))
    except (OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(_in_short(error)) from None
    if not found:
        raise ValueError("it has no labels of an arm")
    return found


def _options(rows: Mapping[str, list]) -> tuple[list[dict[str, str]], list[str]]:
    """The options of each question of a released file by letter, and the right one's letter; empty for no choices."""
    if {"choices", "answerKey"} <= set(rows):
        return [dict(zip(row["label"], row["text"])) for row in rows["choices"]], rows["answerKey"]
    problems = rows.get("problem", rows.get("question", []))
    options = [text.options_of(problem) for problem in problems]
    if not options or not all(options):
        return [], []
    # "Option C which is [gold]" in the authors' preparation of GPQA.
    return options, [_gold(answer, known) for answer, known in zip(rows["answer"], options)]


def _gold(answer: str, options: Mapping[str, str]) -> str:
    named = re.match(r"\W*(?:option\s+)?([A-Z])\b", answer, re.I)
    texts = {text.squad_normalised(words): letter for letter, words in options.items()}
    letter = texts.get(text.squad_normalised(answer)) or (named and named[1].upper())
    return letter if letter in options else text.option(answer, options)


def _metrics(confidence: pd.Series, correct: pd.Series) -> dict[str, float]:
    q, right = confidence.clip(0, 1).to_numpy(), correct.to_numpy(float)
    return dict(zip(METRICS, (right.mean(), cal.brier(q, right), cal.ece(q, right), cal.auroc(q, right))))


def recomputed(items: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, Brier, ECE, AUROC of `items`, beside the released metrics; a row each.

    Columns: dataset, arm, n, questions (those of the released metrics), metric, value, published, difference.
    """
    at = ["dataset", "arm"]
    rows = [
        part[at].iloc[0].to_dict() | {"n": len(part)} | _metrics(part["confidence"], part["correct"])
        for _, part in items.groupby(at, sort=False)
    ]
    table = pd.DataFrame(rows, columns=[*at, "n", *METRICS]).melt([*at, "n"], var_name="metric")
    printed = published[published["setting"] == _TRAINED_ON][[*at, "metric", "n", "value"]]
    table = table.merge(printed.set_axis([*at, "metric", "questions", "published"], axis=1), how="left")
    return table.assign(difference=table["value"] - table["published"])


def by_option(items: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The same of multiple choices by the option that the text names, beside the labels of the authors' judge.

    A row a data set and arm: n, questions (as `recomputed`), unreadable (share of answers that name no option or
    several; they are wrong), accepted (share that the judge takes for right and that do not name the right option),
    refused (the other way round), and each metric as <metric>_label and <metric>_option.
    """
    questions = published[published["setting"] == _TRAINED_ON].groupby(["dataset", "arm"])["n"].max()
    rows = []
    read = items.dropna(subset=["right"]) if "right" in items else items[:0]
    for (dataset, arm), part in read.groupby(["dataset", "arm"], sort=False):
        label, option = part["correct"] == 1, part["right"] == 1
        row = {"dataset": dataset, "arm": arm, "n": len(part), "questions": questions[dataset, arm]}
        row |= {"unreadable": (part["named"] == "").mean(), "accepted": (label & ~option).mean()}
        row |= {"refused": (option & ~label).mean()}
        for way, correct in (("label", label), ("option", option)):
            row |= {f"{name}_{way}": value for name, value in _metrics(part["confidence"], correct).items()}
        rows.append(row)
    return pd.DataFrame(rows)


# --- Tables and estimators for the claims -----------------------------------------------------------


def tables() -> dict[str, pd.DataFrame]:
    """What claims read of the released per-item outputs: `outputs` (as `recomputed`), `outputs_by_option`,
    `outputs_reliability`. Without the files there is no table.
    """
    rows = items()
    if not len(rows):
        return {}
    published = pd.read_csv(ROOT / "data" / "published" / "rlcr_per_dataset.csv")
    found = {"outputs": recomputed(rows, published), "outputs_by_option": by_option(rows, published)}
    parts = [
        cal.reliability_table(part["confidence"].clip(0, 1), part["correct"]).assign(dataset=dataset, arm=arm)
        for (dataset, arm), part in rows.groupby(["dataset", "arm"], sort=False)
    ]
    found["outputs_reliability"] = pd.concat(parts, ignore_index=True)
    return {name: table for name, table in found.items() if len(table)}


Tables = Mapping[str, pd.DataFrame]


def recomputing_cells(tables: Tables) -> int:
    """Cells (data set and arm) of the released outputs whose four metrics all lie within .001 of the released ones.

    `Incomplete` unless all fifteen are there with all their questions.
    """
    _whole(tables["outputs"], OUTPUT_CELLS)
    return int(
        (tables["outputs"].groupby(["dataset", "arm"])["difference"].agg(lambda d: d.abs().max()) <= 0.001).sum()
    )


def _whole(outputs: pd.DataFrame, cells: Iterable[tuple[str, str]]) -> None:
    """Raises `Incomplete`, naming what lacks, unless these data sets and arms are there with all their questions."""
    whole = outputs.groupby(["dataset", "arm"])[["n", "questions"]].min()
    lacks: dict[str, list[str]] = {}
    for dataset, arm in cells:
        if (dataset, arm) not in whole.index:
            lacks.setdefault(f"{dataset} without", []).append(arm)
        elif (found := whole.loc[dataset, arm])["n"] != found["questions"]:
            lacks.setdefault(f"{dataset} with {found['n']:g} of {found['questions']:g} questions in", []).append(arm)
    if lacks:
        told = "; ".join(f"{where} {', '.join(arms)}" for where, arms in lacks.items())
        raise Incomplete(f"the released outputs are not whole ({told}): run `python -m candor fetch outputs`")


def options_note(tables: Tables) -> str:
    """The share of answers that name no option, the least and the most of any arm."""
    low, high = tables["outputs_by_option"]["unreadable"].agg(["min", "max"])
    return f"{low:.1%} to {high:.1%} of an arm's answers name no option or several"


def option_effect(dataset: str, arm: str, measure: str) -> Callable[[Tables], float]:
    """A measure by the option that the text names, minus the same by the judge's label; `Incomplete` without all."""

    def estimate(tables: Tables) -> float:
        table = tables["outputs_by_option"]
        _whole(table, [(dataset, arm)])
        row = table[(table["dataset"] == dataset) & (table["arm"] == arm)].iloc[0]
        return float(row[f"{measure}_option"] - row[f"{measure}_label"])

    return estimate
