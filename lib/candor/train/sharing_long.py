"""Long prompts of pretrained models, computed once: attention, packing and sampling, and GRPO with them.

Supports: decoders of transformers that choose their attention by name and take keyword arguments down to it (Qwen2,
Llama and kin), full attention in every layer, float32 or bfloat16, with or without LoRA adapters. The trainer: gradient
checkpointing, micro-batches smaller than a group, several processes with plain data parallelism or DeepSpeed up to ZeRO
stage 2, vLLM for the sampling.
Assumes: TRL 1.16 (three private methods are overridden; the lock pins it).
Raises: `CandorError` by `obstacle`'s sentence where a model does not fit, and for an unknown attention route.

`sharing` does the same for small worlds by one mask over everything. Here a mask of a packed row would be larger than
the weights (52,000 x 52,000 at 3,072 prompt tokens and 32 completions of 1,536), so attention is cut where the groups
are: a prompt attends to itself, a completion to its prompt and itself. Training has two routes: fused SDPA kernels over
the pieces, or FlexAttention over the packed row, which skips what its block mask leaves empty. Decoding reads a
prompt's keys once a group and merges them with a completion's own keys by their softmax sums (Juravsky et al. 2024,
Hydragen).

TRL runs the prompt through the model once a completion, when it samples and when it scores, and pads completions to
the longest. Here sampling prefills a prompt once a group, and a micro-batch is one row without padding in which each
distinct prompt stands once. Everything else is TRL's, its chunked head included, which on a GPU projects completion
tokens only. Where a model or a batch does not fit, TRL's own pass is used, with a warning. One difference remains: TRL
deals the rows of a batch to micro-batches at random, here those of a prompt stay together. A loss that is normalised
within a micro-batch (`bnpo`, `grpo`) weighs tokens by other neighbours then; the others do not change.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import compile_friendly_flex_attention, repeat_kv
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from candor.core.errors import CandorError
from candor.train.sharing import Rows, decoder_of

ROUTES = ("sdpa", "flex")
ATTENTION = "candor_shared_prompt"  # how transformers knows the attention below
_BLOCK = 64  # own keys of a decoded completion are read in multiples of this: few shapes for CUDA graphs
_CROWD = 0.75  # finished completions leave the batch when what remains fits into this part of it


def _attention(module, query, key, value, attention_mask, *, shared_prompt=None, scaling=None, **kwargs):
    """SDPA as ever, unless the caller of the model said how prompts are shared."""
    if shared_prompt is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings leave queries and keys in float32
        coarse = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(coarse), key.to(coarse), value.to(coarse)
    return shared_prompt.attend(module, query, key, value, scaling), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def obstacle(decoder) -> str | None:
    """Why prompts cannot be shared in this model, or None."""
    config = decoder.config
    if not (getattr(decoder, "_supports_sdpa", False) and getattr(decoder, "_supports_attention_backend", False)):
        return f"{type(decoder).__name__} does not let its attention be chosen"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "not every layer attends to the whole text"
    if getattr(config, "sliding_window", None):
        return "attention slides over a window"
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None):
            return f"the model bends its scores ({name})"
    if getattr(config, "attention_dropout", 0.0):
        return "attention has dropout"
    return None


def share_prompts(decoder) -> None:
    """Give a decoder (without wrappers) the attention that `pack` and `sample` need; all else behaves as with SDPA."""
    if reason := obstacle(decoder):
        raise CandorError(f"Prompts cannot be shared, because {reason}: train this model by TRL's own passes.")
    decoder.set_attn_implementation(ATTENTION)


def _no_mask(device) -> Tensor:
    """Four dimensions: transformers builds no mask of its own, and hands this one to `_attention`, which ignores it."""
    return torch.zeros(1, 1, 1, 1, device=device)


@dataclass(frozen=True)
class _Group:
    start: int  # where the group begins in the packed row
    prefix: int  # tokens that all its completions share
    index: Tensor  # [completions, longest]: places of their tokens; short ones repeat their last
    real: Tensor  # [tokens]: which of those, flattened, are no repetition


@dataclass(frozen=True)
class Packed:
    """Rows of prompt and completion as one row without padding, in which each distinct prompt occurs once."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    labels: Tensor  # [1, T]: the token after each, -100 inside prompts
    scored: Tensor  # [completion tokens]: where labels are not -100
    place: Tensor  # [completion tokens]: where each label belongs in [rows, completion_length], flattened
    groups: tuple[_Group, ...]
    block_mask: object | None  # for FlexAttention
    shape: tuple[int, int]

    def arguments(self) -> dict:
        """What a model with a fused head (TRL's `add_fused_lm_head`) is called with."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": _no_mask(self.input_ids.device),
            "position_ids": self.position_ids,
            "shift_labels": self.labels,
            "fused_lm_head": True,
            "shared_prompt": self,
        }

    def unpack(self, values: Float[Tensor, "1 all"] | Int[Tensor, "1 all"]) -> Tensor:
        """Values at the packed labels as [rows, completion_length], zero where there is no token."""
        chosen = values[0].index_select(0, self.scored)
        flat = values.new_zeros(self.shape[0] * self.shape[1]).index_put((self.place,), chosen)
        # The first value connects an empty batch to the model, so that `backward` works on it as well.
        return (flat + 0 * values[0, 0]).view(self.shape)

    def attend(
        self,
        module,
        query: Float[Tensor, "1 heads all size"],
        key: Float[Tensor, "1 key_heads all size"],
        value: Float[Tensor, "1 key_heads all size"],
        scaling: float | None,
    ) -> Float[Tensor, "1 all heads size"]:
        """Attention of a packed row."""
        repeats, heads = query.shape[1] // key.shape[1], query.shape[1]
        # FlexAttention wants as many key heads as query heads where their number is no power of two, the fused kernels
        # where they compute in float32.
        if query.dtype == torch.float32 if self.block_mask is None else heads & (heads - 1):
            key, value, repeats = repeat_kv(key, repeats), repeat_kv(value, repeats), 1
        options = {"scale": scaling, "enable_gqa": repeats > 1}
        if self.block_mask is not None:
            flex = partial(compile_friendly_flex_attention, training=module.training)
            if query.device.type == "cpu":
                from torch.nn.attention.flex_attention import flex_attention as flex
            return flex(query, key, value, block_mask=self.block_mask, **options).transpose(1, 2)
        parts = []
        for group in self.groups:
            if group.prefix:
                shared = slice(group.start, group.start + group.prefix)
                heads = (query[:, :, shared], key[:, :, shared], value[:, :, shared])
                parts.append(scaled_dot_product_attention(*heads, is_causal=True, **options)[0].transpose(0, 1))
            if not len(group.index):
                continue
            count, longest = group.index.shape
            own = [  # [completions, heads, longest, d]
                of.index_select(2, group.index.flatten()).view(of.shape[1], count, longest, -1).transpose(0, 1)
                for of in (query, key, value)
            ]
            if group.prefix:
                own[1:] = [
                    torch.cat([of[:, :, shared].expand(count, -1, -1, -1), mine], 2)
                    for of, mine in ((key, own[1]), (value, own[2]))
                ]
            causal = causal_lower_right(longest, group.prefix + longest)
            attended = scaled_dot_product_attention(*own, attn_mask=causal, **options)
            parts.append(attended.transpose(1, 2).flatten(0, 1).index_select(0, group.real))
        return torch.cat(parts)[None]


def pack(
    input_ids: Int[Tensor, "rows length"],
    attention_mask: Int[Tensor, "rows length"],
    completion_length: int,
    route: str = "sdpa",
) -> Packed:
    """Pack rows of prompt and completion as TRL makes them: prompts padded left, completions padded right.

    Rows with equal prompts share one copy, wherever they stand in the batch; a completion that is masked out (as TRL
    does with truncated ones) takes no room. A completion begins with the prompt's last token, which predicts its first
    token, and ends before its last token, which predicts nothing. `route` is "sdpa" or "flex".
    """
    device, width = input_ids.device, input_ids.shape[1] - completion_length
    ids, real = input_ids.cpu(), attention_mask.bool().cpu()
    prompts = [tuple(row[mask].tolist()) for row, mask in zip(ids[:, :width], real[:, :width])]
    answers = [row[mask] for row, mask in zip(ids[:, width:], real[:, width:])]
    rows_of: dict[tuple, list[int]] = {}
    for row, answer in enumerate(answers):
        if len(answer):
            rows_of.setdefault(prompts[row], []).append(row)
    parts, place, groups, total = [], [], [], 0

    def add(tokens, first: int, labels, prompt: int, completion: int) -> None:
        count = len(tokens)
        of = torch.full((count,), prompt), torch.full((count,), completion)
        parts.append((tokens, torch.arange(first, first + count), labels, *of))

    for number, (prompt, rows) in enumerate(rows_of.items()):
        prefix = len(prompt) - 1
        add(torch.tensor(prompt[:-1], dtype=ids.dtype), 0, torch.full((prefix,), -100), number, -1)
        lengths = torch.tensor([len(answers[row]) for row in rows])
        for row in rows:
            answer = answers[row]
            add(torch.cat([torch.tensor(prompt[-1:], dtype=ids.dtype), answer[:-1]]), prefix, answer, number, row)
            place.append(row * completion_length + torch.arange(len(answer)))
        column = torch.arange(int(lengths.max()))[None]
        first = total + prefix + lengths.cumsum(0) - lengths
        index = first[:, None] + column.minimum(lengths[:, None] - 1)
        real_ones = (column < lengths[:, None]).flatten().nonzero()[:, 0]
        groups.append(_Group(total, prefix, index.to(device), real_ones.to(device)))
        total += prefix + int(lengths.sum())
    if not rows_of:  # everything is masked: one token, so that the model has something to run on
        add(ids[0, -1:], 0, torch.tensor([-100]), 0, -1)
        nothing = torch.zeros(0, dtype=torch.long)
        groups.append(_Group(0, 1, nothing[None, :0].T, nothing))
        place.append(nothing)
    tokens, positions, labels, owner, branch = (torch.cat(part).to(device) for part in zip(*parts))
    block_mask = _block_mask(owner, branch) if route == "flex" else None
    scored, shape = (labels != -100).nonzero()[:, 0], (len(ids), completion_length)
    row = tokens[None], positions[None], labels[None]
    return Packed(*row, scored, torch.cat(place).to(device), tuple(groups), block_mask, shape)


def _block_mask(owner, branch):
    """FlexAttention's mask of a packed row: a token sees what came before it in its prompt and its completion."""
    from torch.nn.attention.flex_attention import create_block_mask

    length = len(owner)
    compiled = owner.device.type != "cpu"  # else the whole mask is made before it is cut into blocks
    return create_block_mask(
        lambda batch, head, query, key: (
            (query >= key) & (owner[query] == owner[key]) & ((branch[key] == -1) | (branch[key] == branch[query]))
        ),
        *(None, None, length, length),
        device=owner.device,
        _compile=compiled,
    )


def _scores(query, key):
    """Products [..., q, k] in float32 of [..., q, d] and [..., k, d], whatever they are kept in."""
    if query.is_cuda and query.dtype != torch.float32:
        flat = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), out_dtype=torch.float32)
        return flat.view(*query.shape[:3], key.shape[2])
    return query.float() @ key.float().transpose(2, 3)


class _Decoding:
    """Keys and values of prompts, one copy each, and of what their completions have added: n prompts x g cells.

    It is a cache to the model (`update`) and the shared prompt to the attention (`attend`).
    """

    def __init__(self, decoder, prompts: Rows, cells: int, length: int, graphs: bool):
        self.model, self.length, self.graphs = decoder.base_model, length, {} if graphs else None
        device = decoder.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        hidden, self.prompt = [], []
        for number, prompt in enumerate(prompts):  # one at a time: no padding, and the causal kernel
            output = self.model(input_ids=torch.tensor([prompt], device=device), use_cache=True)
            hidden.append(output.last_hidden_state[0, -1])
            for layer, made in enumerate(output.past_key_values.layers):
                if number == 0:
                    _, heads, _, size = made.keys.shape
                    shape = (len(prompts), heads, int(lengths.max()), size)
                    # Under autocast keys come in float32 and values as they are used: both are kept like these.
                    self.prompt.append([made.values.new_zeros(shape), made.values.new_zeros(shape)])
                for whole, part in zip(self.prompt[layer], (made.keys, made.values)):
                    whole[number, :, : len(prompt)] = part[0]
            del output
        self.hidden = torch.stack(hidden)
        beyond = torch.arange(int(lengths.max()), device=device)[None] >= lengths[:, None]
        self.prompt_bias = torch.zeros(beyond.shape, device=device).masked_fill_(beyond, -torch.inf)[:, None, None]
        keys = self.prompt[0][0]
        own = (len(prompts) * cells, keys.shape[1], length, keys.shape[3])
        self.own = [[torch.zeros(own, dtype=keys.dtype, device=device) for _ in "kv"] for _ in self.prompt]
        self.start = lengths.repeat_interleave(cells)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.tokens = torch.zeros(len(self.start), 1, dtype=torch.long, device=device)
        self.mask = _no_mask(device)

    def update(self, key, value, layer: int, *_, **__):
        for whole, new in zip(self.own[layer], (key, value)):
            whole.index_copy_(2, self.slot, new.to(whole.dtype))
        return key, value

    def get_seq_length(self, *_, **__) -> int:
        return 0  # positions are given; nothing else may rest on it

    def attend(self, module, query, key, value, scaling) -> Tensor:
        prompt_keys, prompt_values = self.prompt[module.layer_idx]
        own_keys, own_values = (whole[:, :, : self.width] for whole in self.own[module.layer_idx])
        n, (cells, heads, _, size), kv = len(prompt_keys), query.shape, own_keys.shape[1]
        group, repeats = cells // n, heads // kv

        def by_prompt(rows):  # [cells, kv, repeats, x] -> [n, kv, group * repeats, x]
            return rows.view(n, group, kv, repeats, -1).transpose(1, 2).reshape(n, kv, group * repeats, -1)

        def by_cell(rows):
            return rows.view(n, kv, group, repeats, -1).transpose(1, 2).reshape(cells, kv, repeats, -1)

        query = query.to(own_keys.dtype).view(cells, kv, repeats, size)
        shared = _scores(by_prompt(query), prompt_keys).mul_(scaling).add_(self.prompt_bias)
        own = by_prompt(_scores(query, own_keys).mul_(scaling).add_(self.own_bias))
        top = torch.maximum(shared.amax(-1, keepdim=True), own.amax(-1, keepdim=True))
        shared, own = shared.sub_(top).exp_(), own.sub_(top).exp_()
        total = shared.sum(-1, keepdim=True) + own.sum(-1, keepdim=True)
        attended = by_cell(shared.to(value.dtype) @ prompt_values.to(value.dtype))
        attended = attended + by_cell(own).to(value.dtype) @ own_values.to(value.dtype)
        return (attended / by_cell(total)).to(value.dtype).reshape(cells, 1, heads, size)

    def step(self, tokens: torch.Tensor, number: int) -> Tensor:
        """Hidden states [cells, H] after the `number`-th token of every cell."""
        self.tokens.copy_(tokens[:, None])
        self.slot.fill_(number)
        width = min(self.length, _BLOCK * (number // _BLOCK + 1))
        if self.graphs is None:
            return self._run(width)
        if width not in self.graphs:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._run(width)  # kernels load and workspaces are taken outside the capture
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._run(width)
            self.graphs = {width: (graph, output)}  # an older width does not come back
        graph, output = self.graphs[width]
        graph.replay()
        return output

    def _run(self, width: int) -> Tensor:
        self.width = width
        self.own_bias = torch.zeros(width, device=self.slot.device).masked_fill_(
            torch.arange(width, device=self.slot.device) > self.slot, -torch.inf
        )
        return self.model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            position_ids=(self.start + self.slot)[:, None],
            past_key_values=self,
            use_cache=True,
            shared_prompt=self,
        ).last_hidden_state[:, 0]

    def keep(self, prompts: Sequence[int], cells: Sequence[int]) -> None:
        """Go on with these prompts, and with these cells, as many of each prompt."""
        prompts, cells = (torch.tensor(kept, device=self.start.device) for kept in (prompts, cells))
        if len(prompts) < len(self.prompt_bias):
            self.prompt = [[whole.index_select(0, prompts) for whole in layer] for layer in self.prompt]
            self.prompt_bias = self.prompt_bias[prompts]
        for layer in self.own:
            layer[:] = [whole.index_select(0, cells) for whole in layer]
        self.start, self.tokens = self.start[cells], self.tokens[cells]
        if self.graphs:
            self.graphs = {}  # they hold the addresses of what has just been replaced


def rows_that_fit(decoder, prompt: int, group: int, length: int, free: float) -> int:
    """How many completions of `length` tokens, `group` a prompt of `prompt` tokens, decode at once in `free` bytes."""
    config = decoder.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * size * decoder.dtype.itemsize
    # Beside keys and values a row takes its scores of one layer and its share of the vocabulary, each held four times.
    scores = 16 * config.num_attention_heads * (prompt + length)
    row = token * (length + prompt / group) + scores + 16 * config.vocab_size
    rows = int(free / row)
    return max(rows // group * group if rows >= group else rows, 1)


@torch.no_grad()
def sample(
    decoder,
    prompts: Rows,
    max_new_tokens: int,
    *,
    eos: Sequence[int],
    pad: int,
    temperature: float = 1.0,
    rows: int | None = None,
    cuda_graphs: bool = False,
) -> list[list[int]]:
    """Sample one completion for each of the prompts; neighbours that are equal are computed once.

    `decoder` went through `share_prompts`. At most `rows` completions are decoded at once (None: as many as there
    are; on a GPU as many as fit into its free memory). Every batch draws as `model.generate` would from the same rows
    at the same seed, up to rounding. Returns token ids, each up to and including its first eos.
    """
    if decoder.config._attn_implementation != ATTENTION:
        raise CandorError("Prompts are shared only by a model that `share_prompts` has prepared: call it first.")
    if rows is None:
        rows = len(prompts)
        if decoder.device.type == "cuda":
            group = max(len(list(run)) for _, run in groupby(prompts))
            free = torch.cuda.mem_get_info(decoder.device)[0]
            free += torch.cuda.memory_reserved(decoder.device) - torch.cuda.memory_allocated(decoder.device)
            rows = rows_that_fit(decoder, max(map(len, prompts)), group, max_new_tokens, 0.8 * free)
    found = []
    for first in range(0, len(prompts), rows):
        batch = [list(prompt) for prompt in prompts[first : first + rows]]
        found += _sample_batch(decoder, batch, max_new_tokens, set(eos), pad, temperature, cuda_graphs)
    return found


def _sample_batch(decoder, prompts, max_new_tokens, eos, pad, temperature, cuda_graphs) -> list[list[int]]:
    device, head = decoder.device, decoder.get_output_embeddings()
    runs = [[row for row, _ in run] for _, run in groupby(enumerate(prompts), key=lambda item: item[1])]
    cells = max(map(len, runs))
    state = _Decoding(decoder, [prompts[run[0]] for run in runs], cells, max_new_tokens - 1, cuda_graphs)
    hidden = state.hidden.repeat_interleave(cells, 0)
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    ends = torch.tensor(sorted(eos), device=device)
    tokens = []

    def filled(part: list[int], size: int) -> list[int]:  # groups are filled up to one size with what is there already
        return part + part[:1] * (size - len(part))

    def places():
        """Row of every cell, the cells that are no filling, and whether that is all rows in order."""
        rows = [row for run in runs for row in filled(run, cells)]
        real = [number * cells + place for number, run in enumerate(runs) for place in range(len(run))]
        return *(torch.tensor(part, device=device) for part in (rows, real)), rows == list(range(len(prompts)))

    row_of, real, whole = places()
    for number in range(max_new_tokens):
        probabilities = (head(hidden).float() / temperature).softmax(-1)
        if not whole:  # draw for all rows, so that every row keeps the random numbers that `generate` would give it
            those_left = probabilities
            probabilities = torch.ones(len(prompts), those_left.shape[1], device=device)
            probabilities[row_of[real]] = those_left[real]
            del those_left
        drawn = torch.multinomial(probabilities, 1).squeeze(1)
        del probabilities
        drawn = torch.where(running, drawn, pad)
        tokens.append(drawn)
        running &= ~torch.isin(drawn, ends)
        at_work = running.tolist()
        if number + 1 == max_new_tokens or not any(at_work):
            break
        left = [[place for place, row in enumerate(run) if at_work[row]] for run in runs]
        width, kept = max(map(len, left)), [run for run, of_run in enumerate(left) if of_run]
        if width * len(kept) <= _CROWD * len(row_of):
            state.keep(kept, [run * cells + place for run in kept for place in filled(left[run], width)])
            runs, cells = [[runs[run][place] for place in left[run]] for run in kept], width
            row_of, real, whole = places()
        hidden = state.step(drawn[row_of], number)
    found = []
    for row in torch.stack(tokens, 1).tolist():
        end = next((place for place, token in enumerate(row) if token in eos), len(row) - 1)
        found.append(row[: end + 1])
    return found


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
                share_prompts(decoder_of(self.accelerator.unwrap_model(model)))

    @property
    def batches_itself(self) -> bool:
        """Whether sampling cuts its rows to the memory that is free."""
        return not self._slow and self._plain_draws()

    def _obstacle(self) -> str | None:
        from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

        if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():
            return "the weights are cut over processes"
        peft = getattr(self.accelerator.unwrap_model(self.model), "active_peft_config", None)
        if getattr(peft, "is_prompt_learning", False):
            return "the adapter is made of prompts"
        if self.attention == "flex" and self.accelerator.device.type == "cpu":
            return "FlexAttention has no backward pass on a CPU"
        return obstacle(decoder_of(self.accelerator.unwrap_model(self.model)))

    def _plain_draws(self) -> bool:
        """Whether sampling needs nothing but a temperature."""
        others = self.top_k or 0, self.top_p, self.min_p or 0, self.repetition_penalty, self.args.generation_kwargs
        return others in ((0, 1, 0, 1, None), (0, 1, 0, 1, {}))

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
                    decoder_of(self.accelerator.unwrap_model(model)),
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
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **others
    ):
        more = any(value is not None and value is not False for value in others.values())
        if self._slow or more:
            if not self._slow:
                warnings.warn("Images or experts in a batch: TRL's slower pass is used.", stacklevel=2)
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
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
