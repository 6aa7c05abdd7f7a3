"""Batched sampling from pretrained models, and the probability of an answer, on a GPU or a CPU.

Supports: decoders that transformers builds as `.model` and `.lm_head` (Qwen2, Llama and kin), LoRA adapters, greedy
and sampled decoding; vLLM in place of transformers where it is installed. Weights are safetensors, and no code comes
with a model: everything is read from this machine (`python -m candor fetch models` puts it there).
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from candor.core import runtime
from candor.core.errors import CandorError
from candor.core.step import Context
from candor.language_models.text import tags

BATCH = 32  # texts together where the memory of a card does not say it
LONGEST_ANSWER = 30  # tokens; longer answers, and missing ones, have probability .5 (Damani et al. 2025)


def load(place: str | Path, kind: str = "AutoModelForCausalLM"):
    """Model and tokenizer of a Hub id that was fetched, a folder, or a folder with a LoRA adapter (merged in).

    In bfloat16 on a GPU, in float32 elsewhere. Raises: `CandorError` naming what was not fetched.
    """
    import torch

    adapter = Path(place) / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.exists() else str(place)
    try:
        model = weights(base, coarse=True, kind=kind)
        tokenizer = tokenizer_of(place)
    except (OSError, ValueError) as error:
        raise CandorError(
            f"The model {base} cannot be loaded from this machine ({str(error).splitlines()[0][:120]}): run `python -m "
            "candor fetch models` with your --scale where there is a network."
        ) from None
    if adapter.exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(place)).merge_and_unload()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def weights(place: str | Path, coarse: bool, kind: str = "AutoModelForCausalLM", **options):
    """A model as transformers reads it from this machine, with the attention of `models.computation.attention`, or
    plainly where its kind (Gemma 2) has no fused one.

    `coarse`: bfloat16 on a GPU (to sample, or frozen under adapters); otherwise, and on a CPU, float32: weights that
    are trained are cast as they are used. Raises: `CandorError` where the attention cannot be used here.
    """
    import torch
    import transformers

    from candor.train.models import quiet

    quiet()
    attention = runtime.current().attention
    options |= {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    options |= {"dtype": torch.bfloat16 if coarse and torch.cuda.is_available() else torch.float32}
    read = partial(getattr(transformers, kind).from_pretrained, place, **options)
    try:
        return read(attn_implementation=attention)
    except ValueError as error:
        if attention != "sdpa" or "scaled_dot_product_attention" not in str(error):
            raise
        return read(attn_implementation="eager")
    except ImportError as error:
        why = str(error).splitlines()[0][:120]
        raise CandorError(
            f"models.computation.attention is {attention}, which cannot be used here ({why}): install what it needs, "
            "or set it to sdpa."
        ) from None


def scorer(place: str | Path):
    """A decoder with a new scalar head, all of it in float32, and its tokenizer."""
    tokenizer = tokenizer_of(place)
    # The token before the padding is scored. Were an end padding too, no score could tell a finished text from another.
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    made = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    model = weights(place, coarse=False, kind="AutoModelForSequenceClassification", **made)
    if len(tokenizer) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def logits(model, hidden):
    """What a model's own head makes of states of its last layer, in float32."""
    found = model.lm_head(hidden).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * (found / cap).tanh() if cap else found


def tokenizer_of(place: str | Path):
    """The tokenizer of a model, padding on the left.

    From its tokenizer.json as it stands: `AutoTokenizer` would take the tokenizer of any saved Qwen2-type model for
    Qwen2's own.
    """
    from transformers import PreTrainedTokenizerFast

    from candor.train.models import quiet

    quiet()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(place), local_files_only=True)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def free() -> None:
    """Gives the memory of models that nothing names any more back to the GPU."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def loaded(place: str | Path, batch: int | None, engine: str = "transformers", scratch: Path | None = None):
    """A sampler of a model, whose memory is free for the next one when the block ends, whoever still names the sampler.

    `engine`: "vllm" for its own, which takes whole models: adapters are merged in a folder below `scratch`.
    """
    merged = scratch / "merged" if scratch else None
    if engine == "vllm" and merged and (Path(place) / "adapter_config.json").exists():
        model, tokenizer = load(place)
        model.save_pretrained(merged)
        tokenizer.save_pretrained(merged)
        place = merged
        del model
    free()
    sampler = VllmSampler(place, tokenizer_of(place)) if engine == "vllm" else Sampler(*load(place), batch)
    try:
        yield sampler
    finally:
        sampler.close()
        free()
        if merged:
            shutil.rmtree(merged, ignore_errors=True)


def of_step(context: Context, place: str | Path, batch: int | None = None):
    """`loaded` for a step that samples from a policy: by the engine of its settings."""
    settings = context.settings
    return loaded(place, batch or settings["eval_batch"], settings["engine"], context.folder)


# --- Batches that fit -------------------------------------------------------------------------------


def row_bytes(config, prompt: int, tokens: int, width: int) -> int:
    """Bytes that one row of a batch takes in generation.

    Keys and values of `prompt` + `tokens` positions in all layers, the activations of one layer over the prompt, and
    three copies of the logits of one position in float32.

    `config` is a decoder's; `width`: bytes of a value, 2 in bfloat16.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * size * (prompt + tokens) * width
    layer = (3 * config.intermediate_size + 6 * config.hidden_size) * prompt * width
    return cache + layer + 3 * config.vocab_size * 4


def rows_that_fit(model, prompt: int, tokens: int, otherwise: int = BATCH) -> int:
    """Rows of at most `prompt` tokens that can be continued together in four fifths of the card's free memory;
    `otherwise` on a CPU. An estimate: `in_batches` halves what does not fit after all."""
    import torch

    if model.device.type != "cuda":
        return otherwise
    cached = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = torch.cuda.mem_get_info(model.device)[0] + cached
    row = row_bytes(model.config.get_text_config(), prompt, tokens, 2)  # weights in float32 are cast, too
    return max(1, int(0.8 * free) // row)


def in_batches(n: int, rows: int, run: Callable[[int, int], Any], least: int = 1) -> list:
    """[run(start, stop), ...] over range(n), at most `rows` together; where memory runs out the rows are halved.

    `rows` stays a multiple of `least`. Raises: `CandorError` where `least` rows do not fit.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    found, start, full = [], 0, None
    while start < n:
        try:
            found.append(run(start, min(start + rows, n)))
            start += rows
            continue
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not should_reduce_batch_size(error):
                raise
            full = str(error).splitlines()[0][:160]
        # Outside of the handler, whose traceback holds the tensors of the failed attempt.
        clear_device_cache(garbage_collection=True)
        if min(rows, n - start) <= least:
            raise CandorError(
                f"The memory does not hold {least} text(s) together ({full}): take a smaller model or fewer tokens."
            )
        rows = max(min(rows, n - start) // (2 * least), 1) * least
        warnings.warn(f"The memory is full: going on with {rows} texts together.", stacklevel=2)
    return found


# --- Sampling ---------------------------------------------------------------------------------------


class Sampler:
    """Continues texts, longest first so that little is padded: `batch` at a time, None: as many as fit the card."""

    def __init__(self, model, tokenizer, batch: int | None = BATCH):
        self.model, self.tokenizer, self.batch = model, tokenizer, batch

    def close(self) -> None:
        """Forgets the model."""
        del self.model

    def __call__(self, prompts: Sequence[str], tokens: int, temperature: float = 0.0, seed: int = 42) -> list[str]:
        """One continuation of at most `tokens` tokens for each prompt; temperature 0 is greedy."""
        return [text for text, _ in self.write(prompts, tokens, temperature, seed)]

    def write(
        self, prompts: Sequence[str], tokens: int, temperature: float = 0.0, seed: int = 42, top_p: float = 1.0
    ) -> list[tuple[str, bool]]:
        """The same, each with whether it came to its end within `tokens`."""
        import torch

        torch.manual_seed(seed)
        ids = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
        stop = self.model.generation_config.eos_token_id
        ends = torch.tensor(stop if isinstance(stop, list) else [self.tokenizer.eos_token_id if stop is None else stop])
        found = [("", False)] * len(prompts)

        def run(start: int, end: int) -> int:
            places = order[start:end]
            inputs = self.tokenizer.pad({"input_ids": [ids[i] for i in places]}, return_tensors="pt").to(
                self.model.device
            )
            with torch.inference_mode():
                output = self.model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    max_new_tokens=tokens,
                    repetition_penalty=1.0,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **(sampling if temperature else {"do_sample": False, "temperature": None, "top_p": None}),
                )
            new = output[:, inputs["input_ids"].shape[1] :]
            at_end = torch.isin(new, ends.to(new.device))
            ended = at_end.any(1)
            for i, text, whole in zip(
                places, self.tokenizer.batch_decode(new, skip_special_tokens=True), ended.tolist()
            ):
                found[i] = (text, whole)
            return int(torch.where(ended, at_end.int().argmax(1) + 1, new.shape[1]).sum())

        rows = self.batch or rows_that_fit(self.model, max(map(len, ids), default=1), tokens)
        with runtime.counted("generation") as counted:
            counted += in_batches(len(order), rows, run)
        return found

    def answer_probabilities(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Mean probability of the tokens inside the last answer tags; .5 if there are none, or 30 and more.

        The completion is tokenized again as text; probabilities are those of temperature 1.
        """
        found = []
        for prompt, completion in zip(prompts, completions):
            ids, places = self._answer_tokens(prompt, completion)
            found.append(math.fsum(self._probabilities(ids, places)) / len(places) if places else 0.5)
        return [min(max(p, 0.0), 1.0) for p in found]

    def _answer_tokens(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Token ids of prompt and completion, and the places of the answer's tokens among them."""
        spans = tags(completion, "answer")
        head = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tail = self.tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)
        low, high = spans[-1] if spans else (0, 0)
        inside = [i for i, (start, end) in enumerate(tail["offset_mapping"]) if start < high and end > low]
        places = [len(head) + i for i in inside] if 0 < len(inside) < LONGEST_ANSWER else []
        return [*head, *tail["input_ids"]], places

    def _probabilities(self, ids: list[int], places: list[int]) -> list[float]:
        import torch

        row = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            hidden = self.model.model(input_ids=row[:, : places[-1]]).last_hidden_state[0]
            # The head runs over the answer alone: over 4,096 tokens its output would take gigabytes.
            found = logits(self.model, hidden[torch.tensor(places, device=row.device) - 1])
        chosen = row[0, places]
        return found.softmax(-1).gather(-1, chosen[:, None]).squeeze(-1).tolist()


class VllmSampler(Sampler):
    """The same with vLLM, from a folder or id of a whole model (an adapter has to be merged before)."""

    def __init__(self, place: str | Path, tokenizer):
        vllm = vllm_module()
        self.vllm, self.tokenizer = vllm, tokenizer
        self.engine = vllm.LLM(model=str(place), dtype="bfloat16", gpu_memory_utilization=0.85, seed=42)

    def close(self) -> None:
        """Ends the engine, which has a process of its own, and what vLLM keeps of it in this one."""
        if core := getattr(self.engine.llm_engine, "engine_core", None):
            core.shutdown()
        del self.engine
        self.vllm.distributed.cleanup_dist_env_and_memory()

    def write(self, prompts, tokens, temperature=0.0, seed=42, top_p=1.0):
        # A seed of its own for each place: with one for all, a prompt that is asked twice would be answered alike.
        settings = [
            self.vllm.SamplingParams(max_tokens=tokens, temperature=temperature, top_p=top_p, seed=seed + place)
            for place in range(len(prompts))
        ]
        # As tokens: to a text the engine would add the beginning-of-text token that templates have put there.
        ids = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        asked = [{"prompt_token_ids": row} for row in ids]
        with runtime.counted("generation") as counted:
            outputs = [output.outputs[0] for output in self.engine.generate(asked, settings, use_tqdm=False)]
            counted += [len(output.token_ids) for output in outputs]
        return [(output.text, output.finish_reason == "stop") for output in outputs]

    def _probabilities(self, ids, places):
        settings = self.vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        [output] = self.engine.generate([{"prompt_token_ids": ids}], settings, use_tqdm=False)
        return [math.exp(output.prompt_logprobs[i][ids[i]].logprob) for i in places]


def vllm_module():
    """vLLM, or one sentence: it is not in the lock, because it brings its own build of torch."""
    try:
        return importlib.import_module("vllm")
    except ImportError:
        raise CandorError(
            "models.engine is vllm, which is not installed: install vllm into .venv, or set models.engine to "
            "transformers."
        ) from None
