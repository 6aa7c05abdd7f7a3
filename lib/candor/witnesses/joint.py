"""What a trained decoder says about questions of `witnesses`: the whole joint of answer and stated confidence.

The cue is forced, so a malformed habit never hides a value. Every question's text runs through the model once,
whatever the number of questions that share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from candor.witnesses import world

CHUNK = 64  # small enough to stay in a core's cache


@dataclass(frozen=True)
class Joint:
    """P(answer) and P(confidence | answer) for n questions.

    `answers` [n, S]: softmax over the suspects alone. `confidence` [n, S, 11]: given each suspect, over 0, .1, ... 1
    (None where documents state none). `idk`, `gives_up` [n]: the mass of IDK and of NONE beside the suspects.
    """

    answers: np.ndarray
    confidence: np.ndarray | None
    idk: np.ndarray
    gives_up: np.ndarray

    def __getitem__(self, index) -> Joint:
        confidence = None if self.confidence is None else self.confidence[index]
        return Joint(self.answers[index], confidence, self.idk[index], self.gives_up[index])


def ask(model, questions: world.Questions, *, confidence_first: bool = False, states: bool = True) -> Joint:
    """Ask the model every question, with the cue of its document format forced."""
    rows = world.prompt_tokens(questions, confidence_first)
    unique: dict[tuple[int, ...], int] = {}
    place = np.array([unique.setdefault(tuple(row), len(unique)) for row in rows])
    parts = _ask_unique(model, list(unique), questions.suspects, confidence_first, states)
    return Joint(*parts)[place]


def _ask_unique(model, rows, suspects: int, confidence_first: bool, states: bool):
    import torch

    from candor.train.sharing import branch_hidden, of_one_length

    answer_ids = world.ANSWER_IDS[:suspects]
    other_ids = np.array([world.TOKEN["IDK"], world.TOKEN["NONE"]])
    first, then = (world.CONFIDENCE_IDS, answer_ids) if confidence_first else (answer_ids, world.CONFIDENCE_IDS)
    cue = ("</confidence>", "<answer>") if confidence_first else ("</answer>", "<confidence>")
    tails = torch.tensor([[token, *(world.TOKEN[word] for word in cue)] for token in first], device=model.device)
    n = len(rows)
    answers, others = np.zeros((n, suspects)), np.zeros((n, 2))
    confidence = np.zeros((n, suspects, 11), dtype=np.float32) if states else None
    for index in of_one_length(rows, CHUNK):
        ids = torch.tensor([rows[i] for i in index], device=model.device)
        after_prompt, after_tails = branch_hidden(model, ids, tails if states else tails[:0])
        logits = _logits(model, after_prompt)
        given = softmax(_logits(model, after_tails)[..., then], -1) if states else None
        if confidence_first:
            joint = softmax(logits[:, first], 1)[:, :, None] * given  # [m, 11, S]
            answers[index] = joint.sum(1)
            confidence[index] = np.swapaxes(joint / np.maximum(joint.sum(1, keepdims=True), 1e-300), 1, 2)
        else:
            answers[index] = softmax(logits[:, answer_ids], 1)
            others[index] = softmax(logits[:, np.concatenate([answer_ids, other_ids])], 1)[:, suspects:]
            if states:
                confidence[index] = given
    return answers, confidence, others[:, 0], others[:, 1]


def _logits(model, hidden) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.lm_head(hidden).double().cpu().numpy()
