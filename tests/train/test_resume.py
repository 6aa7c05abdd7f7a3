"""A training that is killed and goes on ends as if it had never been killed; on the stand-in of the models path."""

import json
import os
import shutil
import signal

import pandas as pd
import pytest
import test_dialogue_models
import test_language_models
from candor.claims.grounding_loss import dialogue_models
from candor.core import settings as config
from candor.core import step as steps
from candor.core.runtime import Runtime, use
from candor.run import steps as experiments
from candor.train import models, policy, preference, resume

stand_in = test_language_models.policy
corpora = test_language_models.corpora
here = test_dialogue_models.here
EVERY, KILLED_AT, STEPS = 2, 5, 6


def killed(run) -> None:
    """`run(progress)` in a process that kills itself at a step, before a checkpoint is written there."""
    import torch

    if torch.cuda.is_initialized():
        pytest.skip("CUDA does not survive a fork")
    pid = os.fork()
    if not pid:
        signal.alarm(300)
        torch.set_num_threads(1)
        try:
            run(lambda step, total: os.kill(os.getpid(), signal.SIGKILL) if step >= KILLED_AT else None)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def weights(folder) -> dict:
    from safetensors.torch import load_file

    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def same(one: dict, other: dict) -> bool:
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def ends_alike(train, tmp_path, harm=lambda folder: None, goes_on_after=4) -> Runtime:
    """Holds `train(folder, progress)`, which leaves `folder/model` and returns the log, against one that was killed."""

    def run(name: str, progress=lambda step, total: None, **settings):
        with use(Runtime(checkpoint_steps=EVERY, **settings)) as used:
            log = train(tmp_path / name, progress)
        return log.drop(columns="seconds"), weights(tmp_path / name / "model"), used

    log, trained, _ = run("whole")
    kept = {"checkpoints": tmp_path / "kept"}
    killed(lambda progress: run("killed", progress, **kept))
    folder = tmp_path / "kept" / "training_1"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    harm(folder)
    steps_seen: list[int] = []
    log_after, trained_after, used = run("resumed", lambda step, total: steps_seen.append(step), **kept)
    assert min(steps_seen) == goes_on_after + 1, "not from the start"
    pd.testing.assert_frame_equal(log, log_after, check_exact=True)
    assert same(trained, trained_after)
    assert used.resumed > 0
    # What comes after a training may be killed, too: nothing is trained again, and all is there.
    shutil.rmtree(tmp_path / "resumed")
    log_again, trained_again, _ = run("resumed", lambda step, total: pytest.fail("trained again"), **kept)
    pd.testing.assert_frame_equal(log, log_again, check_exact=True)
    assert same(trained, trained_again)
    return used


# --- GRPO -------------------------------------------------------------------------------------------


def of_arm(arm, recipe):
    """A reward that a random model earns: the length of what it wrote."""

    def length(completions, **_):
        return [float(len(completion)) for completion in completions]

    return [length], [1.0]


def truncate(folder) -> None:
    path = folder / "checkpoint-4" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-100])


def grpo(stand_in, lora):
    from candor.language_models import sets
    from candor.language_models import training as language_model

    changes = {"steps": STEPS, "lr": 1e-3, "beta": 0.1, "micro_batch": 4, "schedule": "linear"}
    recipe = test_language_models.small(stand_in, hotpot=changes | ({} if lora else {"lora": None})).models.hotpot
    questions = sets.prompts("hotpot_modified", "train", seed=11)
    return lambda folder, progress: language_model.train(
        str(stand_in), questions, "any", recipe.to_dict(), 11, folder, progress=progress, terms="test_resume:of_arm"
    )


def test_grpo_of_adapters_goes_on_and_is_counted(stand_in, corpora, tmp_path):
    used = ends_alike(grpo(stand_in, lora=True), tmp_path)
    told = used.told()
    assert told["peak_gpu_memory_mb"] is None or told["peak_gpu_memory_mb"] > 0
    # 2 x 4 completions of at most 6 tokens in each of 6 steps, those of the killed process among them.
    assert 8 * STEPS <= told["tokens"]["generation"] <= 8 * 6 * STEPS
    assert told["tokens"]["training"] > told["tokens"]["generation"]
    assert told["tokens_per_second"]["training"] > 0 and told["tokens_per_second"]["generation"] > 0


def test_grpo_of_all_weights_goes_on_from_the_checkpoint_before_a_damaged_one(stand_in, corpora, tmp_path):
    with pytest.warns(UserWarning, match=r"optimizer\.pt was truncated"):
        ends_alike(grpo(stand_in, lora=False), tmp_path, truncate, goes_on_after=2)


def test_a_checkpoint_that_was_cut_off_is_not_taken(tmp_path):
    for step in (8, 10, 12):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"12345")
        (folder / "candor.json").write_text(json.dumps({"files": {"weights": 5}}))
    (tmp_path / "checkpoint-12" / "candor.json").unlink()
    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"123")
    with pytest.warns(UserWarning, match="checkpoint-10/weights was truncated"):
        assert resume.last_whole(tmp_path) == tmp_path / "checkpoint-8"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]
    assert resume.last_whole(tmp_path / "nowhere") is None


# --- DPO, RLOO, reward model ------------------------------------------------------------------------


def test_dpo_of_adapters_goes_on(stand_in, tmp_path):
    settings = test_dialogue_models.small(stand_in).models.chat
    words = ["yes", "no", "perhaps", "why do you ask", "so it goes"]
    rows = [{"prompt": f"Shall we {w}?", "chosen": v, "rejected": w} for w in words for v in words if v != w]

    def train(folder, progress):
        model, tokenizer = models.pretrained(stand_in, {"rank": 2, "alpha": 4}, 11)
        tokenizer.chat_template = dialogue_models.TEMPLATE
        pairs = dialogue_models.preference_pairs(rows, tokenizer, 512)
        told = dialogue_models.settings_of(settings, STEPS, 11, logged=1) | {"beta": 0.1}
        log = preference.dpo(model, tokenizer, pairs, told, resumes=True, progress=progress)
        models.save_merged(model, tokenizer, folder / "model")
        return log

    assert ends_alike(train, tmp_path).told()["tokens"]["training"] > 0


def test_rloo_goes_on(stand_in, tmp_path):
    recipe = config.load("gpu").models.annotation_rloo.to_dict()
    recipe |= {"steps": STEPS, "prompts_per_step": 2, "num_generations": 4, "micro_batch": 4, "lr": 1e-2}
    recipe |= {"max_completion_tokens": 6, "lora": {"rank": 2, "alpha": 2}}
    questions = pd.DataFrame({"prompt": [f"Question {i}:" for i in range(20)]})
    reward = of_arm(None, None)[0][0]

    def train(folder, progress):
        return policy.rloo_adapters(stand_in, questions, reward, recipe, 11, folder / "model", progress=progress)

    assert ends_alike(train, tmp_path).told()["tokens"]["generation"] >= 8 * STEPS


# --- A step -----------------------------------------------------------------------------------------


def test_a_killed_step_goes_on_and_leaves_no_checkpoint(stand_in, here, tmp_path, monkeypatch):
    chat = {"sft": {"conversations": 4, "steps": STEPS, "batch": 2, "lr": 1e-2}, "checkpoints": STEPS}
    settings = test_dialogue_models.small(stand_in, chat=chat, computation={"checkpoint_steps": EVERY})
    key, known = "dialogues/own/sft", experiments.steps()

    def make(name: str, progress=lambda step, total: None) -> steps.Result:
        monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / name))
        return steps.run(key, 11, known, settings, progress=progress)[0]

    whole = make("whole")
    killed(lambda progress: make("killed", progress))
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "killed"))
    place = steps.checkpoints_of(key, 11, "gpu")
    assert (place / steps.fingerprint(known[key], 11, known, settings) / "training_1" / "checkpoint-4").is_dir()
    (place / "0123456789abcdef").mkdir()  # of other settings
    after = make("killed")
    assert not place.exists() and "resumed" not in after.run
    for name in ("log", "trajectory"):
        columns = [column for column in whole.table(name) if column != "seconds"]
        pd.testing.assert_frame_equal(whole.table(name)[columns], after.table(name)[columns], check_exact=True)
    assert len(whole.table("trajectory")) == STEPS + 1
    assert same(weights(whole.model), weights(after.model))
    assert after.run["tokens"]["training"] == whole.run["tokens"]["training"] > 0
    assert (
        after.run["computation"] == settings.models.computation.to_dict()
        and whole.run["tokens_per_second"]["training"] > 0
    )
