"""What arms of arithmetic are rewarded with, which labels their judges learn, and what their evaluations ask."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import wired
from candor.claims.model_size import run as sizes
from candor.claims.self_feedback import outputs
from candor.claims.self_feedback import run as arithmetic
from candor.claims.self_feedback import world as sums
from candor.train import models, reward_model
from wired import DPO, EVAL_SEED, GRPO, KNOWN, REWARD_MODEL, RLOO, SEED, G, check_recipe, evaluations, name_of, narrower

SMALL = {
    **{"eval_questions": 30, "branch_prompts": 8, "fixed_prompts": 6, "curve_questions": 10, "branches": 4},
    **{"temperature_labels": 20, "base_steps": 3, "base_batch": 8, "base_lr": 0.0044, "base_weight_decay": 0.015},
    **{"prompts_per_step": 3, "num_generations": G, "binary_steps": 2, "binary_lr": 0.00051, "fluency_steps": 3},
    **{"fluency_lr": 0.00032, "fluency_beta": 0.055, "length_cost": 0.35, "assured_steps": 2, "assured_batch": 4},
    **{"assured_lr": 0.00033, "label_prompts": 40, "threshold": 0.9, "pairs": 150, "judge_lr": 0.0014},
    **{"judge_batch": 8, "rlsf_steps": 4, "rlsf_lr": 0.00024, "rlsf_beta": 0.056, "long_steps": 6, "long_every": 3},
    **{"dpo_lr": 0.00015, "dpo_beta": 0.25, "dpo_batch": 16, "sft_epochs": 2, "sft_lr": 0.00035, "sft_batch": 16},
    **{"online_steps": 5, "online_lr": 0.00052, "online_every": 2},
}


def traces(prompts, k):
    """`k` different completions of each prompt, as ids [n, k, 8], whatever the model."""
    rng = np.random.default_rng(3)
    texts = [f"{sums.OPENERS[j % 4]} = {(i + 3 * j) % 10} <eos>" for i in range(len(prompts)) for j in range(k)]
    full = "f1 1 2 3 {} = {} <eos>"
    texts = [full.format(i % 10, i // 10 % 10) if rng.random() < 0.3 else text for i, text in enumerate(texts)]
    return sums.matrix([sums.tokens_of(text) for text in texts]).reshape(len(prompts), k, sums.NEW_TOKENS)


DISPARITY = np.array([0.95, 0.92, 0.5, 0.1])  # of four branches, from which each prompt has them in another place


def labelled(model, prompts, k):
    """The labels of `arithmetic.labelled` with made-up confidences; every fourth prompt's best branch never ends."""
    ids, n = traces(prompts, k).reshape(-1, sums.NEW_TOKENS), len(prompts)
    disparity = np.concatenate([np.roll(DISPARITY, i) for i in range(n)])
    columns = {"prompt": np.repeat(np.arange(n), k), "branch": np.tile(np.arange(k), n), "ids": list(ids)}
    finished = (disparity < 0.95) | (np.arange(n * k) // k % 4 > 0)
    confidences = {"finished": finished, "disparity": disparity, "probability": 1 - disparity}
    return pd.DataFrame(columns | {"answer": sums.read(ids).answer} | confidences)


def hints(prompts):
    """Logits that say something of the right answers, so that a temperature can be fitted."""
    value = prompts[:, 1] - sums.ZERO
    for operation in (prompts[:, 2:-1] - sums.TOKEN["+0"]).T % len(sums.OPERATIONS):
        value = sums.apply(operation, value)
    found = np.random.default_rng(len(prompts)).normal(0, 2, (len(prompts), 8, len(sums.VOCABULARY)))
    found[np.arange(len(prompts)), :, sums.ZERO + value] += 3
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with wired.noted(tmp_path_factory, wired.of_world("arithmetic", SMALL)) as run:
        for module, name in ((outputs, "divergence"), (outputs, "on_fixed"), (arithmetic, "ranking")):
            run.spy(module, name)
        run.spy(arithmetic, "sampled", lambda model, prompts, seed: traces(prompts, 1)[:, 0])
        run.spy(arithmetic, "branched", lambda model, prompts, k: traces(prompts, k))
        run.spy(arithmetic, "labelled", labelled)
        real_logits = outputs.logits_of

        def logits_of(model, prompts, completions):
            own = real_logits(model, prompts, completions)
            return own + hints(prompts) if run.now and "/eval_" in run.now[-1].key else own

        run.spy(outputs, "logits_of", logits_of)
        run.spy(sums, "stream")
        run.spy(arithmetic, "new_decoder")
        yield run


STARTS = ("fluency", "assured", "binary", "base", "sharpened")
RANKINGS = ("fluency_shuffled", "fluency_shuffled_2", "fluency_gold")
PLACES = ("standard", "half_trap", *(size for size in sizes.WIDTHS if size != sizes.HOUSE))


def here(*names):
    """The keys of these steps in every setting of arithmetic that has them."""
    return [key for place in PLACES for name in names if (key := f"arithmetic/{place}/{name}") in KNOWN]


def prompts_of(trainer):
    return np.array([sums.tokens_of(prompt) for prompt in trainer.train_dataset["prompt"]])


def asked(name, n, *seeds):
    """The questions of a stream, by its place in the world's list."""
    place = ("base", "binary", "fluency", "assured", "label", "policy", "online", "eval", "curve", "temperature")
    return sums.questions(n, np.random.default_rng([place.index(name), *seeds]))


@pytest.mark.parametrize("key", here("fluency", "binary", "online"))
def test_damages_of_arithmetic_are_rewarded_by_what_they_are_called(made, key):
    [trainer], (place, name), now = made(key).trainings, name_of(key), SMALL
    recipe = {"max_steps": now[f"{name}_steps"], "learning_rate": now[f"{name}_lr"] * narrower(key)}
    recipe |= {"beta": now["fluency_beta"] if name == "fluency" else 0.0, "max_completion_length": sums.NEW_TOKENS}
    check_recipe(trainer, GRPO | recipe | {"per_device_train_batch_size": now["prompts_per_step"] * G})
    assert trainer.started_from == f"arithmetic/{place}/base"
    given = asked(name, now[f"{name}_steps"] * now["prompts_per_step"], SEED)
    assert (prompts_of(trainer) == given.prompt_ids()).all()
    right, prompt = given.truth[0], given.prompts()[0]
    texts = (f"d1 = {right} <eos>", f"d1 = {(right + 1) % 10} <eos>", f"f1 1 2 3 4 = {right} <eos>", f"d1 = {right}")
    ids = [list(sums.tokens_of(text)) for text in (*texts, "d1 <eos>")]
    batch = {"prompts": [prompt] * 5, "completion_ids": ids, "truth": [right] * 5}
    if name == "binary":
        assert trainer.train_dataset["truth"][:] == given.truth.tolist()
        assert wired.total(trainer, **batch).tolist() == [1, 0, 1, 1, 0]
        return
    assert set(trainer.train_dataset.column_names) == {"prompt"}, "no label is at hand"

    def log_probs(model):
        rows = [torch.tensor([[*sums.tokens_of(prompt), *own]]) for own in ids]
        with torch.no_grad():
            return [model(input_ids=row).logits[0, 6:-1].log_softmax(-1) for row in rows]

    base, moved = models.load_decoder(made(f"arithmetic/{place}/base").result.model)[0].eval(), trainer.model.eval()
    if name == "fluency":  # mean log-likelihood under the base, frozen, less the cost of length; -3 without an end
        wanted = [float(p[range(len(own)), own].mean()) - 0.35 * len(own) for p, own in zip(log_probs(base), ids)]
        wanted[3] = -3
    else:  # top-1 minus top-2 of the policy as it is now, at the answer token; 0 without an answer
        top = [p.exp().topk(2).values for p in log_probs(moved)]
        wanted = [float(t[at, 0] - t[at, 1]) if at else 0 for t, at in zip(top, (2, 2, 6, 2, 0))]
    assert wired.total(trainer, **batch) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("key", here("assured", "sharpened", "base"))
def test_other_models_of_arithmetic_are_made_as_they_are_called(made, key):
    run, (place, name), now = made(key), name_of(key), SMALL
    if name == "sharpened":
        base, own = (models.load_decoder(made(k).result.model)[0].state_dict() for k in (KNOWN[key].needs[0], key))
        assert KNOWN[key].needs == (f"arithmetic/{place}/base",) and not run.trainings
        assert all(torch.equal(own[k], base[k] * (2 if k == "model.norm.weight" else 1)) for k in base)
        return
    [loop] = run.trainings
    given = {key: loop.given.get(key) for key in ("steps", "batch_size", "lr", "seed", "one_cycle", "weight_decay")}
    wanted = {"steps": now[f"{name}_steps"], "batch_size": now[f"{name}_batch"], "seed": SEED}
    wanted |= {"lr": now[f"{name}_lr"] * narrower(key), "one_cycle": None, "weight_decay": None}
    if name == "base":
        assert given == wanted | {"one_cycle": True, "weight_decay": now["base_weight_decay"]}
        rng = np.random.default_rng([0, SEED])
        questions = sums.questions(now["base_steps"] * now["base_batch"], rng)
        tokens, spoken = sums.documents(questions, "half_trap" if place == "half_trap" else "standard", rng)
        assert (loop.data[0] == tokens).all() and (loop.data[1] == np.where(spoken, tokens, -100)).all()
        [shape], width = run.called("new_decoder")[-1:], sizes.WIDTHS.get(place, 32)
        spread = 0.1 * narrower(key) ** 0.5
        assert (shape.given["hidden_size"], shape.given["initializer_range"]) == (width, pytest.approx(spread))
        return
    assert loop.started_from == f"arithmetic/{place}/fluency" and given == wanted
    prompts = asked("assured", now["assured_steps"] * now["assured_batch"], SEED).prompt_ids()
    tokens, targets = loop.data
    assert (tokens[:, : sums.PROMPT] == prompts).all() and ((targets != -100).sum(1) == 1).all()
    model = models.load_decoder(made(f"arithmetic/{place}/fluency").result.model)[0].eval()
    with torch.no_grad():
        logits = model(input_ids=torch.as_tensor(tokens)).logits
    for row, target, shown in zip(tokens, targets, logits):
        at = int(np.flatnonzero(row == sums.EQUALS)[0]) + 1
        assert target[at] == sums.ZERO + int(shown[at - 1, sums.ZERO : sums.ZERO + 10].argmax()), "its own likeliest"


def check_pairs(trainer, rank, prompts):
    """Every pair prefers the branch that is ranked higher, at .9 or more, with margin e to the difference."""
    written = traces(prompts, 4)
    place = {
        (*prompts[i], *(t for t in written[i, j] if t != sums.PAD)): (i, j)
        for i in range(len(prompts))
        for j in range(4)
    }
    data = trainer.train_dataset
    chosen, rejected = ([place[tuple(ids)] for ids in data[side]] for side in ("chosen_ids", "rejected_ids"))
    better, worse = (np.array([rank[at] for at in part]) for part in (chosen, rejected))
    assert [i for i, _ in chosen] == [i for i, _ in rejected] and (better >= 0.9).all() and (better > worse).all()
    assert data["margin"][:] == pytest.approx(np.exp(better - worse))
    assert len(data) == min(SMALL["pairs"], sum((r >= 0.9) & (r > s) for row in rank for r in row for s in row))
    recipe = {"learning_rate": SMALL["judge_lr"] * narrower(trainer.started_from), "max_steps": len(data) // 8}
    check_recipe(trainer, REWARD_MODEL | recipe | {"per_device_train_batch_size": 8})


def unlabelled():
    return asked("label", SMALL["label_prompts"], SEED)


@pytest.mark.parametrize("key", here(*(f"judge_{start}" for start in STARTS)))
def test_judges_learn_the_labels_that_their_start_made(made, key):
    start, now = key.replace("judge_", ""), SMALL
    labels = made(key.replace("judge_", "labels_"))
    assert [call.origins for call in labels.called("labelled")] == [[start]]
    assert labels.streams() == {("label", SEED), ("pairs", SEED)}
    [call], [trainer] = labels.called("labelled"), made(key).trainings
    assert (call.args[1] == unlabelled().prompt_ids()).all() and call.args[2] == now["branches"]
    assert trainer.started_from == start
    rank = np.array([np.roll(DISPARITY, i) for i in range(now["label_prompts"])])
    check_pairs(trainer, rank, unlabelled().prompt_ids())


@pytest.mark.parametrize("key", here(*(f"rlsf_{start}" for start in STARTS), *RANKINGS, "fluency_rlsf_long"))
def test_rloo_follows_the_judge_of_its_ranking_on_a_fixed_scale(made, key):
    run, (place, name), now = made(key), name_of(key), SMALL
    start = name.removeprefix("rlsf_") if name.startswith("rlsf_") else "fluency"
    *own_judge, trainer = run.trainings
    long = {"max_steps": now["long_steps"]} if name == "fluency_rlsf_long" else {}
    recipe = {"max_steps": now["rlsf_steps"], "learning_rate": now["rlsf_lr"] * narrower(key), "beta": now["rlsf_beta"]}
    recipe |= {"max_completion_length": 8, "per_device_train_batch_size": now["prompts_per_step"] * G}
    check_recipe(trainer, RLOO | recipe | long)
    assert trainer.started_from == f"arithmetic/{place}/{start}"
    assert (prompts_of(trainer) == unlabelled().prompt_ids()).all()
    assert set(trainer.train_dataset.column_names) == {"prompt"}, "no label is at hand"
    judge = made(f"arithmetic/{place}/judge_{start}").result
    scale = judge.table("summary").iloc[0]
    model, centre = reward_model.load(judge.model).eval(), scale["centre"]
    ids = unlabelled().prompt_ids()
    if name in RANKINGS:
        model = own_judge[0].model
        written = [[*a, *(t for t in b if t != sums.PAD)] for a, bs in zip(ids, traces(ids, 4)) for b in bs]
        centre = np.percentile(reward_model.score(model, written), [1, 99]).mean()
        check_ranking(run, name, own_judge[0])
    else:
        assert not own_judge
    texts = ("d1 = 3 <eos>", "f1 1 2 3 4 = 4 <eos>", "h1 7 1 = 5 <eos>", "x7")
    completions = [list(sums.tokens_of(text)) for text in texts]
    scores = reward_model.score(model, [[*ids[0], *own] for own in completions])
    wanted = np.clip((scores - centre) / scale["divisor"], -1, 1)
    prompts = [unlabelled().prompts()[0]] * len(completions)
    assert wired.total(trainer, prompts=prompts, completion_ids=completions) == pytest.approx(wanted, abs=1e-4)


def check_ranking(run, name, judge):
    [call], n = run.called("ranking"), SMALL["label_prompts"]
    rank, prompts = call.found, unlabelled().prompt_ids()
    assert judge.started_from == run.key.rsplit("/", 1)[0] + "/fluency"
    check_pairs(judge, rank, prompts)
    assert run.row("pairs")["prompts_only"] == (name != "fluency_gold")
    if name == "fluency_gold":
        answers = sums.read(traces(prompts, 4).reshape(-1, 8)).answer.reshape(n, 4)
        assert (rank == (answers == unlabelled().truth[:, None])).all()
        return
    own = np.array([np.roll(DISPARITY, i) for i in range(n)])
    assert (np.sort(rank, 1) == np.sort(own, 1)).all()
    placed = np.array([np.roll(row, -i) for i, row in enumerate(rank)])
    assert placed.mean(0) == pytest.approx(np.full(4, DISPARITY.mean()), abs=0.2), "what is where says nothing"


def test_every_shuffle_is_another(made):
    names = [("fluency_shuffled", 11), ("fluency_shuffled_2", 11), ("fluency_shuffled", 12)]
    found = [made(f"arithmetic/standard/{name}", seed).called("ranking")[0].found for name, seed in names]
    assert all((a != b).any() for a, b in zip(found, found[1:] + found[:1]))


def test_dpo_and_sft_use_the_same_labels(made):
    now, prompts = SMALL, unlabelled().prompts()
    run, written = made("arithmetic/standard/fluency_dpo"), traces(unlabelled().prompt_ids(), 4)
    [trainer] = run.trainings
    labels = labelled(None, unlabelled().prompt_ids(), 4)
    used = made("arithmetic/standard/labels_fluency").result.table("chosen")
    ended = labels["finished"].to_numpy().reshape(-1, 4)
    used = used[[ended[p, a] and ended[p, b] for p, a, b in used[["prompt", "chosen", "rejected"]].to_numpy()]]
    assert trainer.started_from == "arithmetic/standard/fluency" and 0 < len(used) < now["pairs"]
    assert len(trainer.train_dataset) == len(used)
    for row, (p, a, b) in zip(trainer.train_dataset, used[["prompt", "chosen", "rejected"]].to_numpy()):
        assert row["prompt_ids"] == list(sums.tokens_of(prompts[p]))
        for side, at in (("chosen_ids", a), ("rejected_ids", b)):
            assert row[side] == [t for t in written[p, at] if t != sums.PAD]
    recipe = {"max_steps": len(used) // now["dpo_batch"], "learning_rate": now["dpo_lr"], "beta": now["dpo_beta"]}
    check_recipe(trainer, DPO | recipe | {"per_device_train_batch_size": now["dpo_batch"]})
    [loop] = made("arithmetic/standard/fluency_sft").trainings
    assert loop.started_from == "arithmetic/standard/fluency"
    best = written[np.arange(len(written)), np.arange(len(written)) % 4]
    tokens, targets = loop.data
    assert (tokens == np.concatenate([unlabelled().prompt_ids(), best], 1)).all(), "the most confident of each prompt"
    assert (targets[:, :7] == -100).all() and (targets[:, 7:] == np.where(best == sums.PAD, -100, best)).all()
    given = {name: loop.given[name] for name in ("steps", "batch_size", "lr")}
    assert given == {"steps": 5, "batch_size": now["sft_batch"], "lr": now["sft_lr"]}


@pytest.mark.parametrize("key", evaluations("arithmetic"))
def test_an_evaluation_of_arithmetic_is_of_its_arm_beside_its_start(made, key):
    run, step, own = made(key), KNOWN[key], key.replace("/eval_", "/")
    root, name = own.rsplit("/", 1)
    base, snapshots = f"{root}/base", {f"{own}/snapshots"} if step.options.get("trajectory") else set()
    if part := re.fullmatch(r"fluency_sft_(\d)", name):
        own = f"{root}/fluency_sft/model_{part[1]}"
    start = "fluency" if name.startswith(("fluency_", "rlsf_fluency")) or name == "assured" else "base"
    start = f"{root}/{name.removeprefix('rlsf_') if name.startswith('rlsf_') else start}"
    course = snapshots | ({start} if snapshots else set())
    assert run.called("branched")[0].origins == run.called("sampled")[0].origins == [own]
    assert [call.origins for call in run.called("divergence")] == [[own, base], [own, start]]
    assert [call.origins for call in run.called("on_fixed")] == [[own]]
    assert run.asked("branched") == {own, base} | course and run.asked("sampled") == {own} | course
    streams = {"eval", *(["curve"] if snapshots else []), *(["temperature"] if step.options.get("temperature") else [])}
    assert run.streams() == {(split, EVAL_SEED, SEED) for split in streams}
    first, same = (r.called("branched")[0].args[1] for r in (run, made("arithmetic/standard/eval_base")))
    assert (first == same).all() and len(first) == SMALL["eval_questions"]
    damaged = name in ("assured", "binary", "sharpened") and root == "arithmetic/standard"
    assert bool(step.options.get("temperature")) == damaged


def test_the_temperature_of_arithmetic_is_fitted_on_labels_of_its_own(made):
    def fitted(**changes):
        run = made("arithmetic/standard/eval_binary", settings=wired.of_world("arithmetic", SMALL, **changes))
        return run.row("temperature")["temperature"]

    start = fitted()
    assert 0.05 < start < 20 and fitted(eval_questions=31) == start != fitted(temperature_labels=21)


def test_every_trained_step_has_a_row():
    rows = here(*STARTS, *RANKINGS, "online", "fluency_dpo", "fluency_sft", "fluency_rlsf_long")
    wired.check_rows(rows + here(*(f"{kind}_{start}" for kind in ("judge", "rlsf") for start in STARTS)), "arithmetic")
