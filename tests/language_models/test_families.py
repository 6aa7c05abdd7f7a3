"""Random models of four families, tiny: loaded, sampled, read, branched and scored as transformers itself does it."""

import numpy as np
import pytest
import torch
import wired
from candor.claims.self_feedback import branching, reasoning
from candor.claims.sophistry import code_reader
from candor.language_models import generation, training
from candor.train import reward_model
from numerics import ROUNDING
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PhiConfig, Qwen2Config

FAMILIES = {
    "gemma2": (Gemma2Config, {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8}),
    "phi": (PhiConfig, {}),
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2}),
}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LINES = ["Question: which river is it?\nAnswer: the Seine.\n\nQuestion: how many are 2 and 3?\nAnswer: 5"]
PROMPTS = ["Question: which river is it?\nAnswer:", "Question: how many", "Answer"]


@pytest.fixture(scope="module", params=FAMILIES)
def place(request, tmp_path_factory):
    """A folder with a model whose choices are sharp, and a tokenizer without a chat template or a padding token."""
    place = wired.stand_ins(tmp_path_factory.mktemp("families"), [request.param], LINES)[request.param]
    tokenizer = generation.tokenizer_of(place)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(place)
    kind, options = FAMILIES[request.param]
    torch.manual_seed(1)
    ends = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    ends |= {"pad_token_id": None, "max_position_embeddings": 256}
    model = AutoModelForCausalLM.from_config(kind(**SHAPE, **options, **ends))
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.dim() > 1):
            weight.mul_(20)
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def loaded(place):
    return generation.load(place)


def test_gemma_alone_attends_plainly_and_trains_by_trls_own_passes(loaded):
    model, _ = loaded
    plain = model.config.model_type == "gemma2"
    assert model.config._attn_implementation == ("eager" if plain else "sdpa")
    assert training._trainer(model)["trainer_class"].__name__ == ("GRPOTrainer" if plain else "LongPromptGRPOTrainer")


def test_another_attention_that_cannot_be_used_is_no_silent_change(place):
    from candor.core.runtime import Runtime, use

    with use(Runtime(attention="flash_attention_2")), pytest.raises(Exception, match="flash"):
        generation.weights(place, coarse=False)


def test_sampling_is_generating_and_probabilities_are_the_models_own(loaded):
    model, tokenizer = loaded
    sampler = generation.Sampler(model, tokenizer, batch=2)
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert sampler(PROMPTS, 8)[0] == text
    said = "<answer>the Seine</answer>"
    whole, places = sampler._answer_tokens(PROMPTS[0], said)
    with torch.no_grad():
        shown = model(torch.tensor([whole])).logits[0].float().softmax(-1)
    wanted = np.mean([float(shown[place - 1, whole[place]]) for place in places])
    assert sampler.answer_probabilities(PROMPTS[:1], [said]) == pytest.approx([wanted], abs=ROUNDING)
    digits = [tokenizer(str(k), add_special_tokens=False)["input_ids"][-1] for k in range(1, 6)]
    sure = [
        float(model(**tokenizer(p, return_tensors="pt")).logits[0, -1, digits].softmax(-1)[3:].sum()) for p in PROMPTS
    ]
    assert code_reader.certainty(sampler, PROMPTS) == pytest.approx(sure, abs=10 * ROUNDING)


@torch.no_grad()
def test_branches_end_where_the_model_would_ask_itself(loaded):
    model, tokenizer = loaded
    [asking] = reasoning.further_ends(tokenizer)
    assert tokenizer.decode([asking]) == "Question"
    ends = reasoning.ends(model, tokenizer)
    assert set(ends) == {asking, tokenizer.eos_token_id}
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    found = branching.branch(model, prompts, 2, 7, ends=ends, batch=2)
    for i, prompt in enumerate(prompts):
        for rank in range(2):
            ids = list(prompt)
            for step in range(found.length[i, rank]):
                top = model(torch.tensor([ids])).logits[0, -1].topk(2).indices
                ids.append(int(top[rank if step == 0 else 0]))
            assert found.ids(i, rank) == ids[len(prompt) :]
            assert found.finished[i, rank] == (ids[-1] in ends) and not set(ids[len(prompt) : -1]) & set(ends)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert reasoning.further_ends(tokenizer) == []
    tokenizer.chat_template = None


def test_a_judge_tells_a_finished_text_from_one_that_was_cut(place):
    model, tokenizer = generation.scorer(place)
    assert generation.tokenizer_of(place).pad_token == tokenizer.eos_token != tokenizer.pad_token
    assert model.config.pad_token_id == tokenizer.pad_token_id
    cut = tokenizer(PROMPTS[0])["input_ids"]
    rows = [cut, [*cut, tokenizer.eos_token_id], cut[:3]]
    model.eval()
    found = reward_model.score(model, rows, 3)
    with torch.no_grad():
        hidden = [model.model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        wanted = [float(model.score(state)) for state in hidden]
    assert found == pytest.approx(wanted, abs=100 * ROUNDING) and abs(found[0] - found[1]) > 1e-3
