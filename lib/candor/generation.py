"""Batched sampling from pretrained models, and the probability of an answer, on a GPU or a CPU.

Supports: decoders that transformers builds as `.model` and `.lm_head` (Qwen2, Llama and kin), LoRA adapters, greedy
and sampled decoding; vLLM in place of transformers where it is installed. Weights are safetensors, and no code comes
with a model: everything is read from this machine (`python -m candor fetch models` puts it there).
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from candor.errors import CandorError

LONGEST_ANSWER = 30  # tokens; longer answers, and missing ones, have probability .5 (Damani et al. 2025)


def load(place: str | Path, kind: str = "AutoModelForCausalLM"):
    """Model and tokenizer of a Hub id that was fetched, a folder, or a folder with a LoRA adapter (merged in).

    In bfloat16 on a GPU, in float32 elsewhere. Raises: `CandorError` naming what was not fetched.
    """
    import torch
    import transformers

    adapter = Path(place) / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.exists() else str(place)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        model = getattr(transformers, kind).from_pretrained(base, dtype=dtype, use_safetensors=True, **options)
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


def tokenizer_of(place: str | Path):
    """The tokenizer of a model, padding on the left.

    From its tokenizer.json as it stands: `AutoTokenizer` would take the tokenizer of any saved Qwen2-type model for
    Qwen2's own.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(place), local_files_only=True)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class Sampler:
    """Continues texts, `batch` at a time, longest first so that little is padded."""

    def __init__(self, model, tokenizer, batch: int = 32):
        self.model, self.tokenizer, self.batch = model, tokenizer, batch

    def __call__(self, prompts: Sequence[str], tokens: int, temperature: float = 0.0, seed: int = 42) -> list[str]:
        """One continuation of at most `tokens` tokens for each prompt; temperature 0 is greedy."""
        return [text for text, _ in self.write(prompts, tokens, temperature, seed)]

    def write(
        self, prompts: Sequence[str], tokens: int, temperature: float = 0.0, seed: int = 42, top_p: float = 1.0
    ) -> list[tuple[str, bool]]:
        """The same, each with whether it came to its end within `tokens`."""
        import torch

        torch.manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
        stop = self.model.generation_config.eos_token_id
        ends = torch.tensor(stop if isinstance(stop, list) else [self.tokenizer.eos_token_id if stop is None else stop])
        found = [("", False)] * len(prompts)
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            inputs = self.tokenizer(
                [prompts[i] for i in places], return_tensors="pt", padding=True, add_special_tokens=False
            ).to(self.model.device)
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
            ended = torch.isin(new, ends.to(new.device)).any(1).tolist()
            for i, text, whole in zip(places, self.tokenizer.batch_decode(new, skip_special_tokens=True), ended):
                found[i] = (text, whole)
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
        spans = [match.span(1) for match in re.finditer(r"<answer>(.*?)</answer>", completion, re.S)]
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
            logits = self.model.lm_head(hidden[torch.tensor(places, device=row.device) - 1]).float()
        chosen = row[0, places]
        return logits.softmax(-1).gather(-1, chosen[:, None]).squeeze(-1).tolist()


class VllmSampler(Sampler):
    """The same with vLLM, from a folder or id of a whole model (an adapter has to be merged before)."""

    def __init__(self, place: str | Path, tokenizer):
        vllm = vllm_module()
        self.vllm, self.tokenizer = vllm, tokenizer
        self.engine = vllm.LLM(model=str(place), dtype="bfloat16", gpu_memory_utilization=0.85, seed=42)

    def write(self, prompts, tokens, temperature=0.0, seed=42, top_p=1.0):
        # A seed of its own for each place: with one for all, a prompt that is asked twice would be answered alike.
        settings = [
            self.vllm.SamplingParams(max_tokens=tokens, temperature=temperature, top_p=top_p, seed=seed + place)
            for place in range(len(prompts))
        ]
        # As tokens: to a text the engine would add the beginning-of-text token that templates have put there.
        ids = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        asked = [{"prompt_token_ids": row} for row in ids]
        outputs = [output.outputs[0] for output in self.engine.generate(asked, settings, use_tqdm=False)]
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
