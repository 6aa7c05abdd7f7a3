"""Which side of a preference pretrained chat models are trained on, from which start, and what writes where."""

from types import SimpleNamespace

import numpy as np
import pytest
import wired
from candor.claims.grounding_loss import dialogue_models as dm
from candor.claims.grounding_loss import dialogues
from candor.core import settings as config
from wired import SEED, check_recipe, evaluations, name_of

# --- Tables -----------------------------------------------------------------------------------------

# Preferences: chosen, rejected, and which of the arms that leave some out keep them. Replies that differ by more than a
# tenth in length are not matched; pairs in which exactly one reply asks are not balanced.
PAIRS = [
    ("Why do you ask me?", "I do not know you.", {"length_matched"}),
    ("It is the first one.", "Is it the first one?", {"length_matched"}),
    ("It is so.", "It is so, and there is a good deal more to say of it.", {"balanced"}),
    ("Is it?", "Do you want to know what it is?", {"balanced"}),
    ("It is red, I think.", "It is blue, I think", {"balanced", "length_matched"}),
    ("Which one do you mean by this?", "No.", set()),
]
ARMS = {  # pairs: with chosen and rejected exchanged, weight of the anchor
    "dpo": (False, 0.11),
    "swapped": (True, 0.11),
    "balanced": (False, 0.11),
    "length_matched": (False, 0.11),
    "dpo_beta_low": (False, 0.012),
}
CHAT = {
    **{"lora": None, "max_length": 300, "micro_batch": 2, "max_grad_norm": 0.7, "checkpoints": 2},
    **{"checkpoint_turns": 3},
    "sft": {"conversations": 6, "steps": None, "batch": 2, "lr": 0.0021, "warmup": 0.5},
    "dpo": {"pairs": 100, "steps": 2, "batch": 4, "lr": 0.0031, "warmup": 0.5, "beta": 0.11, "beta_low": 0.012},
}
ALWAYS = {
    **{"weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "max_grad_norm": 0.7, "max_length": 300},
    **{"truncation_mode": "keep_start", "seed": SEED, "per_device_train_batch_size": 2},
}
STAGES = {"archangel": "sft dpo ppo", "olmo_1b": "sft dpo rlvr", "olmo_7b": "base sft dpo rlvr", "zephyr": "sft dpo"}
LINEAGES = {f"{name}_{stage}" for name, stages in STAGES.items() for stage in stages.split()}
TALKS = {place: [dialogues.Message(False, "Hi."), dialogues.Message(True, f"Why {place}?")] for place in (4, 7, 9)}

# --- Steps ------------------------------------------------------------------------------------------


def labelled(sampler, turns, places, texts):
    return places.assign(words=1, malformed=0, regex="none")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogues")
    lines = [text for pair in PAIRS for text in pair[:2]]
    models = wired.stand_ins(folder, ["policy", *LINEAGES], lines)
    sides = ("chosen", "rejected")
    rows = [
        {"prompt": f"Question {i}"}
        | {side: [{"role": "assistant", "content": text}] for side, text in zip(sides, pair)}
        for i, pair in enumerate(PAIRS)
    ]
    wired.write_rows(folder / "corpora", "ultrafeedback", "train", rows)
    chats = [[("user", f"Hi {i}"), ("assistant", f"Hello {i}")] for i in range(20)]
    chats = [{"messages": [{"role": role, "content": said} for role, said in chat]} for chat in chats]
    wired.write_rows(folder / "corpora", "ultrachat", "train", chats)
    settings = {"chat": CHAT | {"policy": models.pop("policy")}, "lineage_ids": models, "labeller": {"model": None}}
    with wired.noted(tmp_path_factory, wired.of_models(**settings)) as run:
        run.patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        run.spy(dialogues, "sample", lambda *_: TALKS)
        run.spy(dm, "_course", lambda *_: lambda step: None)
        run.samplers(lambda place: SimpleNamespace(place=place))
        run.spy(dm, "write", lambda sampler, turns, *_: dm._places(turns).assign(sample=0, text="So."))
        run.spy(dm, "_labelled", labelled)
        yield run


def said_in(trainer, tokenizer, *columns):
    """The replies in a trainer's data, without what the template puts around them."""
    texts = (tokenizer.batch_decode(list(trainer.train_dataset[column])) for column in columns)
    return [tuple(text.replace("<eos>", "").strip() for text in row) for row in zip(*texts)]


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_of_dpo_prefers_the_side_that_it_is_named_for(made, arm):
    run, (swapped, beta) = made(f"dialogues/own/{arm}"), ARMS[arm]
    [trainer] = run.trainings
    recipe = {"max_steps": 2, "learning_rate": 0.0031, "warmup_steps": 1, "gradient_accumulation_steps": 2}
    recipe |= {"loss_type": ["sigmoid"], "lr_scheduler_type": "linear", "beta": beta, "label_smoothing": 0.0}
    check_recipe(trainer, ALWAYS | recipe | {"precompute_ref_log_probs": True})
    assert trainer.started_from == "dialogues/own/sft" and trainer.ref_model is None
    kept = [pair for pair in PAIRS if arm not in ("balanced", "length_matched") or arm in pair[2]]
    wanted = [(bad, good) if swapped else (good, bad) for good, bad, _ in kept]
    assert sorted(said_in(trainer, trainer.processing_class, "chosen_ids", "rejected_ids")) == sorted(wanted)
    assert bool(run.called("_course")) == (arm == "dpo")


@pytest.mark.parametrize("arm", ["sft", "more_sft"])
def test_supervised_arms_read_other_conversations_each(made, arm):
    [trainer] = made(f"dialogues/own/{arm}").trainings
    further = arm == "more_sft"
    recipe = {"max_steps": 2 if further else 3, "learning_rate": 0.0031 if further else 0.0021, "loss_type": "nll"}
    recipe |= {
        "lr_scheduler_type": "linear" if further else "cosine",
        "gradient_accumulation_steps": 2 if further else 1,
    }
    recipe |= {"warmup_steps": 1 if further else 2, "packing": False, "assistant_only_loss": True}
    check_recipe(trainer, ALWAYS | recipe)
    assert trainer.started_from == ("dialogues/own/sft" if further else "policy")
    order = np.random.default_rng([SEED, 2305]).permutation(20)
    texts = [chat for [chat] in said_in(trainer, trainer.processing_class, "input_ids")]
    wanted = order[6:14] if further else order[:6]  # steps times batch, or the conversations
    assert [int(text.rsplit(" ", 1)[1]) for text in texts] == wanted.tolist()
    spoken = [token for token in trainer.train_dataset["labels"][0] if token != -100]
    assert trainer.processing_class.decode(spoken) == f"Hello {wanted[0]}<eos>", (
        "the loss is on what the assistant says"
    )


@pytest.mark.parametrize("key", [key for key in evaluations("dialogues") if "/data/" not in key])
def test_an_evaluation_is_of_the_stage_whose_name_it_carries(made, key):
    run, (lineage, name) = made(key), name_of(key.replace("/eval_", "/"))
    [call] = run.called("of_step")
    own = f"dialogues/own/{name}" if lineage == "own" else f"{lineage}_{name}"
    assert made.key_of(call.args[1]) == own
    corpora, [written] = wired.of_models().models.dialogues.corpora, run.called("write")
    assert [call.args for call in run.called("sample")] == [(name, 42, 300, 20) for name in corpora], "none held out"
    assert [turn.conversation for turn in written.args[1]] == [*TALKS] * len(corpora), "at the same turns"
    assert run.result.table("turns")["conversation"].tolist() == [*TALKS] * len(corpora)


def test_the_scale_for_one_gpu_has_the_settings_of_the_brief():
    chat = config.load("gpu").models.chat
    assert {name: chat.sft[name] for name in ("conversations", "batch", "lr", "warmup")} == {
        **{"conversations": 20_000, "batch": 64, "lr": 2e-5, "warmup": 0.1},
    }
    assert {name: chat.dpo[name] for name in ("pairs", "batch", "lr", "warmup", "beta", "beta_low")} == {
        **{"pairs": 20_000, "batch": 32, "lr": 5e-7, "warmup": 0.1, "beta": 0.1, "beta_low": 0.01},
    }


def test_every_trained_step_has_a_row():
    wired.check_rows({f"dialogues/own/{arm}" for arm in ("sft", "more_sft", *ARMS)}, "dialogues")
    assert {name_of(key)[0] for key in evaluations("dialogues")} == {"data", "own", *STAGES}
