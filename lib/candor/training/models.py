"""Small decoders from scratch, and how they are saved and loaded (safetensors only)."""

from __future__ import annotations

from pathlib import Path


def quiet() -> None:
    """One thread a process, and no chatter from the libraries: the graph runs one process a core."""
    import logging
    import warnings

    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
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
