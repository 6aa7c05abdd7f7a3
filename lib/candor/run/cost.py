"""What a replication needs, before it starts: runs, core-minutes, tokens, GPU-hours, gigabytes.

    python -m candor cost --scale gpu --claim brier_fix --hardware a100

World steps cost what they took in the reference run (`data/reference/provenance.json`; smoke: in
`benchmarks/steps_smoke.csv`). Steps of pretrained models are counted: every step becomes a few `Work`s, rows of tokens
that a model samples, reads or is trained on, from the scale's settings; a `Work` becomes floating-point operations and
bytes by the model's shape (`data/cost/models.csv`), and those become seconds by a card's data sheet and the share of
it that published runs reach (`data/cost/rates.csv`). Lengths that no setting fixes are in `data/cost/lengths.csv`, each
twice: as expected, and at most. Every number in these files names its source.

Operations of a token, N being the parameters without embeddings: 2 N forward, and 4 x layers x width x context for
attention (half of that on average over a causal row); the output head only where logits are needed. Training all
weights with gradient checkpointing takes four times the forward pass (forward, again, twice backward), adapters three
times: frozen weights need no gradient. (torch's own counter finds 5 % less: it does not compute a layer's last matrix
again. The adapters' own operations, 1 to 4 % at rank 32, are left out.)
A decoding step reads the weights and the cache once, and cannot be faster than a host can launch its kernels.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path

from candor.claims.grounding_loss import dialogue_models
from candor.claims.self_feedback import reasoning_models
from candor.core import settings as config
from candor.core import store
from candor.core.errors import CandorError
from candor.core.settings import ROOT, Config
from candor.core.step import Step
from candor.language_models import generation, sets
from candor.language_models import run as language_models
from candor.run import plan as graph
from candor.run import steps as experiments

DATA = ROOT / "data" / "cost"
PAGE = ROOT / "COST.md"
MEASURED = ROOT / "benchmarks" / "long_prompts.json"
HARDWARE = "h100"
SHARED_PROMPTS = False  # TRL computes a prompt once a completion, in every pass; True: once a group
CARDS = (24, 40, 80)  # GB
FREE = 0.9  # of a card's memory; the rest is left to the context and the allocator
# Disk, of tables and small models together: 718 MB over the 924 runs of the reference, 25 MB over the 224 of smoke.
MEGABYTES = {"laptop": 718 / 924, "smoke": 25 / 224}
# Rows of the sets that are smaller than what scales ask for, by their cards.
SIZES = {"gsm8k": 1319, "commonsense_qa": 1221, "multi_arith": 180, "arc_easy": 2376, "math_500": 500, "gpqa": 448}
TRAIN_SIZES = {"gsm8k": 7473, "commonsense_qa": 9741, "multi_arith": 420, "arc_easy": 2251}
APPS, CONTESTS, MULTIPREF, BENCH_PAIRS = 5000, 165, 10461, 447
CUE = 50  # tokens asked for where a tag is missing


# --- Published facts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A decoder: `width` of its attention, `body` parameters between embeddings and head, `head` of the head."""

    shape: str
    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    gates: int  # matrices of the feed-forward layer
    vocab: int
    tied: int

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def body(self) -> int:
        return self.parameters - self.head * (2 - self.tied)

    @property
    def cache(self) -> int:
        """Bytes of keys and values of one token, in bfloat16."""
        return 4 * self.layers * self.kv_heads * self.head_dim

    def adapters(self, rank: int) -> int:
        """Parameters of adapters on all linear layers but the head."""
        keys = self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + self.width) + 2 * (self.hidden + keys) + self.gates * (self.hidden + self.mlp)
        return rank * self.layers * ends

    def forward(self, tokens: float, before: float = 0.0, logits: float = 0.0) -> float:
        """Operations of one row: `tokens` of it after `before` that are cached, `logits` of them with the head."""
        context = tokens * (before + tokens / 2)
        return 2 * self.body * tokens + 4 * self.layers * self.width * context + 2 * self.head * logits


@dataclass(frozen=True)
class Rate:
    """A card: peak without sparsity in bfloat16, memory, and the shares of both that are reached."""

    hardware: str
    name: str
    tflops: float
    tb_per_s: float
    memory_gb: float
    compute_use: float
    bandwidth_use: float
    layer_ms: float  # to launch one layer's kernels
    measured: str

    @property
    def operations(self) -> float:
        """A second."""
        return self.tflops * 1e12 * self.compute_use

    @property
    def bytes(self) -> float:
        """A second."""
        return self.tb_per_s * 1e12 * self.bandwidth_use


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def shapes() -> dict[str, Shape]:
    """Shapes by model id."""
    return {
        name: Shape(row["shape"], *(int(row[f.name]) for f in fields(Shape)[1:]))
        for row in _rows("models")
        for name in row["ids"].split()
    }


def shape_of(model: str) -> Shape:
    """The shape of a model id; `CandorError` where it is not known."""
    if model not in shapes():
        raise CandorError(f"The shape of {model} is not known here: add its id to data/cost/models.csv.")
    return shapes()[model]


def rate(hardware: str = HARDWARE) -> Rate:
    """A card by name, with what was measured on it in place of what is assumed, if `MEASURED` has it."""
    rows = {row["hardware"]: row for row in _rows("rates")}
    if hardware not in rows:
        raise CandorError(f"There is no hardware {hardware!r}: choose one of {', '.join(rows)}.")
    row = rows[hardware]
    found = Rate(hardware, row["name"], *(float(row[f.name]) for f in fields(Rate)[2:-1]), row["measured"])
    ran = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    card = (ran.get("hardware") or {}).get("gpu") or ""
    if not card or _card(card) != _card(found.name) or "rates" not in ran:
        return found
    known = {name: float(ran["rates"][name]) for name in ("compute_use", "bandwidth_use", "layer_ms")}
    return replace(found, measured=f"yes ({card})", **known)


def _card(name: str) -> str:
    """The model of a card in a name, such as H100 of "NVIDIA H100 80GB HBM3"."""
    return next((word for word in name.replace("GeForce ", "").split() if any(map(str.isdigit, word))), name)


class Lengths:
    """Lengths that no setting fixes: `expected`, or `at_most`."""

    def __init__(self, which: str):
        self.which = which
        self.of = {row["name"]: float(row[which]) for row in _rows("lengths")}

    def __call__(self, name: str, limit: float | None = None) -> float:
        return self.of[name] if limit is None else min(self.of[name], limit)

    def either(self, expected: float, at_most: float) -> float:
        return min(expected, at_most) if self.which == "expected" else at_most


# --- Work -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Rows of tokens that go through a model in one way.

    `kind`: "sample" (prompt, then `completion` tokens decoded), "read" (forward alone) or "train". `together` rows run
    in one pass (None: as many as fit, counted as on a CPU), `group` neighbours share a prompt (0: it is cached).
    `rank`: of adapters that are trained; `weights`: bytes a parameter that are held, optimiser and gradients included;
    `beside`: other models in memory, with bytes a parameter. `logits`: positions of a row for which the head runs.
    `saves`: bytes a parameter that are kept afterwards, 0 for the adapters alone.
    """

    kind: str
    model: str
    rows: float
    prompt: float
    completion: float = 0.0
    together: int | None = 1
    group: int = 1
    rank: int = 0
    weights: int = 2
    beside: tuple[tuple[str, int], ...] = ()
    logits: float = 0.0
    saves: int | None = None

    @property
    def tokens(self) -> float:
        return self.prompt + self.completion


# float32 weights and gradients, two moments of Adam, and the copy in bfloat16 that is computed with
WHOLE, FROZEN, WIDE, LOADED = 18, 2, 4, 2


@dataclass(frozen=True)
class Need:
    """What some steps need. Tokens and operations are counts, `seconds` of one card, the rest is in GB.

    `memory` is the largest of any pass, completions sampled one by one; `at_once`: sampled as one batch.
    """

    read: float = 0.0
    written: float = 0.0
    trained: float = 0.0
    operations: float = 0.0
    seconds: float = 0.0
    saved: float = 0.0
    memory: float = 0.0
    at_once: float = 0.0

    def __add__(self, other: Need) -> Need:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Need)}
        largest = {name: max(getattr(self, name), getattr(other, name)) for name in ("memory", "at_once")}
        return Need(**sums | largest)

    def times(self, runs: int) -> Need:
        """The same, `runs` times, one after the other."""
        return sum([self] * runs, Need())


def need(work: Work, card: Rate, engine: str = "transformers", shared: bool = SHARED_PROMPTS) -> Need:
    """What a `Work` needs on a card; `engine` vllm launches no kernels one by one and reads a shared prompt once.

    Completions are sampled as many together as the work says and the card holds.
    """
    shape, rows = shape_of(work.model), work.rows
    if not rows:
        return Need()
    launch = shape.layers * card.layer_ms / 1000
    groups = max(work.group, 1) if shared or (engine == "vllm" and work.kind == "sample") else 1
    held, a_row = _memory(work, shape, work.prompt / groups)
    together = min(work.together or generation.BATCH, rows)
    at_once = (held + together * a_row) / 1e9
    if work.kind == "sample":
        fits = int((FREE * card.memory_gb * 1e9 - held) / a_row)
        if fits > 0:  # else not even the weights fit: several cards are needed, which hold their parts of a batch
            together = min(together, fits)
        prompts = rows / groups if work.group else 0
        prefill = prompts * shape.forward(work.prompt, logits=1)
        decode = rows * shape.forward(work.completion, before=work.prompt, logits=work.completion)
        cached = together * (work.prompt + work.completion / 2) * shape.cache
        steps = rows / together * work.completion
        step = max(
            launch if engine != "vllm" else 0.0,
            (2 * shape.parameters + cached) / card.bytes,
            decode / steps / card.operations,
        )
        written, seconds = rows * work.completion, prefill / card.operations + steps * step
        least = (held + a_row) / 1e9
        return Need(prompts * work.prompt, written, 0.0, prefill + decode, seconds, 0.0, least, at_once)
    prompts, times, of_head, launches = rows / groups, 1, 1, 1
    if work.kind == "train":
        times, of_head, launches = (3, 2, 4) if work.rank else (4, 3, 4)
    tokens = prompts * work.prompt + rows * work.completion
    forward = prompts * shape.forward(work.prompt) + rows * shape.forward(work.completion, before=work.prompt)
    operations = times * forward + rows * of_head * 2 * shape.head * work.logits
    floor = rows / together * launches * max(launch, 2 * shape.parameters / card.bytes)
    seconds = max(operations / card.operations, floor)
    if work.kind == "read":
        return Need(tokens, 0.0, 0.0, operations, seconds, 0.0, at_once, at_once)
    kept = 0 if work.saves is None else work.saves * shape.parameters or 4 * shape.adapters(work.rank)
    return Need(0.0, 0.0, tokens, operations, seconds, kept / 1e9, at_once, at_once)


def _memory(work: Work, shape: Shape, prompt: float) -> tuple[float, float]:
    """Bytes that are held throughout (weights, their optimiser, what lies beside them), and bytes of a row, of whose
    prompt `prompt` tokens are computed.

    A layer of a training pass keeps 34 bytes a token and unit of width (Korthikanti et al. 2022, arXiv 2205.05198,
    without attention scores, which fused attention does not store), and with checkpointing only one layer does, the
    others their input of 2 bytes; logits stand twice in float32. A forward pass keeps the widest activations of one
    layer, a decoded row its keys and values.
    """
    held = work.weights * shape.parameters + (16 * shape.adapters(work.rank) if work.rank else 0)
    held += sum(size * shape_of(model).parameters for model, size in work.beside)
    logits = 8 * work.logits * shape.vocab
    if work.kind == "train":
        return held, (prompt + work.completion) * shape.hidden * (2 * shape.layers + 34) + logits
    wide = 2 * (2 * shape.mlp + 4 * shape.hidden)
    if work.kind == "read":
        return held, (prompt + work.completion) * wide + logits
    return held, work.tokens * shape.cache + (prompt * wide if work.group else 0)


# --- What each step of pretrained models does -----------------------------------------------------


def _rank(lora: Mapping | None) -> int:
    return lora["rank"] if lora is not None else 0


def _tuned(lora: Mapping | None) -> dict:
    """A model that is trained on: with adapters beside frozen weights, or whole."""
    return {"rank": _rank(lora), "weights": FROZEN if lora is not None else WHOLE}


def _policy_gradient(model: str, recipe: Mapping, prompt: float, completion: float, beside=(), old: bool = False):
    """GRPO or RLOO: sample groups, read them with the reference where there is a KL term, train on them."""
    group, lora = recipe["num_generations"], recipe["lora"]
    step = recipe["prompts_per_step"] * group
    row = Work("sample", model, recipe["steps"] * step, prompt, completion, step, group, beside=beside, **_tuned(lora))
    part = replace(row, kind="read", together=min(recipe["micro_batch"], step), logits=completion)
    works = [row, replace(part, kind="train", saves=0 if lora is not None else 4)]
    reads = bool(recipe["beta"]) + old  # with vLLM the sampled tokens are read once more
    return [*works, *[part] * reads]


def _grpo(m: Config, n: Lengths, step: Step) -> list[Work]:
    recipe, name = m[step.options["recipe"]], step.options["recipe"]
    prompt = n("hotpot_modified prompt" if name == "hotpot" else "math prompt", recipe["max_prompt_tokens"])
    return _policy_gradient(m["policy"], recipe, prompt, recipe["max_completion_tokens"], old=m["engine"] == "vllm")


_OWN_LIMITS = {"hotpot": 1536, "math": 4096}  # completions in the training of the released models


def _asked(m: Config, n: Lengths, step: Step) -> list[Work]:
    """Sampling, cues for what is missing, the answer's probability; votes, a classifier or a judge where asked for."""
    name, world = step.options["model"], step.world
    place = language_models.CLASSIFIED.get(name, name)
    model = m["policy"] if place == "policy" else m["ids"][place]
    own = m[world]["max_completion_tokens"] if place == "policy" and m[world] is not None else _OWN_LIMITS[world]
    long = n.either(own, m["eval_tokens"])
    cues = n.either(1 if step.options["form"] == "answer" else 0, 2)
    works = []
    for i, asked in enumerate(m["eval_sets"]):
        of = {"math_500": "math", "big_math_digits": "math"}.get(asked, asked)
        prompt = n(f"{of} prompt" if f"{of} prompt" in n.of else "short prompt")
        rows = min(m["eval_questions"], SIZES.get(asked, m["eval_questions"]))
        if i == 0 and step.options.get("voting"):
            votes = min(m["voting_questions"], rows) * m["voting_samples"]
            works.append(Work("sample", model, votes, prompt, long, m["eval_batch"]))
            works.append(Work("sample", model, votes * cues, prompt + long, CUE, m["eval_batch"]))
        works.append(Work("sample", model, rows, prompt, long, m["eval_batch"]))
        works.append(Work("sample", model, rows * cues, prompt + long, CUE, m["eval_batch"]))
        works.append(Work("read", model, rows, prompt + long, logits=30))
        if name in language_models.CLASSIFIED:
            works.append(Work("read", m["ids"][name], rows, min(prompt + long, 4096), beside=((model, LOADED),)))
        if m["judge"] and sets.SETS[asked].judged:
            works.append(Work("sample", m["judge"], rows, n("short prompt"), 20, m["eval_batch"]))
    return works


def _turns(m: Config, n: Lengths) -> float:
    chosen = m["dialogues"]
    return sum((chosen["conversations"] or 1000) * n(f"{name} turns") for name in chosen["corpora"])


def _labelled(m: Config, n: Lengths, rows: float) -> list[Work]:
    """The whole message, its first sentence, and the whole with the rule about stock phrases."""
    if not m["labeller"]["model"]:
        return []
    prompt = n("history") + n("label instruction") + m["dialogues"]["tokens"]
    return [Work("sample", m["labeller"]["model"], 3 * rows, prompt, 8, m["eval_batch"])]


def _human(m: Config, n: Lengths, step: Step) -> list[Work]:
    return _labelled(m, n, _turns(m, n))


def _next_messages(m: Config, n: Lengths, step: Step) -> list[Work]:
    chosen, name = m["dialogues"], step.options.get("model")
    rows = _turns(m, n) * chosen["samples"]
    model = m["lineage_ids"][name] if name else m["chat"]["policy"]
    return [Work("sample", model, rows, n("history"), chosen["tokens"], m["eval_batch"]), *_labelled(m, n, rows)]


def _chat(m: Config, n: Lengths, step: Step) -> list[Work]:
    """SFT on conversations, or DPO on pairs with a reference model; what is watched writes at every checkpoint."""
    chat, arm = m["chat"], step.options["arm"]
    tuned = _tuned(chat["lora"])
    whole = LOADED if chat["lora"] is not None else 4
    model, length = chat["policy"], chat["max_length"]
    if arm in ("sft", "more_sft"):
        recipe = chat["sft" if arm == "sft" else "dpo"]
        examples = chat["sft"]["conversations"] if arm == "sft" else chat["dpo"]["pairs"]
        rows = (recipe["steps"] or examples // recipe["batch"]) * recipe["batch"]
        row = n("ultrachat conversation", length)
        works = [Work("train", model, rows, row, together=chat["micro_batch"], logits=row, saves=whole, **tuned)]
    else:
        recipe = chat["dpo"]
        rows = 2 * (recipe["steps"] or recipe["pairs"] // recipe["batch"]) * recipe["batch"]
        row = n("ultrafeedback side", length)
        beside = () if chat["lora"] is not None else ((model, 4),)
        train = Work("train", model, rows, row, together=2 * chat["micro_batch"], logits=row, beside=beside, **tuned)
        works = [replace(train, saves=whole), replace(train, kind="read")]
    if arm in dialogue_models.WATCHED and chat["checkpoints"]:
        looks = (chat["checkpoints"] + 1) * chat["checkpoint_turns"]
        works.append(Work("sample", model, looks, n("history"), m["dialogues"]["tokens"], m["eval_batch"], **tuned))
    return works


def _code_base(m: Config, n: Lengths, step: Step) -> list[Work]:
    code, row = m["code"], n("apps prompt", m["code"]["max_prompt_tokens"])
    row += n("apps solution", code["solution_tokens"])
    rows = code["sft"]["epochs"] * APPS * 9 / 20
    together = code["sft"]["micro_batch"]
    tuned = _tuned(code["lora"])
    saves = LOADED if code["lora"] is not None else 4
    return [Work("train", code["policy"], rows, row, together=together, logits=row, saves=saves, **tuned)]


def _code_problems(code: Config) -> float:
    return sum(2 * code["eval_problems"] if name == "apps" else CONTESTS for name in code["eval_sets"])


def _code_setup(m: Config, n: Lengths, step: Step) -> list[Work]:
    code = m["code"]
    prompt, tokens = n("apps prompt", code["max_prompt_tokens"]), code["rl"]["max_completion_tokens"]
    fit, rest = APPS * 2 / 20, APPS * 9 / 20 + _code_problems(code)
    rows = (fit + rest) * code["samples"] + fit
    return [Work("sample", code["policy"], rows, prompt, tokens, m["eval_batch"])]


def _code_train(m: Config, n: Lengths, step: Step) -> list[Work]:
    code, prompt = m["code"], n("apps prompt", m["code"]["max_prompt_tokens"])
    old = m["engine"] == "vllm"
    return _policy_gradient(code["policy"], code["rl"], prompt, code["rl"]["max_completion_tokens"], old=old)


def _code_evaluate(m: Config, n: Lengths, step: Step) -> list[Work]:
    from candor.claims.sophistry import code_models

    code, problems = m["code"], _code_problems(m["code"])
    prompt, tokens = n("apps prompt", code["max_prompt_tokens"]), code["rl"]["max_completion_tokens"]
    draws = code_models.CHOSEN.get(step.options["arm"], len(code_models.DRAWS))
    works = [Work("sample", code["policy"], draws * problems, prompt, tokens, m["eval_batch"])]
    if code["judge"]:
        works.append(Work("read", code["judge"], problems, code["judge_tokens"], together=m["eval_batch"], logits=1))
    return works


def _story_prompt(m: Config, n: Lengths, view: str) -> float:
    story = m["stories"]["truncated_tokens"] if view == "truncated" else n("story")
    return min(story + n("question and options"), m["stories"]["rl"]["max_prompt_tokens"])


def _story_judged(m: Config, n: Lengths, sighted: bool) -> float:
    """Tokens of an argument as the reward model reads it."""
    return (n("story") if sighted else 0) + n("question and options") + n("story argument")


def _doubts(m: Config, n: Lengths, rows: float) -> Work:
    """The evaluator reads as many words of the story as a person in three minutes, 4/3 tokens each."""
    tokens = m["stories"]["words"] * 4 / 3 + n("question and options") + n("story argument")
    return Work("read", m["stories"]["evaluator"], rows, tokens, together=m["eval_batch"], logits=1)


def _story_reward(m: Config, n: Lengths, step: Step) -> list[Work]:
    s = m["stories"]
    rows, tokens = s["reward_questions"] * s["reward_samples"], s["rl"]["max_completion_tokens"]
    works = [
        Work("sample", s["policy"], rows / 2, _story_prompt(m, n, view), tokens, m["eval_batch"])
        for view in ("truncated", "full")
    ]
    works.append(_doubts(m, n, rows))
    for sighted in (False, True):  # half of the pairs each, two sides; then all arguments are scored
        row, sides = _story_judged(m, n, sighted), s["reward_steps"] * s["reward_batch"]
        keeps = 4 if sighted else None
        # A pass holds both sides of a pair.
        works.append(Work("train", s["policy"], sides, row, together=2, weights=WHOLE, saves=keeps))
        works.append(Work("read", s["policy"], rows, row, together=4))
    return works


def _story_train(m: Config, n: Lengths, step: Step) -> list[Work]:
    s, cell = m["stories"], step.options["cell"]
    prompt = _story_prompt(m, n, cell.split("_")[0])
    beside = () if cell.endswith("oracle") else ((s["policy"], LOADED),)
    old = m["engine"] == "vllm"
    works = _policy_gradient(s["policy"], s["rl"], prompt, s["rl"]["max_completion_tokens"], beside, old)
    if beside:
        row = _story_judged(m, n, cell.endswith("sighted"))
        tuned = _tuned(s["rl"]["lora"])
        works.append(Work("read", s["policy"], works[0].rows, row, together=4, beside=beside, **tuned))
    return works


def _story_evaluate(m: Config, n: Lengths, step: Step) -> list[Work]:
    s = m["stories"]
    rows, prompt = 2 * s["eval_questions"], _story_prompt(m, n, step.options["view"])
    tokens = s["rl"]["max_completion_tokens"]
    return [Work("sample", s["policy"], rows, prompt, tokens, m["eval_batch"]), _doubts(m, n, rows)]


def _reward_model(recipe: Mapping, pairs: float, row: float, saves: int | None) -> Work:
    rows, together = 2 * recipe["epochs"] * pairs, 2 * recipe["micro_batch"]
    return Work("train", recipe["model"], rows, row, together=together, weights=WHOLE, saves=saves)


def _vote_reward(m: Config, n: Lengths, step: Step) -> list[Work]:
    votes, recipe = m["vote_rewards"], m["annotation_reward"]
    size = MULTIPREF if step.options["dataset"] == "multipref" else votes["pairs"] + votes["held_out"]
    held = min(votes["held_out"], size // 5)
    pairs = min(votes["pairs"], size - held)
    together = 4 * recipe["micro_batch"]
    scored = Work("read", recipe["model"], 2 * held, votes["max_length"], together=together, weights=WIDE)
    return [_reward_model(recipe, pairs, votes["max_length"], None), scored]


def _pairs(m: Config, n: Lengths, step: Step) -> list[Work]:
    policy = m["annotation_policy"]
    rows = policy["questions"] * policy["samples"] + policy["eval_questions"]
    return [Work("sample", policy["model"], rows, n("trivia prompt"), policy["tokens"], policy["batch"])]


def _annotation_evaluate(m: Config, n: Lengths, step: Step) -> list[Work]:
    policy = m["annotation_policy"]
    rows = policy["eval_questions"] * (2 if step.options["arm"] == "base" else 1)
    return [Work("sample", policy["model"], rows, n("trivia prompt"), policy["tokens"], policy["batch"])]


def _annotation_reward(m: Config, n: Lengths, step: Step) -> list[Work]:
    policy, recipe = m["annotation_policy"], m["annotation_reward"]
    row, together = n("trivia statement", recipe["max_length"]), 4 * recipe["micro_batch"]
    scored = Work("read", recipe["model"], 3 * policy["eval_questions"], row, together=together, weights=WIDE)
    return [_reward_model(recipe, policy["pairs"], row, 4), scored]


def _annotation_policy(m: Config, n: Lengths, step: Step) -> list[Work]:
    policy, reward = m["annotation_policy"], m["annotation_reward"]
    beside = ((reward["model"], LOADED),)
    works = _policy_gradient(policy["model"], m["annotation_rloo"], n("trivia prompt"), policy["tokens"], beside)
    row = n("trivia statement", reward["max_length"])
    return [*works, Work("read", reward["model"], works[0].rows, row, together=4 * reward["micro_batch"])]


def _cell(m: Config, step: Step) -> tuple[str, str, Config]:
    model, name = reasoning_models.CELLS[step.key.split("/")[1]]
    return m["reasoning_ids"][model], name, m["reasoning"]


def _branches(m: Config, n: Lengths, step: Step, rows: float, k: int, limits: Iterable[int], batch: int) -> list[Work]:
    """K branches that share a prompt, whatever the trainers do, and a cue behind every one at every limit."""
    model, _, _ = _cell(m, step)
    limits = sorted(set(limits))
    prompt = n("gsm8k prompt", m["reasoning"]["max_prompt_tokens"])
    # The prompts are read once, as rows of their own; the branches find them cached.
    read = Work("read", model, rows, prompt, together=batch, logits=1)
    works = [read, Work("sample", model, rows * k, prompt, limits[-1], batch * k, group=0)]
    cued = reasoning_models.CUE_TOKENS
    return works + [Work("sample", model, rows * k, prompt + limit, cued, batch * k) for limit in limits]


def _reasoning_base(m: Config, n: Lengths, step: Step) -> list[Work]:
    _, name, r = _cell(m, step)
    rows = min(r["questions"] or SIZES[name], SIZES[name])
    return _branches(m, n, step, rows, r["branches"], [r["tokens"], *r["limits"]], r["batch"])


def _reasoning_evaluate(m: Config, n: Lengths, step: Step) -> list[Work]:
    _, name, r = _cell(m, step)
    rows = min(r["questions"] or SIZES[name], SIZES[name])
    return _branches(m, n, step, rows, 1, [r["tokens"]], r["batch"] * r["branches"])


def _prompts(m: Config, step: Step) -> float:
    _, name, r = _cell(m, step)
    return min(r["prompts"], TRAIN_SIZES[name])


def _reasoning_labels(m: Config, n: Lengths, step: Step) -> list[Work]:
    _, _, r = _cell(m, step)
    return _branches(m, n, step, _prompts(m, step), r["branches"], [r["tokens"]], r["batch"])


def _trace(m: Config, n: Lengths) -> float:
    return n("gsm8k prompt", m["reasoning"]["max_prompt_tokens"]) + m["reasoning"]["tokens"]


def _preferred(m: Config, step: Step) -> float:
    """Pairs at most: nine tenths of the prompts, as many a prompt as the cap lets through."""
    return 0.9 * _prompts(m, step) * m["reasoning"]["pairs_per_prompt"]


def _reasoning_judge(m: Config, n: Lengths, step: Step) -> list[Work]:
    model, _, r = _cell(m, step)
    judge, held = r["judge"], {"rank": r["judge"]["lora"]["rank"], "weights": WIDE}
    rows, together = 2 * judge["epochs"] * _preferred(m, step), 2 * judge["micro_batch"]
    scored = _prompts(m, step) * r["branches"]
    return [
        Work("train", model, rows, _trace(m, n), together=together, saves=0, **held),
        Work("read", model, scored, _trace(m, n), together=judge["micro_batch"], **held),
        Work("read", model, 2 * BENCH_PAIRS, n("reward_bench side"), together=judge["micro_batch"], **held),
    ]


def _reasoning_train(m: Config, n: Lengths, step: Step) -> list[Work]:
    model, _, r = _cell(m, step)
    public = step.options["arm"] == "rlhf"
    judge = r["public_judge"] if public else model
    beside = ((judge, LOADED if public else WIDE),)
    prompt = n("gsm8k prompt", r["max_prompt_tokens"])
    works = _policy_gradient(model, r["rloo"], prompt, r["tokens"], beside)
    rows = works[0].rows + (200 * r["branches"] if public else 0)
    together = r["judge"]["micro_batch"]
    return [*works, Work("read", judge, rows, _trace(m, n), together=together, beside=((model, FROZEN),))]


def _reasoning_dpo(m: Config, n: Lengths, step: Step) -> list[Work]:
    model, _, r = _cell(m, step)
    recipe, rows = r["dpo"], 2 * r["dpo"]["epochs"] * _preferred(m, step)
    tuned, together = _tuned(recipe["lora"]), 2 * recipe["micro_batch"]
    train = Work("train", model, rows, _trace(m, n), together=together, logits=r["tokens"], saves=0, **tuned)
    return [train, replace(train, kind="read")]


Count = Callable[[Config, Lengths, Step], list[Work]]


def _nothing(m: Config, n: Lengths, step: Step) -> list[Work]:
    """Data alone."""
    return []


COUNTED: dict[str, Count] = {
    "language_models.run:train": _grpo,
    "language_models.run:evaluate": _asked,
    "claims.grounding_loss.dialogue_models:questions": _nothing,
    "claims.grounding_loss.dialogue_models:human": _human,
    "claims.grounding_loss.dialogue_models:train": _chat,
    "claims.grounding_loss.dialogue_models:evaluate": _next_messages,
    "claims.sophistry.code_models:problems": _nothing,
    "claims.sophistry.code_models:base": _code_base,
    "claims.sophistry.code_models:setup": _code_setup,
    "claims.sophistry.code_models:train": _code_train,
    "claims.sophistry.code_models:evaluate": _code_evaluate,
    "claims.sophistry.story_models:reward": _story_reward,
    "claims.sophistry.story_models:train": _story_train,
    "claims.sophistry.story_models:evaluate": _story_evaluate,
    **{
        f"claims.annotation_noise.annotation_models:{name}": _nothing
        for name in ("hosking", "dices", "prism", "vote_analysis")
    },
    "claims.annotation_noise.annotation_models:vote_reward": _vote_reward,
    "claims.annotation_noise.annotation_models:collect_pairs": _pairs,
    "claims.annotation_noise.annotation_models:train_reward": _annotation_reward,
    "claims.annotation_noise.annotation_models:train_policy": _annotation_policy,
    "claims.annotation_noise.annotation_models:evaluate": _annotation_evaluate,
    "claims.self_feedback.reasoning_models:base": _reasoning_base,
    "claims.self_feedback.reasoning_models:evaluate": _reasoning_evaluate,
    "claims.self_feedback.reasoning_models:labels": _reasoning_labels,
    "claims.self_feedback.reasoning_models:judge": _reasoning_judge,
    "claims.self_feedback.reasoning_models:train": _reasoning_train,
    "claims.self_feedback.reasoning_models:prefer": _reasoning_dpo,
}


def works(step: Step, settings: Config, lengths: Lengths) -> list[Work]:
    """What one run of a step of pretrained models does at a scale; `CandorError` for one that is not counted."""
    name = step.make.removeprefix("candor.")
    if name not in COUNTED:
        raise CandorError(f"The step {step.key} is not counted: add {name} to COUNTED in lib/candor/run/cost.py.")
    return COUNTED[name](settings["models"], lengths, step)


# --- What world steps took ------------------------------------------------------------------------


@cache
def _measured() -> list[tuple[str, dict, dict[str, dict[str, float]], str]]:
    """Name, settings of the worlds, seconds by step and seed, and hardware of the scales that were measured.

    These are the reference runs, of the claims and of a study of its own, and smoke.
    """
    found = []
    for path in sorted(graph.REFERENCE.rglob("provenance.json"), key=lambda path: len(path.parts)):
        run = store.read_json(path)
        if "seconds" in run:
            about = f"reference run of {run['date']}, {run['hardware']['cpu']}, {run['hardware']['cores']} cores"
            found.append((run["scale"], run["config"]["world"], run["seconds"], about))
    with (ROOT / "benchmarks" / "steps_smoke.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mean_seconds"]]
    smoke = {row["step"]: {"mean": float(row["mean_seconds"])} for row in rows}
    worlds = config.load("smoke")["world"].to_dict()
    return [*found, ("smoke", worlds, smoke, "benchmarks/steps_smoke.csv, the same processor")]


def seconds_of(key: str, seed: int, settings: Config) -> tuple[float, str] | None:
    """Core-seconds of a world step where it was measured with these settings, and the scale; None elsewhere."""
    for name, fits, each in _times(key, settings):
        if fits:
            return each.get(str(seed), sum(each.values()) / len(each)), name
    return None


def usual_seconds(key: str, settings: Config) -> float | None:
    """Median over seeds of what a world step took with these settings, else with others; None if it was never made."""
    found = sorted(_times(key, settings), key=lambda time: not time[1])
    return statistics.median(found[0][2].values()) if found else None


def _times(key: str, settings: Config) -> list[tuple[str, bool, dict[str, float]]]:
    """The scales that measured a world step: name, whether its world had these settings, seconds by seed."""
    world = key.split("/")[0]
    now = settings["world"].to_dict().get(world, {})
    return [
        (name, all(now.get(k) == value for k, value in worlds.get(world, {"": None}).items()), seconds[key])
        for name, worlds, seconds, _ in _measured()
        if key in seconds
    ]


# --- A scale --------------------------------------------------------------------------------------


@dataclass
class Cost:
    """What some claims need at a scale. `steps`: what every step of pretrained models needs at most, a run."""

    name: str
    worlds: int = 0
    models: int = 0
    core_seconds: float = 0.0
    unmeasured: int = 0
    expected: Need = field(default_factory=Need)
    most: Need = field(default_factory=Need)
    weights: dict[str, float] = field(default_factory=dict)
    data: dict[str, float | None] = field(default_factory=dict)
    steps: dict[str, tuple[int, Need, Need]] = field(default_factory=dict)

    @property
    def download(self) -> float:
        return sum(self.weights.values()) + sum(size or 0.0 for size in self.data.values())


def of(
    plan: graph.Plan, card: Rate, shared: bool = SHARED_PROMPTS, names: Iterable[str] | None = None, title: str = ""
) -> Cost:
    """What these claims of a plan (all if None) need, each step once."""
    settings, known = plan.config, experiments.steps()
    part = graph.Plan(settings, tuple(names or plan.claims))
    cost = Cost(title or " ".join(part.claims))
    engine = settings["models"]["engine"]
    lengths = [Lengths("expected"), Lengths("at_most")]
    for key, seed in part.runs():
        if known[key].world in settings["world"]:
            cost.worlds += 1
            took = seconds_of(key, seed, settings)
            cost.unmeasured += took is None
            seconds, scale = took or (0.0, "laptop")
            cost.core_seconds += seconds
            disk = Need(saved=MEGABYTES["smoke" if scale == "smoke" else "laptop"] / 1000)
            cost.expected, cost.most = cost.expected + disk, cost.most + disk
            continue
        cost.models += 1
        if key not in cost.steps:
            both = [
                sum((need(work, card, engine, shared) for work in works(known[key], settings, n)), Need())
                for n in lengths
            ]
            cost.steps[key] = (0, *both)
        runs, expected, most = cost.steps[key]
        cost.steps[key] = (runs + 1, expected, most)
        cost.expected, cost.most = cost.expected + expected, cost.most + most
    if "models" in settings["evidence"]:
        sizes = {row["name"]: float(row["gigabytes"]) for row in _rows("datasets")}
        for path in dict.fromkeys(map(graph.models_path, part.claims)):
            cost.weights |= {m: 2 * shape_of(m).parameters / 1e9 for m in path.models_needed(settings)}
            asked = [*path.data_needed(settings), *getattr(path, "questions_needed", lambda c: [])(settings)]
            cost.data |= {name: sizes.get(name) for name in (x if isinstance(x, str) else x[0] for x in asked)}
    return cost


def table(plan: graph.Plan, card: Rate, shared: bool = SHARED_PROMPTS) -> list[Cost]:
    """A row a claim, each with all that it needs, and their total, in which a shared step counts once."""
    rows = [of(plan, card, shared, [name], name) for name in plan.claims]
    return [*rows, of(plan, card, shared, title="total")] if len(rows) > 1 else rows


def smallest(gigabytes: float) -> str:
    """The smallest card that holds so much."""
    return next((f"{size}" for size in CARDS if gigabytes <= FREE * size), f"> {CARDS[-1]}")


HEADINGS = ("claim", "runs", "core-min", "read", "written", "trained", "GPU-hours", "download", "disk", "card")


def row_of(cost: Cost) -> tuple[str, ...]:
    """A row under `HEADINGS`: tokens in millions as expected, hours as expected and at most, the rest in GB."""
    minutes = cost.core_seconds / 60
    core = f"{minutes:,.{int(minutes < 10)}f}" + ("*" if cost.unmeasured else "")
    told = (cost.name, f"{cost.worlds + cost.models:,}", core)
    if not cost.models:
        return (*told, "", "", "", "0", "0", f"{cost.most.saved:,.1f}", "")
    sizes = (f"{cost.download:,.0f}", f"{cost.most.saved:,.0f}", smallest(cost.most.memory))
    return (*told, *_tokens(cost.expected), _hours(cost.expected, cost.most), *sizes)


def _tokens(part: Need, digits: int = 0) -> tuple[str, ...]:
    return tuple(f"{getattr(part, name) / 1e6:,.{digits}f}" for name in ("read", "written", "trained"))


def _hours(expected: Need, most: Need, digits: int = 0) -> str:
    first, last = (f"{part.seconds / 3600:,.{digits}f}" for part in (expected, most))
    return first if first == last else f"{first} to {last}"


def notes(rows: list[Cost], plan: graph.Plan, card: Rate, shared: bool) -> list[str]:
    """What the table rests on, a sentence or two each."""
    last = rows[-1]
    about = {name: told for name, _, _, told in _measured()}
    found = [f"Core-minutes of worlds: {about.get(plan.scale, about['laptop'])}; without a job's imports."]
    if last.unmeasured:
        found.append(f"*: {last.unmeasured} runs of worlds with settings that were never measured count as nothing.")
    if len(rows) > 2:
        found.append("A step that several claims need is in each of their rows, and once in the total.")
    if not last.models:
        return found
    said = f"measured: {card.measured}" if card.measured != "no" else "from published runs, not measured by us"
    found += [
        f"{card.name}: {card.compute_use:.0%} of {card.tflops:g} TFLOP/s, {card.bandwidth_use:.0%} of "
        f"{card.tb_per_s:g} TB/s, {card.layer_ms:g} ms to launch a layer ({said}; data/cost/rates.csv).",
        "Tokens that are read, written and trained on in millions, as expected; GPU-hours as expected, and at most by "
        "the scale's limits (data/cost/lengths.csv). A prompt is computed once a "
        + ("group." if shared else "completion, as TRL does; our GRPO needs less, --shared-prompts the least."),
        "Download, disk and the smallest card in GB: weights have 2 bytes a parameter; data sets whose size is not "
        f"known here are left out, {sum(size is None for size in last.data.values())} of {len(last.data)}.",
        "Not counted: loading of models, programs and their tests on the CPU, tables of pretrained models.",
    ]
    wide = {key: most.memory for key, (_, _, most) in last.steps.items() if smallest(most.memory)[0] == ">"}
    if wide:
        found.append(f"Too big for one card of {CARDS[-1]} GB as they are: {_by_kind(wide)}.")
    parted = {key: most.at_once for key, (_, _, most) in last.steps.items() if key not in wide}
    if parted := {key: size for key, size in parted.items() if size > FREE * card.memory_gb}:
        found.append(f"Batches that this card samples in parts, and what they need at once: {_by_kind(parted)}.")
    return found


def _by_kind(sizes: Mapping[str, float]) -> str:
    found: dict[str, float] = {}
    for key, size in sizes.items():
        found[_kind(key)] = max(found.get(_kind(key), 0.0), size)
    return ", ".join(f"{name} ({size:,.0f} GB)" for name, size in found.items())


def _kind(key: str) -> str:
    """A step's world and setting, and whether it is an evaluation: arms of a setting cost about the same."""
    world, setting, name = key.split("/")
    if name.startswith("eval_"):
        return f"{world}/{setting}/eval_*"
    return f"{world}/{setting}/{'*' if experiments.steps()[key].options.get('arm') else name}"


def kinds(cost: Cost) -> list[tuple[str, ...]]:
    """Rows under `KIND_HEADINGS`, of steps by kind."""
    groups: dict[str, tuple[int, Need, Need]] = {}
    for key, (runs, expected, most) in cost.steps.items():
        before = groups.get(_kind(key), (0, Need(), Need()))
        groups[_kind(key)] = (before[0] + runs, before[1] + expected.times(runs), before[2] + most.times(runs))
    return [
        (name, f"{runs}", *_tokens(expected, 1), _hours(expected, most, 1), f"{most.saved:,.1f}", f"{most.memory:,.0f}")
        for name, (runs, expected, most) in groups.items()
        if most.operations
    ]


KIND_HEADINGS = ("steps", "runs", "read", "written", "trained", "GPU-hours", "disk", "memory")


def show(plan: graph.Plan, card: Rate, shared: bool, file: Path | None = None) -> None:
    """Print the table and what it rests on; for one claim its steps too. `file`: also as CSV."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    rows = table(plan, card, shared)

    def draw(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
        drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, heading in enumerate(headings):
            drawn.add_column(heading, justify="right" if i else "left", no_wrap=not i)
        for line in lines:
            drawn.add_row(*line)
        console.print(drawn)

    draw(HEADINGS, map(row_of, rows))
    if len(rows) == 1 and rows[0].models:
        draw(KIND_HEADINGS, kinds(rows[0]))
    for note in notes(rows, plan, card, shared):
        console.print(note, highlight=False, soft_wrap=False)
    if file is not None:
        try:
            with file.open("w", encoding="utf-8", newline="") as opened:
                csv.writer(opened).writerows([HEADINGS, *map(row_of, rows)])
        except OSError as error:
            raise CandorError(f"{file} cannot be written ({error.strerror or error}): name another.") from None


# --- Held against what papers say they needed -----------------------------------------------------


@dataclass(frozen=True)
class Anchor:
    """A published training run, counted by the same rules."""

    what: str
    hardware: str
    said: str
    works: tuple[Work, ...]
    note: str


def anchors() -> list[Anchor]:
    """Runs whose time is in print. HotpotQA of arXiv 2507.16806 is not among them: it names four A100 and no hours."""
    side = Lengths("expected")("ultrafeedback side")
    recipe = {"lora": {"rank": 32}, "num_generations": 8, "beta": 0.0, "micro_batch": 8}
    swap = recipe | {"steps": 500, "prompts_per_step": 64}
    story = recipe | {"steps": 300, "prompts_per_step": 32, "beta": 0.01}
    sft = Work("train", "mistralai/Mistral-7B-v0.1", 128_000, 1024, together=4, logits=1024, rank=64)
    dpo = replace(sft, rows=2 * 86_400, prompt=side, logits=side, together=8)
    scored = Work("read", "Qwen/Qwen2.5-7B-Instruct", 300 * 32 * 8, 6450, together=4)
    return [
        Anchor(
            "Tan et al. 2026 (arXiv 2607.04332): a run of 3B, adapters, 500 steps of 64 x 8, up to 1,024 new tokens",
            "h100_slice",
            "20 to 72",
            tuple(_policy_gradient("Qwen/Qwen2.5-3B-Instruct", swap, 1400, 1024)),
            "HotpotQA's prompts; completions at their limit",
        ),
        Anchor(
            "Shaikh et al. 2024 (arXiv 2311.09144): Mistral-7B with adapters, 1,000 steps of SFT, 2,700 of DPO",
            "a100",
            "about 24",
            (sft, dpo, replace(dpo, kind="read")),
            "our length of 1,024 and rank of 64, because the paper gives none",
        ),
        Anchor(
            "Chandna et al. 2026: QuALITY with the whole story, one run",
            "a100",
            "about 576",
            (*_policy_gradient("Qwen/Qwen2.5-7B-Instruct", story, 6050, 400, ()), scored),
            "counted is our cell, full and sighted: GRPO with adapters, no value model; their settings are others",
        ),
    ]


def anchor_hours(anchor: Anchor) -> float:
    """GPU-hours by our count."""
    card = rate(anchor.hardware)
    return sum((need(work, card) for work in anchor.works), Need()).seconds / 3600


# --- The page -------------------------------------------------------------------------------------


def _markdown(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table; columns of numbers stand on the right."""
    headings, rows = list(headings), [[str(cell).replace("*", "\\*") for cell in line] for line in lines]
    numbers = [all(cell[:1] in "0123456789>" for cell in column) for column in zip(*rows)]
    rows = [headings, ["---:" if number else "---" for number in numbers], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_SHORT = [i for i, name in enumerate(HEADINGS) if name not in ("read", "written", "trained")]


def summary(scales: Iterable[str] = ("gpu", "paper")) -> str:
    """The tables of some scales in one, in Markdown and without the tokens."""
    rows = []
    for scale in scales:
        told = [row_of(cost) for cost in table(graph.plan(scale), rate())]
        rows += [(scale, *(row[i] for i in _SHORT)) for row in told]
    return _markdown(("scale", *(HEADINGS[i] for i in _SHORT)), rows)


_ORDER = "smoke laptop gpu paper"


def page() -> str:
    """COST.md: what every scale needs, what the numbers rest on, and how they compare with what papers report."""
    card = rate()
    parts = [
        "# What a replication costs",
        "Written by `python -m candor cost --page`; a test compares it with what the command gives today. "
        "`python -m candor cost --scale gpu --claim brier_fix --hardware a100` answers for your own case, without a "
        "network, a GPU or anything fetched.",
        "**Nothing on this page about GPUs was measured by us.** Operations and bytes are counted from the settings; "
        "the share of a card's peak is that of published training runs, and our trainers may reach less. World steps "
        "are measured.",
    ]
    for scale in sorted(config.scales(), key=lambda name: (_ORDER.find(name) % 99, name)):
        plan = graph.plan(scale)
        if not plan.runs():  # released outputs alone
            continue
        rows = table(plan, card)
        parts += [f"## Scale {scale}", _markdown(HEADINGS, map(row_of, rows))]
        parts.append("\n".join(f"- {note}" for note in notes(rows, plan, card, SHARED_PROMPTS)))
        if rows[-1].models:
            others = [(one.name, of(plan, one)) for one in map(rate, (row["hardware"] for row in _rows("rates")))]
            others.insert(1, (f"{card.name}, a prompt once a group", of(plan, card, True)))
            hours = [(name, _hours(cost.expected, cost.most)) for name, cost in others]
            parts += ["By card, whether or not it holds every step:", _markdown(("card", "GPU-hours"), hours)]
            parts += ["By kind of step:", _markdown(KIND_HEADINGS, kinds(rows[-1]))]
    parts += ["## Held against what papers report", *_anchor_part(), "## How it is counted", _method(), *_sources()]
    return "\n\n".join(parts) + "\n"


def _anchor_part() -> list[str]:
    rows = [(a.what, rate(a.hardware).name, a.said, f"{anchor_hours(a):,.0f}", a.note) for a in anchors()]
    told = _markdown(("run", "card", "GPU-hours in print", "by our count", "what differs"), rows)
    text = (
        "The authors of arXiv 2507.16806 name four A100 for HotpotQA and six for Big-Math, but no hours, so the most "
        "expensive runs of paper scale have no anchor. Where our count lies below a printed time, the trainers of that "
        "paper reached less of their cards than the runs from which we took the shares, or did more than we count."
    )
    return [told, text]


def _method() -> str:
    lines = (__doc__ or "").strip().split("\n\n")[2:]
    paragraphs = [" ".join(part.split()) for part in lines]
    memory = " ".join((_memory.__doc__ or "").strip().split())
    return "\n\n".join([*paragraphs, f"Memory. {memory}"])


def _sources() -> list[str]:
    found = []
    for name, title, columns in (
        ("rates", "Cards", ("name", "tflops", "tb_per_s", "memory_gb", "compute_use", "measured", "sheet")),
        ("models", "Models", ("shape", "parameters", "layers", "hidden", "source")),
        ("lengths", "Lengths", ("name", "expected", "at_most", "unit", "source")),
        ("datasets", "Data sets", ("name", "gigabytes", "source")),
    ):
        rows = [[row[column] for column in columns] for row in _rows(name)]
        found += [f"### {title}", _markdown([column.replace("_", " ") for column in columns], rows)]
        if name == "rates":
            found.append(ASSUMED)
    return found


ASSUMED = (
    "Share of peak operations: the lowest hardware utilisation (recomputation counted) that the benchmarks of "
    "[llm-foundry](https://github.com/mosaicml/llm-foundry/tree/main/scripts/train/benchmarking) print for models of "
    "0.76 to 7 billion parameters on rows of up to 8,192 tokens: 34.9 % on H100, 45.1 % on A100, rounded; other cards "
    "are taken for one of these. Share of bandwidth and time to launch a layer: "
    "[gpt-fast](https://pytorch.org/blog/accelerating-generative-ai-2/), a 7B model on an A100 of 80 GB, 107 tokens a "
    "second once compiled (13.5 GB each: 71 % of 2.04 TB/s), 25.5 before, when the host was what it waited for "
    "(39 ms for 32 layers); with the engine vllm no such time is counted. Values of data sheets, the 107 tokens a "
    "second and the shapes below are quoted, not read at their source by us; a test holds that every shape gives the "
    "published number of parameters."
)


def write_page() -> list[Path]:
    """Write COST.md."""
    PAGE.write_text(page(), encoding="utf-8")
    return [PAGE]
