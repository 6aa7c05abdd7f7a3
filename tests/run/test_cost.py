"""What a replication needs: counts against torch's own counter, measured minutes, one sentence on what is wrong."""

import csv
import json
import math
import subprocess
import sys

import pytest
from candor import __main__ as cli
from candor.core import settings as config
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.run import cost
from candor.run import plan as graph
from candor.run import steps as experiments

TINY = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 160, "vocab": 300}


def tiny(tied: int = 0) -> cost.Shape:
    a_layer = 64 * 16 * (2 * 4 + 2 * 2) + 3 * 64 * 160
    parameters = 3 * a_layer + 300 * 64 * (2 - tied)
    return cost.Shape("tiny", parameters, 3, 64, 4, 2, 16, 160, 3, 300, tied)


# --- Counting -------------------------------------------------------------------------------------


def test_operations_are_those_that_torch_counts():
    """Forward, and training with gradient checkpointing: four times the layers, three times the head.

    Less the last matrix of every layer, whose output nobody needs a second time (5 %): we count it all the same.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    names = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 160}
    options = {"vocab_size": 300, "num_hidden_layers": 3, "tie_word_embeddings": False, "attn_implementation": "eager"}
    model = Qwen2ForCausalLM(Qwen2Config(**names, **options))
    shape, ids = tiny(), torch.randint(0, 300, (1, 48))
    # Eager attention computes the half of the scores that the causal mask throws away.
    masked = 2 * shape.layers * shape.width * 48**2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids)
    assert counter.get_total_flops() == pytest.approx(shape.forward(48, logits=48) + masked, rel=0.001)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    layers, head = shape.forward(48) + masked, 2 * shape.head * 48
    spared = shape.layers * 2 * 48 * shape.mlp * shape.hidden
    assert counter.get_total_flops() == pytest.approx(4 * layers + 3 * head - spared, rel=0.001)


def test_a_row_in_parts_takes_what_it_takes_whole():
    shape = tiny()
    assert shape.forward(30) + shape.forward(10, before=30) == pytest.approx(shape.forward(40))


def test_shapes_have_the_parameters_that_are_published():
    """Norms and biases, which the formula leaves out, are less than .04 %."""
    for shape in set(cost.shapes().values()):
        a_layer = shape.hidden * shape.head_dim * 2 * (shape.heads + shape.kv_heads)
        a_layer += shape.gates * shape.hidden * shape.mlp
        counted = shape.layers * a_layer + shape.head * (2 - shape.tied)
        assert 0 <= shape.parameters / counted - 1 < 0.0004, shape.shape


@pytest.fixture
def small(monkeypatch):
    """A model and a card with round numbers."""
    monkeypatch.setattr(cost, "shapes", lambda: {"tiny": tiny()})
    return cost.Rate("toy", "Toy", 1.0, 0.001, 1.0, 0.5, 0.5, 1.0, "no")


def test_decoding_waits_for_the_host_or_for_the_memory(small):
    """Two batches of 100 tokens: three layers of 1 ms a step, or with vllm every byte once a step."""
    work = cost.Work("sample", "tiny", rows=8, prompt=20, completion=100, together=4)
    prefill = 8 * tiny().forward(20, logits=1) / 0.5e12
    assert cost.need(work, small).seconds == pytest.approx(200 * 0.003 + prefill)
    a_step = (2 * tiny().parameters + 4 * (20 + 50) * tiny().cache) / 0.5e9
    assert a_step < 0.003
    assert cost.need(work, small, "vllm").seconds == pytest.approx(200 * a_step + prefill)
    assert cost.need(work, small).written == 800 and cost.need(work, small).read == 160


def test_a_batch_that_does_not_fit_is_sampled_in_parts(small):
    slow = cost.replace(small, layer_ms=100)  # so that every step waits for the host
    work = cost.Work("sample", "tiny", rows=64, prompt=20, completion=100, together=64)
    whole = cost.need(work, slow)
    held, a_row = cost._memory(work, tiny(), 20)
    half = cost.replace(slow, memory_gb=(held + 32 * a_row) / 1e9 / cost.FREE * 1.0001)
    parts = cost.need(work, half)
    assert parts.seconds == pytest.approx(2 * whole.seconds, rel=0.01)
    assert parts.at_once == whole.at_once > half.memory_gb * cost.FREE > parts.memory


def test_prompts_once_a_group(small):
    for kind in ("sample", "read", "train"):
        work = cost.Work(kind, "tiny", rows=32, prompt=1000, completion=10, together=8, group=8)
        each, once = cost.need(work, small), cost.need(work, small, shared=True)
        tokens = [part.read + part.trained for part in (each, once)]
        own = 0 if kind == "sample" else 320
        assert tokens == [32 * 1000 + own, 4 * 1000 + own]
        assert once.operations < 0.25 * each.operations and once.memory <= each.memory


def test_adapters_need_less_than_all_weights(small):
    row = {"rows": 16, "prompt": 0, "completion": 64, "together": 4}
    whole = cost.need(cost.Work("train", "tiny", **row, weights=cost.WHOLE, saves=4), small)
    adapters = cost.need(cost.Work("train", "tiny", **row, weights=cost.FROZEN, rank=2, saves=0), small)
    assert whole.operations == pytest.approx(4 / 3 * adapters.operations)
    assert whole.saved == pytest.approx(4 * tiny().parameters / 1e9)
    assert adapters.saved == pytest.approx(4 * tiny().adapters(2) / 1e9)
    assert adapters.memory < whole.memory


# --- Scales ---------------------------------------------------------------------------------------


def test_a_training_run_is_counted_from_its_settings():
    """HotpotQA at paper scale: 313 steps of 64 x 32 completions of at most 1,536 tokens, behind at most 3,072."""
    settings, step = config.load("paper"), experiments.steps()["hotpot/policy/rlcr"]
    sample, train = cost.works(step, settings, cost.Lengths("at_most"))
    assert sample.rows == train.rows == 313 * 64 * 32
    assert (sample.prompt, sample.completion, train.tokens) == (3072, 1536, 4608)
    needed = cost.need(train, cost.rate())
    assert needed.trained == 313 * 64 * 32 * 4608
    assert cost.smallest(needed.memory) == "> 80"  # all weights of 7B with their optimiser
    assert needed.operations > 8 * cost.shape_of("Qwen/Qwen2.5-7B").body * needed.trained


def test_the_laptop_takes_what_the_reference_took():
    plan = graph.plan("laptop")
    found = cost.of(plan, cost.rate())
    reference = json.loads((graph.REFERENCE / "provenance.json").read_text())
    assert found.worlds == len(plan.runs()) and found.models == 0
    if not reference["missing"]:
        assert found.unmeasured == 0
        assert found.core_seconds / 60 == pytest.approx(reference["core_minutes"], abs=0.06)
    assert found.most.operations == found.download == 0


def test_worlds_with_other_settings_are_not_guessed():
    settings = config.load("laptop", overrides={"world": {"witnesses": {"grpo_steps": 57}}})
    assert cost.seconds_of("witnesses/expert/rlcr", 11, settings) is None
    assert cost.seconds_of("arithmetic/standard/base", 11, settings) is not None
    found = cost.of(graph.Plan(settings, ("brier_fix",)), cost.rate())
    assert found.unmeasured and cost.row_of(found)[2].endswith("*")


def test_every_step_of_pretrained_models_is_counted():
    """All that exist, wanted by a scale or not; whatever needs a GPU does something on it."""
    settings = config.load("gpu", overrides={"models": {"math": {}, "released": ["classifier", "rlvr_math"]}})
    for key, step in experiments.steps().items():
        if step.world in settings["world"]:
            continue
        both = []
        for n in (cost.Lengths("expected"), cost.Lengths("at_most")):
            needs = [cost.need(work, cost.rate()) for work in cost.works(step, settings, n)]
            both.append(sum(needs, cost.Need()))
        expected, most = both
        assert all(math.isfinite(value) and value >= 0 for value in vars(most).values()), key
        assert expected.seconds <= most.seconds * 1.0001, key
        idle = not step.options.get("gpu", True) or key in ("apps/data/problems", "dialogues/data/eval_questions")
        assert (most.operations > 0) == (not idle), key
        assert (most.saved > 0) == (step.trains and "/votes/" not in key), key


def test_a_step_that_nobody_counted_is_said():
    step = cost.Step("hotpot/policy/new", "candor.language_models.run:paint")
    with pytest.raises(CandorError, match=r"not counted: add language_models\.run:paint to COUNTED"):
        cost.works(step, config.load("gpu"), cost.Lengths("at_most"))


def test_shared_steps_count_once():
    plan = graph.plan("gpu")
    both = cost.of(plan, cost.rate(), names=["binary_reward", "brier_fix"])
    one, other = (cost.of(plan, cost.rate(), names=[name]) for name in ("binary_reward", "brier_fix"))
    assert other.most.seconds <= both.most.seconds < one.most.seconds + other.most.seconds
    assert len(both.weights) == len(set(one.weights) | set(other.weights))


def test_measured_rates_take_the_place_of_assumed_ones(tmp_path, monkeypatch):
    path = tmp_path / "long_prompts.json"
    monkeypatch.setattr(cost, "MEASURED", path)
    ran = {"compute_use": 0.2, "bandwidth_use": 0.5, "layer_ms": 0.9}
    path.write_text(json.dumps({"hardware": {"gpu": "NVIDIA H100 80GB HBM3"}, "rates": ran}))
    card = cost.rate("h100")
    assert (card.compute_use, card.bandwidth_use, card.layer_ms) == (0.2, 0.5, 0.9)
    assert card.measured == "yes (NVIDIA H100 80GB HBM3)"
    assert cost.rate("a100").measured == "no"
    path.write_text(json.dumps({"hardware": {"gpu": None}}))
    assert cost.rate("h100").measured == "no"


def test_what_papers_report_is_of_the_same_order():
    """Within four times of it where our count is of their run; the last differs in more than speed, and says so."""
    first, second, last = cost.anchors()
    assert 20 / 4 < cost.anchor_hours(first) < 4 * 72
    assert 24 / 4 < cost.anchor_hours(second) < 4 * 24
    assert "others" in last.note


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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--scale", "huge"), "There is no scale 'huge'"),
        (("--scale", "gpu", "--claim", "brier"), "There is no claim 'brier'"),
        (("--hardware", "abacus"), "There is no hardware 'abacus': choose one of h100, h100_pcie"),
        (("--csv", "/nowhere/cost.csv"), "/nowhere/cost.csv cannot be written (No such file or directory)"),
    ],
)
def test_what_is_wrong_is_one_sentence(capsys, words, sentence):
    assert cli.main(["cost", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


def test_an_unknown_model_is_said():
    settings = config.load("gpu", overrides={"models": {"policy": "someone/model"}})
    with pytest.raises(CandorError, match="The shape of someone/model is not known here: add its id to data/cost"):
        cost.of(graph.Plan(settings, ("brier_fix",)), cost.rate())
