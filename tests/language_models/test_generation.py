"""How pretrained models are loaded and sampled: kernels, batches that fit the memory, what is counted."""

import importlib.util
import resource
import weakref
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_language_models
from candor.core import settings as config
from candor.core.errors import CandorError
from candor.core.runtime import Runtime, use
from candor.language_models import generation, needs
from numerics import ROUNDING

policy = test_language_models.policy


def test_defaults_are_those_of_the_schema():
    wanted = config.load("gpu").models.computation.to_dict()
    assert {part.name: part.default for part in fields(Runtime) if part.name in wanted} == wanted


def test_the_attention_is_the_one_that_was_chosen(policy):
    found = {}
    for attention in ("sdpa", "eager"):
        with use(Runtime(attention=attention)):
            model, tokenizer = generation.load(policy)
        assert model.config._attn_implementation == attention
        found[attention] = model(**tokenizer("Which river?", return_tensors="pt")).logits.detach().numpy()
    np.testing.assert_allclose(found["sdpa"], found["eager"], atol=ROUNDING)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed, not missing")
def test_a_missing_attention_is_one_sentence(policy):
    with use(Runtime(attention="flash_attention_2")), pytest.raises(CandorError, match="set it to sdpa"):
        generation.load(policy)
    settings = config.load("gpu", overrides={"models": {"computation": {"attention": "flash_attention_2"}}})
    assert any("flash-attn" in line for line in needs.engine_missing(settings))


def test_rows_are_counted_by_the_bytes_of_their_keys_and_values(policy):
    import torch

    model, _ = generation.load(policy)
    cache = model(input_ids=torch.zeros(3, 7, dtype=torch.long)).past_key_values
    held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    one = generation.row_bytes(model.config, 0, 7, 4) - generation.row_bytes(model.config, 0, 0, 4)
    assert held == 3 * one
    assert generation.rows_that_fit(model, 7, 7) == generation.BATCH, "no card"


def test_a_batch_is_halved_where_the_memory_runs_out(policy):
    import torch

    def run(start: int, end: int) -> tuple[int, int]:
        torch.empty((end - start) * 2**30, dtype=torch.uint8)  # a row is a gigabyte of address space
        return start, end

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(3.5 * 2**30), before[1]))
    try:
        with pytest.warns(UserWarning, match="going on with 2 texts together"):
            assert generation.in_batches(9, 8, run) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
        with pytest.raises(CandorError, match="does not hold 4 text"):
            generation.in_batches(9, 8, run, least=4)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_other_errors_are_not_taken_for_a_full_memory():
    def run(start, end):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        generation.in_batches(4, 2, run)


def test_a_sampler_counts_what_it_writes(policy):
    model, tokenizer = generation.load(policy)
    model.generation_config.eos_token_id = [5, 6, 7, 8, 9, *range(40, 400)]  # most texts end soon
    with use(Runtime()) as used:
        texts = generation.Sampler(model, tokenizer, None).write(["Which river?", "Who?", "In"] * 5, 8, 1.0)
    tokens, seconds = used.counts["generation"]
    assert 15 <= tokens < 15 * 8 and seconds > 0, "up to the end of each"
    assert used.told()["tokens_per_second"] == {"generation": round(tokens / seconds, 1)}
    assert sum(whole for _, whole in texts) >= 5


# --- One model after another ------------------------------------------------------------------------


def test_a_model_is_gone_when_its_block_ends_whoever_names_the_sampler(policy):
    with generation.loaded(policy, 4) as sampler:
        model = weakref.ref(sampler.model)
        assert model() is not None and sampler.tokenizer is not None
    assert model() is None


def test_an_engine_ends_with_its_block_and_so_do_merged_weights(policy, tmp_path, monkeypatch):
    from candor.train import models

    model, tokenizer = models.pretrained(policy, {"rank": 2, "alpha": 2}, 0)
    models.save_decoder(model, tokenizer, tmp_path / "adapters")
    happened = []
    core = SimpleNamespace(shutdown=lambda: happened.append("ended"))

    def engine(model, **_):
        happened.append(sorted(path.name for path in Path(model).glob("*.safetensors")))
        return SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core))

    told = SimpleNamespace(cleanup_dist_env_and_memory=lambda: happened.append("cleaned"))
    monkeypatch.setattr(generation, "vllm_module", lambda: SimpleNamespace(LLM=engine, distributed=told))
    with pytest.raises(KeyError), generation.loaded(tmp_path / "adapters", 4, "vllm", tmp_path) as sampler:
        assert (tmp_path / "merged").is_dir() and happened == [["model.safetensors"]]
        raise KeyError
    assert (
        happened[1:] == ["ended", "cleaned"] and not hasattr(sampler, "engine") and not (tmp_path / "merged").exists()
    )
