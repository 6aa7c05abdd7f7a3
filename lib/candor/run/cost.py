"""What a replication needs, before it starts: runs, core-minutes, tokens, GPU-hours, gigabytes.

    python -m candor cost --scale gpu --claim brier_fix --hardware a100

World steps cost what they took in a measured run. Steps of pretrained models are counted from what they declare
(`language_models/work.py`). `report/cost.md` says how, and becomes COST.md.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from candor.core import settings as config
from candor.core import store
from candor.core.errors import CandorError
from candor.core.settings import ROOT, Config
from candor.core.step import Step
from candor.language_models import needs
from candor.language_models import work as works
from candor.language_models.generation import BATCH
from candor.language_models.work import DATA, Amount, Work
from candor.run import plan as graph
from candor.run import readme
from candor.run import steps as experiments

PAGE = ROOT / "COST.md"
TEMPLATE = Path(__file__).parents[1] / "report" / "cost.md"
MEASURED = ROOT / "benchmarks" / "long_prompts.json"
HARDWARE = "h100"
SHARED_PROMPTS = False  # TRL computes a prompt once a completion, in every pass; True: once a group
CARDS = (24, 40, 80)  # GB
FREE = 0.9  # of a card's memory; the rest is left to the context and the allocator
# Disk, of tables and small models together: 718 MB over the 924 runs of the reference, 25 MB over the 224 of smoke.
GIGABYTES = {"laptop": 0.718 / 924, "smoke": 0.025 / 224}


# --- Models and cards -----------------------------------------------------------------------------


@cache
def shapes() -> pd.DataFrame:
    """Decoders by model id: the columns of `data/cost/models.csv`, and

    `width` of the attention; parameters of the `unembedding`, of the `body` without embeddings, and of `adapters` of
    rank 1 on the body's linear layers; `cache`, the bytes of keys and values of a token in bfloat16.
    """
    known = pd.read_csv(DATA / "models.csv")
    hidden, keys, width = known["hidden"], known["kv_heads"] * known["head_dim"], known["heads"] * known["head_dim"]
    ends = 2 * (hidden + width) + 2 * (hidden + keys) + known["gates"] * (hidden + known["mlp"])
    unembedding, layers = known["vocab"] * hidden, known["layers"]
    body = known["parameters"] - unembedding * (2 - known["tied"])
    known = known.assign(width=width, unembedding=unembedding, body=body)
    known = known.assign(adapters=layers * ends, cache=4 * layers * keys)
    return known.assign(id=known["ids"].str.split()).explode("id").set_index("id")


@cache
def shape_of(model: str) -> pd.Series:
    """A row of `shapes`; `CandorError` where there is none."""
    if model not in shapes().index:
        raise CandorError(f"The shape of {model} is not known here: add its id to data/cost/models.csv.")
    return shapes().loc[model]


def forward(shape: pd.Series, tokens: Amount, before: Amount = 0.0, logits: Amount = 0.0) -> Amount:
    """Operations of one row: `tokens` of it after `before` that are cached, `logits` of them with the head."""
    context = tokens * (before + tokens / 2)
    return 2 * shape.body * tokens + 4 * shape.layers * shape.width * context + 2 * shape.unembedding * logits


def rates() -> pd.DataFrame:
    """Cards by name: the columns of `data/cost/rates.csv`, with what was measured on one in place of what is assumed if
    `MEASURED` has it, and the operations and bytes that it does a second."""
    cards = pd.read_csv(DATA / "rates.csv", index_col="hardware")
    ran = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    card = (ran.get("hardware") or {}).get("gpu") or ""
    if card and "rates" in ran:
        same, uses = cards["title"].map(_card) == _card(card), ["compute_use", "bandwidth_use", "layer_ms"]
        cards.loc[same, [*uses, "measured"]] = [*(ran["rates"][use] for use in uses), f"yes ({card})"]
    operations, moved = cards["tflops"] * cards["compute_use"], cards["tb_per_s"] * cards["bandwidth_use"]
    return cards.assign(operations=1e12 * operations, bytes=1e12 * moved)


def rate(hardware: str = HARDWARE) -> pd.Series:
    """A row of `rates`; `CandorError` where there is none."""
    if hardware not in rates().index:
        raise CandorError(f"There is no hardware {hardware!r}: choose one of {', '.join(rates().index)}.")
    return rates().loc[hardware]


def _card(name: str) -> str:
    """The model of a card in a name, such as H100 of "NVIDIA H100 80GB HBM3"."""
    return next((word for word in name.replace("GeForce ", "").split() if any(map(str.isdigit, word))), name)


# --- What a step needs ----------------------------------------------------------------------------

SUMS = ("read", "written", "trained", "operations", "seconds", "saved")  # tokens, operations, of one card, GB
MOST = ("memory", "at_once")  # GB of the largest pass, completions sampled one by one; and sampled as one batch


def need(work: Work, card: pd.Series, engine: str = "transformers", shared: bool = SHARED_PROMPTS) -> np.ndarray:
    """What a `Work` needs on a card: `SUMS` and `MOST` [8, 2], as expected and at most.

    Completions are sampled as many together as the work says and the card holds; the engine vllm launches no kernels
    one by one and reads a shared prompt once.
    """
    shape, rows, zero = shape_of(work.model), np.asarray(work.rows, float), np.zeros(2)
    launch = shape.layers * card.layer_ms / 1000
    groups = max(work.group, 1) if shared or (engine == "vllm" and work.kind == "sample") else 1
    held, a_row = _memory(work, shape, work.prompt / groups)
    together = np.minimum(work.together or BATCH, np.maximum(rows, 1))
    at_once = least = (held + together * a_row) / 1e9
    if work.kind == "sample":
        fits = (FREE * card.memory_gb * 1e9 - held) // a_row
        # Where not even the weights fit, several cards are needed, which hold their parts of a batch.
        together = np.where(fits > 0, np.minimum(together, fits), together)
        prompts, least = rows / groups if work.group else 0.0, (held + a_row) / 1e9
        prefill = prompts * forward(shape, work.prompt, logits=1)
        decode = forward(shape, work.completion, before=work.prompt, logits=work.completion)
        loaded = 2 * shape.parameters + together * (work.prompt + work.completion / 2) * shape.cache
        step = np.maximum(loaded / card.bytes, together * decode / work.completion / card.operations)
        step = np.maximum(step, launch * (engine != "vllm"))
        seconds = prefill / card.operations + rows / together * work.completion * step
        found = [prompts * work.prompt, rows * work.completion, 0, prefill + rows * decode, seconds, 0]
    else:
        prompts, trains = rows / groups, work.kind == "train"
        times, of_head, launches = ((3, 2, 4) if work.rank else (4, 3, 4)) if trains else (1, 1, 1)
        tokens = prompts * work.prompt + rows * work.completion
        once = prompts * forward(shape, work.prompt) + rows * forward(shape, work.completion, before=work.prompt)
        operations = times * once + rows * of_head * 2 * shape.unembedding * work.logits
        operations += trains * tokens * 8 * work.rank * shape.adapters  # twice forward, once backward to both sides
        floor = rows / together * launches * max(launch, 2 * shape.parameters / card.bytes)
        kept = 0 if work.saves is None else work.saves * shape.parameters or 4 * work.rank * shape.adapters
        seconds = np.maximum(operations / card.operations, floor)
        found = [tokens * (not trains), 0, tokens * trains, operations, seconds, kept / 1e9]
    return np.array([zero + each for each in (*found, least * (rows > 0), at_once * (rows > 0))])


def _memory(work: Work, shape: pd.Series, prompt: Amount) -> tuple[float, Amount]:
    """Bytes that are held throughout, and bytes of a row, of whose prompt `prompt` tokens are computed."""
    held = work.weights * shape.parameters + 16 * work.rank * shape.adapters
    held += sum(size * shape_of(model).parameters for model, size in work.beside)
    tokens, logits = prompt + work.completion, 8 * work.logits * shape.vocab
    if work.kind == "train":
        return held, tokens * shape.hidden * (2 * shape.layers + 34) + logits
    wide = 2 * (2 * shape.mlp + 4 * shape.hidden)
    if work.kind == "read":
        return held, tokens * wide + logits
    return held, (work.prompt + work.completion) * shape.cache + (prompt * wide if work.group else 0)


def of_step(step: Step, settings: Config, card: pd.Series, shared: bool = SHARED_PROMPTS) -> np.ndarray:
    """What one run of a step of pretrained models needs, as `need`; `CandorError` for one that declares nothing."""
    if step.work is None:
        raise CandorError(f"The step {step.key} does not say what it asks of its models: give it `work`.")
    declared = step.work(settings["models"], step)
    each = np.array([need(work, card, settings["models"]["engine"], shared) for work in declared]).reshape(-1, 8, 2)
    return np.concatenate([each[:, : len(SUMS)].sum(0), each[:, len(SUMS) :].max(0, initial=0)])


# --- What world steps took ------------------------------------------------------------------------


@cache
def _measured() -> list[tuple[str, dict, dict[str, dict[str, float]], str]]:
    """Name, settings of the worlds, seconds by step and seed, and hardware of the scales that were measured: the
    reference runs, of the claims and of a study of its own, and smoke."""
    smoke = pd.read_csv(ROOT / "benchmarks" / "steps_smoke.csv", index_col="step")["mean_seconds"].dropna()
    seconds, worlds = {key: {"mean": mean} for key, mean in smoke.items()}, config.load("smoke")["world"].to_dict()
    found = []
    for path in sorted(graph.REFERENCE.rglob("provenance.json"), key=lambda path: len(path.parts)):
        run = store.read_json(path)
        if "seconds" in run:
            about = f"reference run of {run['date']}, {run['hardware']['cpu']}, {run['hardware']['cores']} cores"
            found.append((run["scale"], run["config"]["world"], run["seconds"], about))
    return [*found, ("smoke", worlds, seconds, "benchmarks/steps_smoke.csv, the same processor")]


def took(key: str, settings: Config) -> tuple[str, bool, dict[str, float]] | None:
    """The scale that measured a world step, whether with the settings of its world here, and seconds by seed.

    One with these settings if there is one; None for a step that was never made.
    """
    world = key.split("/")[0]
    now = settings["world"].to_dict().get(world, {})
    found = [
        (name, all(now.get(k) == value for k, value in worlds.get(world, {"": None}).items()), seconds[key])
        for name, worlds, seconds, _ in _measured()
        if key in seconds
    ]
    return min(found, key=lambda one: not one[1], default=None)


def usual_seconds(key: str, settings: Config) -> float | None:
    """Median over seeds of what a world step took with these settings, else with others; None if it was never made."""
    found = took(key, settings)
    return statistics.median(found[2].values()) if found else None


# --- A scale --------------------------------------------------------------------------------------


def runs(plan: graph.Plan, card: pd.Series, shared: bool = SHARED_PROMPTS) -> pd.DataFrame:
    """A row a run of a step: key, kind, models (or a world), core_seconds (NaN: never measured so), `SUMS` as expected
    and `MOST` and `saved` at most, most_seconds."""
    known, settings, rows = experiments.steps(), plan.config, []
    models = {key: step.world not in settings["world"] for key, step in known.items()}

    @cache
    def of_models(key: str) -> dict[str, float]:
        expected, most = of_step(known[key], settings, card, shared).T
        return dict(zip(SUMS + MOST, [*expected[:5], *most[5:]])) | {"most_seconds": most[4]}

    @cache
    def of_world(key: str) -> tuple[str, dict[str, float]]:
        scale, fits, each = took(key, settings) or ("", False, {})
        return (scale, each) if fits else ("", {})

    for key, seed in plan.runs():
        row = {"key": key, "kind": _kind(key), "models": models[key], "core_seconds": 0.0}
        if models[key]:
            row |= of_models(key)
        else:
            scale, each = of_world(key)
            row["core_seconds"] = each.get(str(seed), np.mean([*each.values()] or np.nan))
            row["saved"] = GIGABYTES["smoke" if scale == "smoke" else "laptop"]
        rows.append(row)
    amounts = dict.fromkeys((*SUMS, *MOST, "most_seconds"), 0.0)
    return pd.DataFrame(rows, columns=["key", "kind", "models", "core_seconds", *amounts]).fillna(amounts)


def total(part: pd.DataFrame) -> pd.Series:
    """Of some runs: how many, how many of models, worlds never measured, the sums, and of memory the most."""
    counts = {"runs": len(part), "models": part["models"].sum(), "unmeasured": part["core_seconds"].isna().sum()}
    sums = part[["core_seconds", *SUMS, "most_seconds"]].sum()
    return pd.concat([pd.Series(counts), sums, part[list(MOST)].max()])


def downloads(plan: graph.Plan, names: Iterable[str]) -> dict[str, float]:
    """Gigabytes of the weights and data sets that claims need; NaN where the size of a set is not known here."""
    known = works.amounts()["expected"]
    steps, models = graph.Plan(plan.config, tuple(names)).pretrained(), plan.config["models"]
    found = {place: 2 * shape_of(place).parameters / 1e9 for place in needs.weights(steps, models)}
    sets = dict.fromkeys(name for name, _ in needs.data(steps, models))
    return found | {f"{name} download": known.get(f"{name} download", np.nan) for name in sets}


def table(every: pd.DataFrame, plan: graph.Plan) -> pd.DataFrame:
    """A row a claim, each with all that it needs of `runs` (as `total`, and download), and their total, in which a
    shared step counts once."""
    rows = {}
    parts = {name: (name,) for name in plan.claims} | ({"total": plan.claims} if len(plan.claims) > 1 else {})
    for title, names in parts.items():
        keys = {key for key, _ in graph.Plan(plan.config, names).runs()}
        rows[title] = total(every[every["key"].isin(keys)])
        rows[title]["download"] = np.nansum([*downloads(plan, names).values()])
    return pd.DataFrame(rows).T


# --- As tables of words ---------------------------------------------------------------------------

HEADINGS = ("claim", "runs", "core-min", "read", "written", "trained", "GPU-hours", "download", "disk", "card")
KIND_HEADINGS = ("steps", "runs", "read", "written", "trained", "GPU-hours", "disk", "memory")


def smallest(gigabytes: float) -> str:
    """The smallest card that holds so much."""
    return next((f"{size}" for size in CARDS if gigabytes <= FREE * size), f"> {CARDS[-1]}")


def _counts(row: pd.Series, digits: int = 0) -> list[str]:
    """Millions of tokens read, written and trained on, and hours as expected to at most."""
    hours = dict.fromkeys(f"{row[name] / 3600:,.{digits}f}" for name in ("seconds", "most_seconds"))
    return [*(f"{row[name] / 1e6:,.{digits}f}" for name in SUMS[:3]), " to ".join(hours)]


def row_of(name: str, row: pd.Series) -> list[str]:
    """A row under `HEADINGS`."""
    minutes = row["core_seconds"] / 60
    told = [name, f"{row['runs']:,.0f}", f"{minutes:,.{int(minutes < 10)}f}" + "*" * bool(row["unmeasured"])]
    if not row["models"]:
        return [*told, "", "", "", "0", "0", f"{row['saved']:,.1f}", ""]
    sizes = (f"{row['download']:,.0f}", f"{row['saved']:,.0f}", smallest(row["memory"]))
    return [*told, *_counts(row), *sizes]


def kinds(every: pd.DataFrame) -> list[list[str]]:
    """Rows under `KIND_HEADINGS`, of steps by kind."""
    parts = [(kind, total(part)) for kind, part in every[every["operations"] > 0].groupby("kind", sort=False)]
    return [
        [kind, f"{row['runs']:.0f}", *_counts(row, 1), f"{row['saved']:,.1f}", f"{row['memory']:,.0f}"]
        for kind, row in parts
    ]


def _kind(key: str) -> str:
    """A step's world and setting, and whether it is an evaluation: arms of a setting cost about the same."""
    world, setting, name = key.split("/")
    if name.startswith("eval_"):
        return f"{world}/{setting}/eval_*"
    return f"{world}/{setting}/{'*' if experiments.steps()[key].options.get('arm') else name}"


def notes(every: pd.DataFrame, plan: graph.Plan, card: pd.Series, shared: bool = SHARED_PROMPTS) -> list[str]:
    """What the table rests on, a sentence or two each."""
    about = {name: told for name, _, _, told in _measured()}
    found = [f"Core-minutes of worlds: {about.get(plan.scale, about['laptop'])}; without a job's imports."]
    if unmeasured := every["core_seconds"].isna().sum():
        found.append(f"*: {unmeasured} runs of worlds with settings that were never measured count as nothing.")
    if len(plan.claims) > 1:
        found.append("A step that several claims need is in each of their rows, and once in the total.")
    if not every["models"].any():
        return found
    said = f"measured: {card.measured}" if card.measured != "no" else "from published runs, not measured by us"
    sizes = pd.Series({name: size for name, size in downloads(plan, plan.claims).items() if name.endswith(" download")})
    found += [
        f"{card.title}: {card.compute_use:.0%} of {card.tflops:g} TFLOP/s, {card.bandwidth_use:.0%} of "
        f"{card.tb_per_s:g} TB/s, {card.layer_ms:g} ms to launch a layer ({said}; data/cost/rates.csv).",
        "Tokens that are read, written and trained on in millions, as expected; GPU-hours as expected, and at most by "
        "the scale's limits (data/cost/amounts.csv). A prompt is computed once a "
        + ("group." if shared else "completion, as TRL does; our GRPO needs less, --shared-prompts the least."),
        "Download, disk and the smallest card in GB: weights have 2 bytes a parameter; data sets whose size is not "
        f"known here are left out, {sizes.isna().sum()} of {len(sizes)}.",
        "Not counted: loading of models, programs and their tests on the CPU, tables of pretrained models.",
    ]
    wide = every["memory"] > FREE * CARDS[-1]
    if wide.any():
        found.append(f"Too big for one card of {CARDS[-1]} GB as they are: {_by_kind(every[wide], 'memory')}.")
    parted = ~wide & (every["at_once"] > FREE * card.memory_gb)
    if parted.any():
        told = _by_kind(every[parted], "at_once")
        found.append(f"Batches that this card samples in parts, and what they need at once: {told}.")
    return found


def _by_kind(part: pd.DataFrame, column: str) -> str:
    sizes = part.groupby("kind", sort=False)[column].max()
    return ", ".join(f"{kind} ({size:,.0f} GB)" for kind, size in sizes.items())


def show(plan: graph.Plan, card: pd.Series, shared: bool, file: Path | None = None) -> None:
    """Print the table and what it rests on; for one claim its steps too. `file`: also as CSV."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    every = runs(plan, card, shared)
    rows = [row_of(str(name), row) for name, row in table(every, plan).iterrows()]
    by_kind = kinds(every) if len(rows) == 1 else []
    for headings, lines in ((HEADINGS, rows), (KIND_HEADINGS, by_kind)):
        drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, heading in enumerate(headings):
            drawn.add_column(heading, justify="right" if i else "left", no_wrap=not i)
        for line in lines:
            drawn.add_row(*line)
        if lines:
            console.print(drawn)
    for note in notes(every, plan, card, shared):
        console.print(note, highlight=False, soft_wrap=False)
    if file is not None:
        try:
            pd.DataFrame(rows, columns=HEADINGS).to_csv(file, index=False)
        except OSError as error:
            raise CandorError(f"{file} cannot be written ({error.strerror or error}): name another.") from None


# --- The page -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Anchor:
    """A training whose time is in print, as steps of ours at a scale, with changes of its settings."""

    what: str
    hardware: str
    printed: str  # GPU-hours
    scale: str
    steps: tuple[str, ...]
    differs: str
    changes: Mapping = field(default_factory=dict)

    def hours(self) -> float:
        """GPU-hours by our count, as expected."""
        settings, card = config.load(self.scale, overrides={"models": self.changes}), rate(self.hardware)
        needed = [of_step(experiments.steps()[key], settings, card) for key in self.steps]
        return np.sum(needed, 0)[SUMS.index("seconds"), 0] / 3600


_SWAP = {"steps": 500, "prompts_per_step": 64, "num_generations": 8, "max_completion_tokens": 1024}
# HotpotQA of arXiv 2507.16806 is not among them: it names four A100 and no hours.
ANCHORS = (
    Anchor(
        "Tan et al. 2026 (arXiv 2607.04332): a run of 3B, adapters, 500 steps of 64 x 8, up to 1,024 new tokens",
        *("h100_slice", "20 to 72", "gpu", ("hotpot/policy/rlvr",)),
        "HotpotQA's prompts; completions at their limit",
        {"policy": "Qwen/Qwen2.5-3B-Instruct", "hotpot": _SWAP},
    ),
    Anchor(
        "Shaikh et al. 2024 (arXiv 2311.09144): Mistral-7B with adapters, 1,000 steps of SFT, 2,700 of DPO",
        *("a100", "about 24", "paper", ("dialogues/own/sft", "dialogues/own/dpo")),
        "our length of 1,024 and rank of 64, because the paper gives none",
    ),
    Anchor(
        "Chandna et al. 2026: QuALITY with the whole story, one run",
        *("a100", "about 576", "paper", ("quality/full_sighted/rl",)),
        "counted is our cell, full and sighted: GRPO with adapters, no value model; their settings are others",
    ),
)


def _markdown(headings: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """A table; columns of numbers stand on the right."""
    headings, rows = list(headings), [[str(cell).replace("*", "\\*") for cell in line] for line in lines]
    numbers = [all(cell[:1] in "0123456789>" for cell in column) for column in zip(*rows)]
    return readme.table(headings, rows, ["---:" if number else "---" for number in numbers])


def _scale(plan: graph.Plan) -> str:
    """The part of the page about one scale."""
    card = rate()
    every = runs(plan, card)
    rows = [row_of(str(name), row) for name, row in table(every, plan).iterrows()]
    listed = "\n".join(f"- {note}" for note in notes(every, plan, card))
    parts = [f"## Scale {plan.scale}", _markdown(HEADINGS, rows), listed]
    if every["models"].any():
        hours = [(one.title, _counts(total(runs(plan, one)))[-1]) for _, one in rates().iterrows()]
        hours.insert(1, (f"{card.title}, a prompt once a group", _counts(total(runs(plan, card, True)))[-1]))
        parts += ["By card, whether or not it holds every step:", _markdown(("card", "GPU-hours"), hours)]
        parts += ["By kind of step:", _markdown(KIND_HEADINGS, kinds(every))]
    return "\n\n".join(parts)


_ORDER = "smoke laptop gpu paper"
_COLUMNS = {
    "rates": ("title", "tflops", "tb_per_s", "memory_gb", "compute_use", "measured", "sheet"),
    "models": ("shape", "parameters", "layers", "hidden", "source"),
    "amounts": ("name", "expected", "at_most", "unit", "source"),
}


def page() -> str:
    """COST.md: what every scale needs, what the numbers rest on, and how they compare with what papers report."""
    scales = sorted(config.scales(), key=lambda name: (_ORDER.find(name) % 99, name))
    plans = [plan for plan in map(graph.plan, scales) if plan.runs()]  # one is of released outputs alone
    printed = [(a.what, rate(a.hardware).title, a.printed, f"{a.hours():,.0f}", a.differs) for a in ANCHORS]
    held = _markdown(("run", "card", "GPU-hours in print", "by our count", "what differs"), printed)
    data = {}
    for name, columns in _COLUMNS.items():
        rows = pd.read_csv(DATA / f"{name}.csv", dtype=str)[list(columns)].to_numpy()
        data[name] = _markdown([column.replace("_", " ") for column in columns], rows)
    text = TEMPLATE.read_text(encoding="utf-8")
    return text.format(scales="\n\n".join(map(_scale, plans)), anchors=held, **data)


def write_page() -> Path:
    """Write COST.md; returns its place."""
    PAGE.write_text(page(), encoding="utf-8")
    return PAGE
