"""Models to be trained: small decoders from scratch, saved and loaded as safetensors; adapters; passes of a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from candor.core.errors import CandorError


def quiet() -> None:
    """One thread a process, and no chatter from the libraries: the graph runs one process a core."""
    import logging
    import os
    import warnings

    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    os.environ["TQDM_DISABLE"] = "1"  # DPO's bar of the reference's pass
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message=".*checkpointing.*is deprecated", category=FutureWarning)


def new_decoder(vocabulary: int, pad: int, eos: int, *, hidden_size, layers, heads, mlp, positions=64):
    """A Qwen2-type decoder with random weights and tied embeddings (134k parameters at the house settings)."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=mlp,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            pad_token_id=pad,
            bos_token_id=None,
            eos_token_id=eos,
        )
    )


def load_decoder(path: Path):
    """Load a decoder and its tokenizer from a folder.

    The tokenizer class is named because `AutoTokenizer` would make a Qwen2 tokenizer of a word-level one.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(path), PreTrainedTokenizerFast.from_pretrained(path)


def save_decoder(model, tokenizer, path: Path) -> None:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def pretrained(place: str | Path, lora: Mapping | None, seed: int):
    """A model to be trained and its tokenizer; LoRA adapters are on it where `lora` says their rank and alpha."""
    import torch

    from candor.language_models import generation

    torch.manual_seed(seed)
    model = generation.weights(place, coarse=lora is not None)  # frozen weights may be coarse
    return adapted(model, lora), generation.tokenizer_of(place)


def save_merged(model, tokenizer, path: Path) -> None:
    """A whole model, adapters merged in."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload(adapter_names=["default"])  # DPO keeps a second one as its reference
    save_decoder(model, tokenizer, path)


def adapted(model, lora: Mapping | None, **changes):
    """`model` with LoRA adapters of that rank and alpha on all linear layers but the head; as it is without `lora`."""
    from peft import get_peft_model

    return model if lora is None else get_peft_model(model, adapters(lora, **changes))


def adapters(lora: Mapping, **changes):
    """The configuration of `adapted`'s adapters: without dropout unless `changes` say otherwise."""
    from peft import LoraConfig

    house: dict = {"lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], **(house | changes))


def passes(batch: int, micro_batch: int, key: str) -> dict[str, int]:
    """A step of `batch` rows cut into passes of at most `micro_batch`, as a trainer is told.

    Raises: `CandorError` naming the setting `key` where it cannot be cut.
    """
    together = min(micro_batch, batch)
    if batch % together:
        raise CandorError(
            f"A step of {batch} cannot be cut into passes of {together}: change {key}.micro_batch in the scale."
        )
    return {"per_device_train_batch_size": together, "gradient_accumulation_steps": batch // together}
