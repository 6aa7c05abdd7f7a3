"""A training step of a pretrained model with long prompts: each computed once a group (Candor), or as TRL does.

    python benchmarks/long_prompts.py --model 1.5b --prompt 3072 --group 32 --completion 1536 --lora 16 --device cuda
    python benchmarks/long_prompts.py --model 1.5b --generation --device cuda      # is sampling bound by launches?
    python benchmarks/long_prompts.py                                              # a small shape on a CPU: minutes

Weights are random, nothing is loaded. Each variant runs in a process of its own, so that peak memory is its own and a
card that is too small ends one variant only. `--lengths 1536 384` repeats everything with completions that end after
that many tokens on average: random weights choose tokens evenly, so the share of tokens that end a completion sets it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial, wraps
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import torch
from candor.core.step import provenance
from candor.train import fit, models, policy
from candor.train.sharing_long import ROUTES, LongPromptGRPOTrainer, rows_that_fit, sample, share_prompts
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

SHAPES = {  # hidden, layers, heads, key heads, mlp, vocabulary, tied: the published configurations of Qwen2.5
    "tiny": (256, 6, 8, 2, 1024, 2048, True),
    "0.5b": (896, 24, 14, 2, 4864, 151_936, True),
    "1.5b": (1536, 28, 12, 2, 8960, 151_936, True),
    "7b": (3584, 28, 28, 4, 18_944, 152_064, False),
}
# Dense bfloat16 operations and bytes a second, from the makers' data sheets; the first name that occurs counts.
CARDS = {
    "H200": (989e12, 4.8e12),
    "H100 PCIe": (756e12, 2.0e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.864e12),
    "RTX 4090": (165e12, 1.008e12),
    "L4": (121e12, 0.3e12),
}
TRAINERS = ("candor", "trl")
GENERATORS = ("dynamic", "static", "static_compiled", "shared", "shared_graphs")
PAD = 0


def configuration(name: str) -> Qwen2Config:
    hidden, layers, heads, key_heads, mlp, vocabulary, tied = SHAPES[name]
    return Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=mlp,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32_768,
        rope_theta=1e6,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=1,
    )


def weights_of(config) -> tuple[int, int]:
    """Weights that multiply every token, and those of the head that multiply scored tokens."""
    size = config.hidden_size // config.num_attention_heads
    attention = config.hidden_size * size * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * layer, config.hidden_size * config.vocab_size


def counted(config, prompt: int, group: int, lengths: list[int], shared: bool, lora: bool) -> dict[str, float]:
    """Operations of one group's step and bytes that its decoding must read, from the shape alone.

    `lengths`: tokens of each completion. Shared prompts stand once and nothing is padded; else each completion has its
    prompt and is padded to the longest, and decoding goes on with all rows until the longest is done. Training counts
    one forward pass, the recomputation of checkpointing and a backward pass (of the same cost with adapters, of twice
    the cost with all weights). Bytes: weights and keys in bfloat16, weights once a decoded token, prompts' keys once a
    group or once a completion.
    """
    body, head = weights_of(config)
    pair = 4 * config.num_hidden_layers * config.hidden_size  # operations for a query and a key it sees
    key = 4 * config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    steps, copies = max(lengths), 1 if shared else group
    written = lengths if shared else [steps] * group
    answer = sum(2 * (body + head) * n + pair * (n * prompt + n * n / 2) for n in written)
    question = copies * (2 * body * prompt + pair * prompt**2 / 2)
    own_keys = sum(n * n / 2 for n in written) * key
    backward = 2 if lora else 3
    return {
        "prefill": question,
        "decode": answer,
        "training": (1 + backward) * (question + answer),
        "needed": 2 * question + 2 * answer + (backward - 1) * (question + answer),
        "decode_bytes": 2 * (body + head) * steps + copies * prompt * key * steps + own_keys,
    }


def card(name: str | None) -> tuple[float, float] | None:
    return next((speed for card, speed in CARDS.items() if name and card in name), None)


def full_shape(prompt=3072, group=32, completion=1536, groups=64, memory=80e9) -> dict:
    """What counted operations say where this machine cannot measure: TRL's over ours, and least seconds on an H100.

    A step of `groups` prompts. Decoding runs as many completions at once as four fifths of what the weights leave of
    `memory` hold; TRL has no such setting, and is given it here. Least seconds: operations at the card's peak rate, or
    bytes at its bandwidth where those take longer.
    """
    found = {}
    rate, bandwidth = CARDS["H100"]
    generator = random.Random(0)
    ragged = [min(completion, max(1, round(generator.expovariate(1 / 384)))) for _ in range(group)]
    for name in ("0.5b", "1.5b", "7b"):
        config = configuration(name)
        weights = 2 * sum(weights_of(config))
        stand_in = SimpleNamespace(config=config, dtype=torch.bfloat16)
        for label, lengths in (("all of full length", [completion] * group), (f"mean {mean(ragged):.0f}", ragged)):
            both: dict = {}
            for variant in TRAINERS:
                shared = variant == "candor"
                of = counted(config, prompt, group, lengths, shared, lora=True)
                rows = rows_that_fit(stand_in, prompt, group if shared else 1, completion, 0.8 * (memory - weights))
                rows = min(rows, groups * group)
                read = -(-groups * group // rows) * weights * max(lengths)
                read += groups * (of["decode_bytes"] - weights * max(lengths))
                seconds = {
                    "prefill": groups * of["prefill"] / rate,
                    "decode": max(groups * of["decode"] / rate, read / bandwidth),
                    "training": groups * of["training"] / rate,
                }
                operations = {part: groups * of[part] for part in ("prefill", "decode", "training")}
                both[variant] = {
                    "rows_decoded_at_once": rows,
                    "operations": operations | {"step": sum(operations.values())},
                    "decode_bytes": read,
                    "least_seconds": seconds | {"step": sum(seconds.values())},
                }
            for of in ("operations", "least_seconds"):
                theirs, ours = both["trl"][of], both["candor"][of]
                both[f"trl_over_candor, {of}"] = {part: theirs[part] / ours[part] for part in theirs}
            found[f"{name}, {label}"] = both
    shape = {"prompt": prompt, "group": group, "groups": groups, "completion": completion, "lora": True}
    return shape | {"card": "H100", "models": found}


def tokenizer(vocabulary: int):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = Tokenizer(WordLevel({f"t{token}": token for token in range(vocabulary)}, unk_token="t0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1")


def made(options):
    """A model with random weights on its device."""
    torch.manual_seed(0)
    config = configuration(options.model)
    dtype = getattr(torch, options.dtype)
    with torch.device(options.device):
        model = Qwen2ForCausalLM(config).to(dtype)
    if options.lora:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(r=options.lora, lora_alpha=2 * options.lora, target_modules="all-linear")
        model = get_peft_model(model, adapters)
    return model, config


def prompts(options, config, count: int) -> list[list[int]]:
    generator = random.Random(1)
    return [[generator.randrange(2, config.vocab_size) for _ in range(options.prompt)] for _ in range(count)]


def ends(config, length: int, longest: int) -> list[int]:
    """Tokens that end a completion: so many that a cut geometric length has the wanted mean."""
    if length >= longest:
        return [1]
    low, high = 1e-6, 1.0  # the mean (1 - (1-p)^n) / p falls with p
    for _ in range(60):
        share = (low + high) / 2
        low, high = (share, high) if (1 - (1 - share) ** longest) / share > length else (low, share)
    return list(range(1, 1 + max(1, round(share * config.vocab_size))))


def peak_memory(device: str) -> int:
    """Bytes: allocated on the card, or resident in this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def now(device: str) -> float:
    """Seconds: on a card by the clock, its queue empty; on a CPU those of this thread, whoever else is busy there."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock(TrainerCallback):
    """Seconds of every step and of its parts, by wrapping the methods that do them."""

    def __init__(self, device: str):
        self.device, self.steps, self.parts, self.before = device, [], {}, 0.0

    def watch(self, owner, method: str, part: str) -> None:
        inner = getattr(owner, method)

        @wraps(inner)
        def timed(*arguments, **keywords):
            start = now(self.device)
            try:
                return inner(*arguments, **keywords)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + now(self.device) - start

        setattr(owner, method, timed)

    def on_train_begin(self, *_, **__):
        self.before = now(self.device)

    def on_step_end(self, *_, **__):
        after = now(self.device)
        self.steps.append({"step": after - self.before} | self.parts)
        self.before, self.parts = after, {}


def train(options) -> dict:
    """Seconds, parts and peak memory of steps by one trainer."""
    models.quiet()
    model, config = made(options)
    model.generation_config.eos_token_id = ends(config, options.length, options.completion)
    rows = options.groups * options.group
    texts = [" ".join(f"t{token}" for token in row) for row in prompts(options, config, 4 * options.groups)]
    kind, micro = GRPOTrainer, options.trl_micro_batch or options.micro_batch or options.group
    if options.variant == "candor":
        own = {"attention": options.route, "sampling_rows": options.rows, "cuda_graphs": options.graphs}
        kind, micro = partial(LongPromptGRPOTrainer, **own), options.micro_batch or options.group
    lengths: list[int] = []

    def reward(completion_ids, **_):
        lengths.extend(map(len, completion_ids))
        return [float(len(row) % 7 + row[0] % 5) for row in completion_ids]

    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": rows // micro,
            "steps_per_generation": rows // micro,
            "num_generations": options.group,
            "max_completion_length": options.completion,
            "learning_rate": 1e-6,
            "max_steps": options.steps + options.warm_up,
            "seed": 0,
            "bf16": options.device == "cuda",
            "use_cpu": options.device == "cpu",
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        }
        told = fit.configuration(GRPOConfig, policy.GRPO | settings, folder)
    clock = Clock(options.device)
    one = kind(
        model=model,
        args=told,
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer(config.vocab_size),
        callbacks=[clock],
    )
    one.remove_callback(fit.PrinterCallback)
    watched = ((one, "_generate_single_turn", "sampling"), (one, "_get_per_token_logps_and_entropies", "scoring"))
    for owner, method, part in (*watched, (one.accelerator, "backward", "backward")):
        clock.watch(owner, method, part)
    before = peak_memory(options.device)
    one.train()
    steps = clock.steps[options.warm_up :]
    lengths = lengths[rows * options.warm_up :]
    parts = {part: mean(row.get(part, 0.0) for row in steps) for part in ("sampling", "scoring", "backward")}
    seconds = mean(row["step"] for row in steps)
    by_group = [lengths[start : start + options.group] for start in range(0, len(lengths), options.group)]
    shape = (config, options.prompt, options.group)
    needed = sum(counted(*shape, of, True, bool(options.lora))["needed"] for of in by_group) / len(steps)
    speed = card(torch.cuda.get_device_name()) if options.device == "cuda" else None
    return {
        "seconds": seconds,
        "each": [row["step"] for row in steps],
        "parts": parts | {"rest": seconds - sum(parts.values())},
        "micro_batch": micro,
        "peak_bytes": peak_memory(options.device),
        "bytes_before": before,
        "mean_length": mean(lengths),
        "completion_tokens_a_second": sum(lengths) / len(steps) / seconds,
        "tokens_a_second": (sum(lengths) / len(steps) + rows * options.prompt) / seconds,
        "needed_operations": needed,
        "model_flops_utilisation": needed / seconds / speed[0] if speed else None,
    }


def generate(options) -> dict:
    """Seconds of drawing one batch of completions, none of which ends early."""
    model, config = made(options)
    inner = (model.get_base_model() if options.lora else model).eval()
    rows = [row for row in prompts(options, config, options.groups) for _ in range(options.group)]
    keywords = {"do_sample": True, "top_k": 0, "top_p": 1.0, "min_new_tokens": options.completion}
    if options.variant.startswith("static"):
        keywords |= {"cache_implementation": "static", "disable_compile": options.variant == "static"}
    if options.variant.startswith("shared"):
        share_prompts(inner)
        graphs = options.variant == "shared_graphs"
        own = {"eos": [-1], "pad": PAD, "rows": options.rows, "cuda_graphs": graphs}
        draw = partial(sample, inner, rows, options.completion, **own)
    else:
        ids = torch.tensor(rows, device=options.device)
        mask = torch.ones_like(ids)
        draw = partial(model.generate, ids, attention_mask=mask, max_new_tokens=options.completion, **keywords)
    times = []
    for _ in range(options.warm_up + options.steps):
        start = now(options.device)
        with torch.no_grad():
            draw()
        times.append(now(options.device) - start)
    seconds = mean(times[options.warm_up :])
    speed = card(torch.cuda.get_device_name()) if options.device == "cuda" else None
    shape = (config, options.prompt, options.group, [options.completion] * options.group)
    least = None
    if speed:
        of = counted(*shape, options.variant.startswith("shared"), bool(options.lora))
        # Groups decode together: the weights are read once for all of them.
        weights = 2 * sum(weights_of(config)) * options.completion
        read = weights + options.groups * (of["decode_bytes"] - weights)
        work = options.groups * (of["prefill"] + of["decode"]) / speed[0]
        least = max(work, read / speed[1])
    return {
        "seconds": seconds,
        "first": times[0],
        "tokens_a_second": len(rows) * options.completion / seconds,
        "milliseconds_a_token": 1000 * seconds / options.completion,
        "least_seconds": least,
        "peak_bytes": peak_memory(options.device),
    }


def alone(options, variant: str, length: int) -> dict:
    """One variant in a process of its own; its sentence where it fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant, "--length", str(length)]
        done = subprocess.run([*command, "--output", file.name], capture_output=True, text=True, check=False)
        if done.returncode:
            last = [line.strip() for line in done.stderr.splitlines() if "Error" in line]
            return {"failed": last[-1] if last else f"code {done.returncode}"}
        return json.loads(Path(file.name).read_text())


def measure(options) -> dict:
    variants = GENERATORS if options.generation else TRAINERS
    if options.device == "cpu":  # neither graphs nor generate's own compilation exist there
        variants = [name for name in variants if name not in ("static_compiled", "shared_graphs")]
    lengths = [options.completion] if options.generation else options.lengths or [options.completion]
    results = {}
    for length in lengths:
        of_length: dict = {variant: alone(options, variant, length) for variant in variants}
        first = variants[-1] if options.generation else "trl"
        for variant in variants:
            both = (of_length[first], of_length[variant])
            if variant != first and all("seconds" in one for one in both):
                of_length[variant][f"seconds_over_{first}"] = both[1]["seconds"] / both[0]["seconds"]
                of_length[variant][f"peak_bytes_over_{first}"] = both[1]["peak_bytes"] / both[0]["peak_bytes"]
        if not options.generation and all("seconds" in one for one in of_length.values()):
            of_length["faster"] = of_length["trl"]["seconds"] / of_length["candor"]["seconds"]
        results[f"mean length {length}"] = of_length
    config = configuration(options.model)
    names = ("model", "prompt", "group", "groups", "completion", "lora", "dtype", "device", "route", "steps")
    return {
        "what": f"measured on {'a GPU' if options.device == 'cuda' else 'a CPU, at a small shape: not a GPU result'}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **provenance(),
        "threads": torch.get_num_threads(),
        "seconds": "by the clock" if options.device == "cuda" else "of this process on the CPU, one thread",
        "shape": {name: getattr(options, name) for name in names} | {"parameters": sum(weights_of(config))},
        "generation" if options.generation else "training": results,
        "counted_at_full_shape": full_shape(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--group", type=int, default=16, help="completions of a prompt")
    parser.add_argument("--groups", type=int, default=1, help="prompts of a step")
    parser.add_argument("--completion", type=int, default=256, help="most tokens of a completion")
    parser.add_argument("--lengths", type=int, nargs="*", help="mean lengths to measure; the longest by default")
    parser.add_argument("--micro-batch", type=int, help="completions a pass; a group by default")
    parser.add_argument("--trl-micro-batch", type=int, help="the same for TRL, where memory forces another")
    parser.add_argument("--lora", type=int, default=0, help="rank of the adapters; 0 trains all weights")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="how weights are kept")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--route", choices=ROUTES, default="sdpa")
    parser.add_argument("--rows", type=int, help="completions decoded at once; what fits by default")
    parser.add_argument("--graphs", action="store_true", help="decode by CUDA graphs")
    parser.add_argument("--generation", action="store_true", help="compare ways of sampling instead of trainers")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    one = generate if options.generation else train
    found = one(options) if options.variant else measure(options)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    if not options.variant:
        for label, of_length in found["generation" if options.generation else "training"].items():
            for variant, one in of_length.items():
                if isinstance(one, dict):
                    said = one.get("failed") or f"{one['seconds']:.2f} s, {one['peak_bytes'] / 2**30:.2f} GiB"
                    print(f"{label}, {variant}: {said}")
            if "faster" in of_length:
                print(f"{label}: {of_length['faster']:.2f} times as fast as TRL")


if __name__ == "__main__":
    main()
