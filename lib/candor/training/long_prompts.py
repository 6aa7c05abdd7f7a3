"""Group-relative policy optimisation of pretrained models, with every long prompt computed once.

Supports: all weights or LoRA adapters (peft), float32 or bfloat16, gradient checkpointing, micro-batches smaller than
a group, several processes with plain data parallelism or DeepSpeed up to ZeRO stage 2, vLLM for the sampling.
Assumes: TRL 1.16 (three private methods are overridden; the lock pins it).
Raises: `CandorError` for an unknown attention route.

TRL runs the prompt through the model once a completion, when it samples and when it scores, and pads completions to
the longest. Here sampling prefills a prompt once a group, and a micro-batch is one row without padding in which each
distinct prompt stands once (`candor.long_prompts`). Everything else is TRL's, its chunked head included, which on a
GPU projects completion tokens only. Where a model or a batch does not fit, TRL's own pass is used, with a warning.

One difference remains: TRL deals the rows of a batch to micro-batches at random, here those of a prompt stay together.
A loss that is normalised within a micro-batch (`bnpo`, `grpo`) weighs tokens by other neighbours then; the others do
not change.
"""

from __future__ import annotations

import warnings

import torch
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from candor.core.errors import CandorError
from candor.long_prompts import obstacle, pack, sample, share_prompts

ROUTES = ("sdpa", "flex")


class LongPromptGRPOTrainer(GRPOTrainer):
    """TRL's trainer with shared prompts.

    `attention`: "sdpa" (fused kernels over the parts of a packed row) or "flex" (FlexAttention over the whole row;
    compiled, on a GPU only). `sampling_rows`: completions decoded at once (None: what fits into memory).
    `cuda_graphs`: replay the decoding step instead of launching its kernels one by one.
    """

    def __init__(
        self, *args, attention: str = "sdpa", sampling_rows: int | None = None, cuda_graphs: bool = False, **kwargs
    ):
        if attention not in ROUTES:
            raise CandorError(f"The attention route {attention!r} does not exist: choose one of {', '.join(ROUTES)}.")
        super().__init__(*args, **kwargs)
        self.attention, self.sampling_rows, self.cuda_graphs = attention, sampling_rows, cuda_graphs
        self._slow = self._obstacle()
        if self._slow:
            warnings.warn(f"TRL's slower passes are used, because {self._slow}.", stacklevel=2)
            return
        for model in (self.model, self.ref_model):
            if model is not None:
                share_prompts(self._decoder(model))

    @property
    def batches_itself(self) -> bool:
        """Whether sampling cuts its rows to the memory that is free."""
        return not self._slow and self._plain_draws()

    def _decoder(self, model):
        """The causal language model inside the wrappers of accelerate and peft."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _obstacle(self) -> str | None:
        from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

        if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            return "the weights are cut over processes"
        peft = getattr(self.accelerator.unwrap_model(self.model), "active_peft_config", None)
        if getattr(peft, "is_prompt_learning", False):
            return "the adapter is made of prompts"
        if self.attention == "flex" and self.accelerator.device.type == "cpu":
            return "FlexAttention has no backward pass on a CPU"
        return obstacle(self._decoder(self.model))

    def _plain_draws(self) -> bool:
        """Whether sampling needs nothing but a temperature."""
        return (
            not self.top_k
            and self.top_p == 1.0
            and not self.min_p
            and self.repetition_penalty == 1.0
            and not self.args.generation_kwargs
        )

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        others = self.use_vllm or self.use_transformers_continuous_batching
        if others or self._slow or images or multimodal_fields or not self._plain_draws():
            if not (others or self._slow):
                warnings.warn("Sampling needs more than a temperature: TRL's slower pass is used.", stacklevel=2)
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        was_training = model.training
        model.eval()
        try:
            with self.accelerator.autocast():  # held over all steps: weights are cast once, not once a token
                completion_ids = sample(
                    self._decoder(model),
                    prompt_ids,
                    self.max_completion_length,
                    eos=self.eos_token_ids,
                    pad=self._tokenizer.pad_token_id,
                    temperature=self.temperature,
                    rows=self.sampling_rows,
                    cuda_graphs=self.cuda_graphs,
                )
        finally:
            model.train(was_training)
        return completion_ids, None

    def _prepare_inputs(self, generation_batch):
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        after = self._buffered_inputs
        if self._slow or after is before or after is None or len(after) == 1:
            return inputs
        # TRL has dealt the rows to micro-batches at random: keep its order, but the rows of a prompt together.
        whole = {
            name: torch.cat([part[name] for part in after]) if isinstance(first, torch.Tensor) and first.ndim else first
            for name, first in after[0].items()
        }
        seen: dict[tuple, int] = {}
        rank = [seen.setdefault(tuple(row), len(seen)) for row in whole["prompt_ids"].tolist()]
        order = torch.tensor(sorted(range(len(rank)), key=rank.__getitem__), device=whole["prompt_ids"].device)
        whole = {name: of[order] if isinstance(of, torch.Tensor) and of.ndim else of for name, of in whole.items()}
        self._buffered_inputs = split_tensor_dict(whole, len(after))
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **others,
    ):
        more = compute_aux_loss or any(value is not None for value in others.values())
        if self._slow or more:
            if not self._slow:
                warnings.warn("Images or experts in a batch: TRL's slower pass is used.", stacklevel=2)
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **others,
            )
        log_probs, entropies = [], []
        for ids, mask in zip(*(rows.split(batch_size or len(input_ids)) for rows in (input_ids, attention_mask))):
            packed = pack(ids, mask, logits_to_keep, self.attention)
            with self.accelerator.autocast():
                output = model(**packed.arguments())
            log_probs.append(packed.unpack(output.log_probs))
            if compute_entropy:
                entropies.append(packed.unpack(output.entropy))
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None
