"""What a replication needs: counts against torch's own counter, measured minutes, one sentence on what is wrong."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.language_models import work as works
from candor.language_models.work import read, sample, train, tuned
from candor.run import cost
from candor.run import plan as graph
from candor.run import steps as experiments

SECONDS, SAVED, MEMORY, AT_ONCE = map((*cost.SUMS, *cost.MOST).index, ("seconds", "saved", "memory", "at_once"))
OPERATIONS, TOKENS = cost.SUMS.index("operations"), [0, 1, 2]


@pytest.fixture(scope="module")
def tiny():
    """A random decoder of three layers, and its row in a file of shapes in place of `data/cost/models.csv`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    names = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 160}
    options = {"vocab_size": 300, "num_hidden_layers": 3, "tie_word_embeddings": False, "attn_implementation": "eager"}
    return Qwen2ForCausalLM(Qwen2Config(**names, **options))


@pytest.fixture
def shape(tiny, tmp_path, monkeypatch):
    matrices = sum(weight.numel() for weight in tiny.parameters() if weight.dim() == 2)
    row = f"tiny,{matrices},3,64,4,2,16,160,3,300,0,tiny,here"
    heading = (cost.DATA / "models.csv").read_text().splitlines()[0]
    (tmp_path / "models.csv").write_text(f"{heading}\n{row}\n")
    for cached in (cost.shapes, cost.shape_of):
        cached.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(cost, "DATA", tmp_path)
        yield cost.shape_of("tiny")
    for cached in (cost.shapes, cost.shape_of):
        cached.cache_clear()


@pytest.fixture
def card():
    """A card with round numbers: half a TFLOP and half a GB a second, 1 ms a layer."""
    known = {"tflops": 1.0, "tb_per_s": 0.001, "memory_gb": 1.0, "layer_ms": 1.0, "operations": 5e11, "bytes": 5e8}
    return pd.Series(known)


# --- Counting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 2])
def test_operations_are_those_that_torch_counts(tiny, shape, card, rank):
    """Reading a row, and training on it with gradient checkpointing, all weights or adapters."""
    from copy import deepcopy

    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode

    model, ids, tokens = deepcopy(tiny), torch.randint(0, 300, (1, 48)), 48
    row = {"model": "tiny", "rows": 1, "prompt": 0, "completion": tokens, "logits": tokens}
    # Eager attention computes the half of the scores that the causal mask throws away.
    masked = 2 * shape.layers * shape.width * tokens**2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids)
    read_once = cost.need(read(**row), card)[OPERATIONS, 0]
    assert counter.get_total_flops() == pytest.approx(read_once + masked, rel=1e-6)
    if rank:
        model = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
        assert model.num_parameters(only_trainable=True) == rank * shape.adapters
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    counted = cost.need(train(**row, **tuned({"rank": rank} if rank else None)), card)[OPERATIONS, 0]
    # Scores have a gradient on both sides, whatever is trained; and torch spares the last matrix of every layer in the
    # second pass, whose output nobody needs.
    scores, spared = masked * (5 if rank else 4), 2 * shape.layers * tokens * (rank or shape.mlp) * shape.hidden
    assert counter.get_total_flops() == pytest.approx(counted + scores - spared, rel=1e-6)


def test_a_row_in_parts_takes_what_it_takes_whole(shape):
    assert cost.forward(shape, 30) + cost.forward(shape, 10, before=30) == pytest.approx(cost.forward(shape, 40))


def test_shapes_have_the_parameters_that_are_published():
    """Norms and biases, which the formula leaves out, are less than .04 %."""
    known = cost.shapes()
    a_layer = (
        known.hidden * known.head_dim * 2 * (known.heads + known.kv_heads) + known.gates * known.hidden * known.mlp
    )
    counted = known.layers * a_layer + known.unembedding * (2 - known.tied)
    assert (known.parameters / counted - 1).between(0, 0.0004).all()


def test_decoding_waits_for_the_host_or_for_the_memory(shape, card):
    """Two batches of 100 tokens: three layers of 1 ms a step, or with vllm every byte once a step."""
    work = sample("tiny", rows=8, prompt=20, completion=100, together=4)
    prefill = 8 * cost.forward(shape, 20, logits=1) / 0.5e12
    assert cost.need(work, card)[SECONDS] == pytest.approx(200 * 0.003 + prefill)
    a_step = (2 * shape.parameters + 4 * (20 + 50) * shape.cache) / 0.5e9
    assert a_step < 0.003
    assert cost.need(work, card, "vllm")[SECONDS] == pytest.approx(200 * a_step + prefill)
    assert cost.need(work, card)[TOKENS, 0].tolist() == [160, 800, 0]


def test_a_batch_that_does_not_fit_is_sampled_in_parts(shape, card):
    card["layer_ms"] = 100  # so that every step waits for the host
    work = sample("tiny", rows=64, prompt=20, completion=100, together=64)
    whole = cost.need(work, card)
    held, a_row = cost._memory(work, shape, 20)
    card["memory_gb"] = (held + 32 * a_row) / 1e9 / cost.FREE * 1.0001
    parts = cost.need(work, card)
    assert parts[SECONDS] == pytest.approx(2 * whole[SECONDS], rel=0.01)
    assert parts[AT_ONCE, 0] == whole[AT_ONCE, 0] > card.memory_gb * cost.FREE > parts[MEMORY, 0]


@pytest.mark.parametrize("kind", ["sample", "read", "train"])
def test_prompts_once_a_group(shape, card, kind):
    work = works.Work(kind, "tiny", rows=32, prompt=1000, completion=10, together=8, group=8)
    each, once = (cost.need(work, card, shared=shared)[:, 0] for shared in (False, True))
    own = 0 if kind == "sample" else 320
    assert [part[0] + part[2] for part in (each, once)] == [32 * 1000 + own, 4 * 1000 + own]
    assert once[OPERATIONS] < 0.25 * each[OPERATIONS] and once[MEMORY] <= each[MEMORY]


def test_adapters_need_less_than_all_weights(shape, card):
    row = {"model": "tiny", "rows": 16, "prompt": 0, "completion": 64, "together": 4}
    whole = cost.need(train(**row, saves=4, **tuned(None)), card)[:, 0]
    adapters = cost.need(train(**row, saves=0, **tuned({"rank": 2})), card)[:, 0]
    own = 16 * 64 * 8 * 2 * shape.adapters
    assert whole[OPERATIONS] == pytest.approx(4 / 3 * (adapters[OPERATIONS] - own))
    assert adapters[MEMORY] < whole[MEMORY]
    assert whole[SAVED] == pytest.approx(4 * shape.parameters / 1e9)
    assert adapters[SAVED] == pytest.approx(4 * 2 * shape.adapters / 1e9)


# --- Scales ---------------------------------------------------------------------------------------


def test_a_training_run_is_counted_from_its_settings():
    """HotpotQA at paper scale: 313 steps of 64 x 32 completions of at most 1,536 tokens, behind at most 3,072."""
    step = experiments.steps()["hotpot/policy/rlcr"]
    sampled, trained = step.work(config.load("paper")["models"], step)
    assert sampled.rows == trained.rows == 313 * 64 * 32
    assert (sampled.prompt[1], sampled.completion, trained.prompt[1]) == (3072, 1536, 3072)
    needed = cost.need(trained, cost.rate())[:, 1]
    assert needed[2] == 313 * 64 * 32 * 4608
    assert cost.smallest(needed[MEMORY]) == "> 80"  # all weights of 7B with their optimiser
    assert needed[OPERATIONS] > 8 * cost.shape_of("Qwen/Qwen2.5-7B").body * needed[2]


@pytest.mark.parametrize("scale", ["gpu", "paper"])
def test_every_step_of_pretrained_models_is_counted(scale):
    """All that exist, wanted by a scale or not; whatever needs a GPU does something on it."""
    models = {"math": {}, "released": ["classifier", "rlvr_math"]} if scale == "gpu" else {}
    settings = config.load(scale, overrides={"models": models})
    for key, step in experiments.steps().items():
        if step.world in settings["world"]:
            assert step.work is None, key
            continue
        needed = cost.of_step(step, settings, cost.rate())
        assert np.isfinite(needed).all() and (needed[:, 0] <= needed[:, 1] * 1.0001).all() and (needed >= 0).all(), key
        idle = not step.options.get("gpu", True) or key in ("apps/data/problems", "dialogues/data/eval_questions")
        assert (needed[OPERATIONS] > 0).all() == (not idle), key
        assert (needed[2] > 0).all() == step.trains, key
        assert (needed[SAVED] > 0).all() == (step.trains and "/votes/" not in key), key


def test_what_a_step_declares_is_no_part_of_its_fingerprint():
    known, settings = experiments.steps(), config.load("gpu")
    key = "quality/full_blind/rl"
    other = known | {key: replace(known[key], work=works.nothing)}
    assert steps.fingerprint(other[key], 11, other, settings) == steps.fingerprint(known[key], 11, known, settings)


def test_a_step_that_declares_nothing_is_said():
    step = steps.Step("hotpot/policy/new", "candor.language_models.run:paint")
    with pytest.raises(CandorError, match=r"hotpot/policy/new does not say what it asks of its models: give it `work`"):
        cost.of_step(step, config.load("gpu"), cost.rate())


def test_the_laptop_takes_what_the_reference_took():
    plan = graph.plan("laptop")
    last = cost.table(cost.runs(plan, cost.rate()), plan).loc["total"]
    reference = json.loads((graph.REFERENCE / "provenance.json").read_text())
    assert last.runs == len(plan.runs()) and last.models == last.operations == last.download == 0
    if not reference["missing"]:
        assert last.unmeasured == 0
        assert last.core_seconds / 60 == pytest.approx(reference["core_minutes"], abs=0.06)


def test_worlds_with_other_settings_are_not_guessed():
    settings = config.load("laptop", overrides={"world": {"witnesses": {"grpo_steps": 57}}})
    assert not cost.took("witnesses/expert/rlcr", settings)[1] and cost.took("arithmetic/standard/base", settings)[1]
    plan = graph.Plan(settings, ("brier_fix",))
    every = cost.runs(plan, cost.rate())
    row = cost.table(every, plan).loc["brier_fix"]
    assert row.unmeasured and cost.row_of("brier_fix", row)[2].endswith("*")
    assert any("never measured count as nothing" in note for note in cost.notes(every, plan, cost.rate()))


def test_shared_steps_count_once():
    plan = graph.Plan(config.load("gpu"), ("binary_reward", "brier_fix"))
    one, other, both = cost.table(cost.runs(plan, cost.rate()), plan)["most_seconds"]
    assert other <= both < one + other
    assert len(cost.downloads(plan, plan.claims)) == len(cost.downloads(plan, ["brier_fix"]))


def test_measured_rates_take_the_place_of_assumed_ones(tmp_path, monkeypatch):
    path = tmp_path / "long_prompts.json"
    monkeypatch.setattr(cost, "MEASURED", path)
    ran = {"compute_use": 0.2, "bandwidth_use": 0.5, "layer_ms": 0.9}
    path.write_text(json.dumps({"hardware": {"gpu": "NVIDIA H100 80GB HBM3"}, "rates": ran}))
    card = cost.rate("h100")
    assert (card.compute_use, card.bandwidth_use, card.layer_ms) == (0.2, 0.5, 0.9)
    assert card.operations == pytest.approx(0.2 * 989.4e12) and card.measured == "yes (NVIDIA H100 80GB HBM3)"
    assert cost.rate("a100").measured == "no"
    path.write_text(json.dumps({"hardware": {"gpu": None}}))
    assert cost.rate("h100").measured == "no"


def test_what_papers_report_is_of_the_same_order():
    """Within four times of it where our count is of their run; the last differs in more than speed, and says so."""
    first, second, last = cost.ANCHORS
    assert 20 / 4 < first.hours() < 4 * 72
    assert 24 / 4 < second.hours() < 4 * 24
    assert "others" in last.differs


# --- The page and the command ---------------------------------------------------------------------


def test_the_page_is_what_the_command_gives():
    """Otherwise: python -m candor cost --page."""
    assert (ROOT / "COST.md").read_text() == cost.page()


def test_the_command_needs_no_torch_and_writes_a_table(tmp_path):
    words = ["cost", "--scale", "gpu", "--claim", "brier_fix", "--csv", str(tmp_path / "cost.csv")]
    code = f"import sys; from candor.__main__ import main; sys.exit(main({words}) or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hotpot/policy/*" in done.stdout and "not measured by us" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    with (tmp_path / "cost.csv").open() as file:
        heading, row = csv.reader(file)
    assert tuple(heading) == cost.HEADINGS and row[0] == "brier_fix"


def test_an_unknown_model_is_said():
    settings = config.load("gpu", overrides={"models": {"policy": "someone/model"}})
    with pytest.raises(CandorError, match="The shape of someone/model is not known here: add its id to data/cost"):
        cost.runs(graph.Plan(settings, ("brier_fix",)), cost.rate())
