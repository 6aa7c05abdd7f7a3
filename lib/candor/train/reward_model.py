"""Reward models of preference pairs (Bradley-Terry) by TRL, and their use as a reward.

Three recipes: pairs of token ids, with or without margins, on a decoder with a scalar head (`bradley_terry`); the same
with weights and soft labels (`weighted`); a head of our own on the states of a frozen decoder (`two_positions`).
Soft labels are y = P(first preferred), any real number: a loss corrected for flips needs labels outside [0, 1].
Assumes: TRL 1.16.
Raises: `CandorError` without pairs or weights, `DivergedError` where loss or weights stop being finite.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForSequenceClassification, Qwen2PreTrainedModel, TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import RewardConfig, RewardTrainer

from candor.core.errors import CandorError, DivergedError
from candor.train.fit import fit
from candor.train.sharing import branch_hidden, left_pad, of_one_length

REWARD = {
    "max_length": None,  # pairs that are longer would be dropped
    "center_rewards_coefficient": None,
    "disable_dropout": True,
}
COLUMNS = {name: name for name in ("loss", "grad_norm", "accuracy", "margin", "mean_reward")}
CHUNK = 128  # texts in a pass: small enough to stay in a core's cache
WIDTHS = (128, 64)


# --- A decoder with a scalar head ---------------------------------------------------------------------


def load(path: str | Path, seed: int | None = None):
    """The model in a folder with a scalar head, drawn from `seed` if the folder holds none."""
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)


def bradley_terry(
    model,
    tokenizer,
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    settings: Mapping,
    *,
    margin: Sequence[float] | None = None,
    **options,
) -> pd.DataFrame:
    """Train `model` in place to score `chosen` above `rejected`, token ids of prompt and completion; returns the log.

    With `margin` [n] the loss is -log sigma(score difference - margin). `settings` of `RewardConfig`, over the defaults
    here: learning rate constant after ten steps of warm-up, gradient clipped at 1, no weight decay, float32, no
    truncation, scores not centred. A row every `logging_steps` steps: step, loss, grad_norm, accuracy, margin,
    mean_reward, seconds.
    """
    if not len(chosen):
        raise CandorError("There is no pair to train a reward model on: lower the threshold, or take more samples.")
    columns = {"chosen_ids": list(map(list, chosen)), "rejected_ids": list(map(list, rejected))}
    if margin is not None:
        columns["margin"] = [float(m) for m in margin]
    return _fit(RewardTrainer, settings, model, tokenizer, Dataset.from_dict(columns), **options)


def _fit(trainer_class: type, settings: Mapping, model, tokenizer, pairs: Dataset, **options) -> pd.DataFrame:
    settings = REWARD | settings
    return fit(trainer_class, RewardConfig, settings, model, tokenizer, pairs, columns=COLUMNS, **options)


@torch.no_grad()
def score(model, rows: Sequence[Sequence[int]], batch: int = 512) -> np.ndarray:
    """Scores [n] of token ids, prompt and completion in a row."""
    scores = np.empty(len(rows))
    order = np.argsort([len(row) for row in rows], kind="stable")
    for index in np.split(order, range(batch, len(order), batch)):
        width = max(len(rows[i]) for i in index)
        ids = torch.full((len(index), width), model.config.pad_token_id, device=model.device)
        for k, i in enumerate(index):
            ids[k, : len(rows[i])] = torch.tensor(rows[i], device=model.device)
        mask = (torch.arange(width, device=model.device) < torch.tensor([[len(rows[i])] for i in index]).to(ids)).long()
        # The head reads the last token that is not padding.
        scores[index] = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].double().cpu().numpy()
    return scores


def as_reward(model, tokenizer, factor: float = 1.0) -> Callable:
    """The model as a reward function of TRL, scores times `factor`; it joins prompt and completion token by token."""

    def reward_model(prompts, completion_ids, **_) -> list[float]:
        starts = tokenizer(list(prompts))["input_ids"]
        return (factor * score(model, [[*a, *b] for a, b in zip(starts, completion_ids)])).tolist()

    return reward_model


def scaled(reward: Callable, centre: float, divisor: float) -> Callable:
    """A reward of TRL on a scale that is fixed outside: (reward - centre) / divisor, clipped to [-1, 1].

    Scaled by its own range, a judge that has learned nothing would give as much reward as one that has learned all. The
    centre drops out of leave-one-out advantages: it only says where the clip lies, as Bradley-Terry scores have no zero
    of their own.
    """

    def judged(**columns) -> list[float]:
        return np.clip((np.asarray(reward(**columns)) - centre) / divisor, -1, 1).tolist()

    return judged


# --- Weights and soft labels --------------------------------------------------------------------------


def weighted(model, tokenizer, pairs: Dataset, settings: Mapping, **options) -> pd.DataFrame:
    """Train `model` in place on comparisons of `pairs_dataset`; returns the log: step, loss, grad_norm, seconds."""
    collate = Collator(tokenizer.pad_token_id)
    return _fit(WeightedRewardTrainer, settings, model, tokenizer, pairs, data_collator=collate, **options)


def pairs_dataset(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], label, weight) -> Dataset:
    """Comparisons as the `Dataset` that the trainer takes; weights are brought to a mean of 1.

    Arms with other weights would otherwise train at other learning rates. Raises: `CandorError` if all weights are 0.
    """
    weight = np.asarray(weight, float)
    if not weight.sum() > 0:
        raise CandorError("All weights of the comparisons are 0: no annotator is left to learn from.")
    columns = {"chosen_ids": list(first), "rejected_ids": list(second)}
    return Dataset.from_dict(columns | {"weight": weight / weight.mean(), "label": np.asarray(label, float)})


class Collator:
    """Pairs as a batch: features by index where there are any, else texts padded on the left; firsts, then seconds."""

    def __init__(self, pad: int, features: torch.Tensor | None = None):
        self.pad, self.features = pad, features

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        ids = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        batch = {name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in ("weight", "label")}
        if self.features is not None:
            return batch | {"features": self.features[torch.tensor(ids).squeeze(1)]}
        tokens, mask = left_pad(ids, self.pad, "cpu")
        return batch | {"input_ids": tokens, "attention_mask": mask}


def weighted_loss(difference: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of w (log(1 + exp(d)) - y d): the cross-entropy of a soft label y = P(first preferred), all [n].

    Linear in y, so that a label outside [0, 1] gives the unbiased correction for flips of a known rate.
    """
    return (weight * (nn.functional.softplus(difference) - label * difference)).mean()


class WeightedRewardTrainer(RewardTrainer):
    """TRL's trainer with weights and soft labels; without the signature columns it would drop both in silence."""

    def _set_signature_columns_if_needed(self):
        self._signature_columns = ["chosen_ids", "rejected_ids", "weight", "label"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight, label = inputs.pop("weight"), inputs.pop("label")
        outputs = model(**inputs)
        first, second = outputs.logits.squeeze(-1).chunk(2)
        loss = weighted_loss(first - second, label, weight)
        return (loss, outputs) if return_outputs else loss


# --- A head on two states of a frozen decoder ---------------------------------------------------------


def states(model, rows: Sequence[Sequence[int]], tails: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Last-layer states at the end of each row and at each token of `tails` put behind it.

    Equal rows run through the model once. Returns at the end [u, H] and at the tails [u, K, H] of the u different rows,
    float32, and which of them each row is [n].
    """
    unique: dict[tuple[int, ...], int] = {}
    place = np.array([unique.setdefault(tuple(row), len(unique)) for row in rows])
    different, width = list(unique), model.config.hidden_size
    branches = torch.tensor(tails, dtype=torch.long, device=model.device)[:, None]
    at = np.zeros((len(different), width), np.float32)
    after = np.zeros((len(different), len(tails), width), np.float32)
    for index in of_one_length(different, CHUNK):
        ids = torch.tensor([different[i] for i in index], device=model.device)
        end, behind = branch_hidden(model, ids, branches)
        at[index], after[index] = end.float().cpu().numpy(), behind.float().cpu().numpy()
    return at, after, place


class TwoPositionReward(Qwen2PreTrainedModel):
    """A reward on top of a frozen decoder: standardised states at the last two tokens, then an MLP 128-64-1.

    Texts end in the confidence token, with the token that opens it in front, padded on the left. The head reads two
    states of the last layer: at `<confidence>`, where the decoder knows most about the answer, and at the confidence
    token. A score from the last token alone reads the confidence and sees little of the evidence: in two layers, what
    stands at that token attends to first-layer states only.
    """

    def __init__(self, decoder):
        config = copy.deepcopy(decoder.config)
        config.num_labels = 1
        super().__init__(config)
        self.decoder = decoder.requires_grad_(False).eval()
        size = 2 * config.hidden_size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        sizes = (size, *WIDTHS)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.head = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def train(self, mode: bool = True):
        super().train(mode)
        self.decoder.eval()
        return self

    def forward(self, input_ids=None, attention_mask=None, features=None, **_):
        """Rewards as `.logits` [n, 1]: of texts padded on the left, or of the `features` [n, 2H] of such texts."""
        if features is None:
            with torch.no_grad():
                hidden = self.decoder.model(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
                    use_cache=False,
                ).last_hidden_state
            features = hidden[:, -2:].flatten(1)
        return SequenceClassifierOutput(logits=self.head((features - self.mean) / self.scale))

    @torch.no_grad()
    def score(self, at: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Rewards [u, K] of the `states` at the end of u rows [u, H] and at K tokens behind each [u, K, H]."""
        parts = []
        for a, b in zip(torch.as_tensor(at).split(4096), torch.as_tensor(after).split(4096)):
            both = torch.cat([a[:, None].expand(-1, b.shape[1], -1), b], 2)
            parts.append(self(features=both.float()).logits.squeeze(-1))
        return torch.cat(parts).double().numpy()

    def head_state(self) -> dict[str, torch.Tensor]:
        """What is trained or measured, without the decoder."""
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("decoder.")}
        return {name: tensor.clone().contiguous() for name, tensor in own.items()}

    def load_head(self, state: dict[str, torch.Tensor]):
        """Put a `head_state` in place; returns the model."""
        self.load_state_dict(state, strict=False)
        return self.eval()


def two_positions(
    decoder,
    tokenizer,
    features: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
    settings: Mapping,
    *,
    heldout: float = 0.1,
    patience: int = 3,
    progress: Callable[[int, int], None] = lambda epoch, total: None,
) -> tuple[TwoPositionReward, pd.DataFrame]:
    """A `TwoPositionReward` of comparisons whose features are given, at its best epoch, and the held-out losses.

    Parameters
    ----------
    features : states of both completions [n, 2, 2H].
    label : P(first preferred) [n]. weight : [n].
    settings : of `RewardConfig`, with a seed.
    heldout : share of the comparisons, the last ones, that choose the epoch.

    Returns
    -------
    The model, and a row an epoch: epoch, heldout_loss.
    """
    torch.manual_seed(settings["seed"])
    model = TwoPositionReward(decoder)
    flat = torch.as_tensor(features, dtype=torch.float32).flatten(0, 1)
    model.mean.copy_(flat.mean(0))
    model.scale.copy_(flat.std(0).clamp(min=1e-6))
    split = max(1, round(len(label) * (1 - heldout)))
    index = np.arange(2 * len(label)).reshape(-1, 2, 1)
    pairs = pairs_dataset(index[:split, 0].tolist(), index[:split, 1].tolist(), label[:split], weight[:split])
    rest = slice(split, None) if split < len(label) else slice(None)  # so few comparisons that none can be spared
    held = [torch.as_tensor(part[rest], dtype=torch.float32) for part in (features, label, weight)]
    best = _BestEpoch(held[0], held[1], held[2] / max(float(held[2].mean()), 1e-12), patience, progress)
    settings = {"lr_scheduler_type": "constant", "warmup_steps": 0, "logging_strategy": "no"} | settings
    _fit(
        WeightedRewardTrainer,
        settings,
        model,
        tokenizer,
        pairs,
        data_collator=Collator(tokenizer.pad_token_id, flat),
        callbacks=lambda recorder: [best],
    )
    return model.load_head(best.state), pd.DataFrame(best.rows)


class _BestEpoch(TrainerCallback):
    """Held-out loss after every epoch; keeps the best head and stops after `patience` epochs without a better one."""

    def __init__(self, features, label, weight, patience, progress):
        self.held, self.patience, self.progress = (features, label, weight), patience, progress
        self.rows: list[dict] = []
        self.best, self.best_epoch, self.state = math.inf, 0, None

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        features, label, weight = self.held
        model.eval()
        with torch.no_grad():
            first, second = (model(features=features[:, k]).logits.squeeze(-1) for k in range(2))
        model.train()
        loss, epoch = float(weighted_loss(first - second, label, weight)), len(self.rows) + 1
        self.rows.append({"epoch": epoch, "heldout_loss": loss})
        if not math.isfinite(loss):
            raise DivergedError(f"The held-out loss stopped being finite in epoch {epoch}: lower the learning rate.")
        if loss < self.best:
            self.best, self.best_epoch, self.state = loss, epoch, model.head_state()
        control.should_training_stop = epoch - self.best_epoch >= self.patience
        self.progress(epoch, int(args.num_train_epochs))
