"""Claim 6, declared before any run: a model's own answer-span confidence as feedback (RLSF).

Changes are in points (100 x a share) unless they are relative (percent of what was there before). The RL arm is called
RLSF-RLOO, since it is not the paper's PPO. What is read from several arms, and the notes, are in `estimates`.
"""

from __future__ import annotations

from functools import partial

from candor.claims.self_feedback import estimates as e
from candor.claims.self_feedback.estimates import assured, base, before, binary, fluency, moved, rlsf, sharpened
from candor.claims.self_feedback.tables import STARTS
from candor.declare.expressions import Measure, Rows, criterion
from candor.declare.ledger import NOT_ATTEMPTED, PARTLY, REPLICATED, Claim, Part, Verdicts, better, listed, named, worst

strengthened = moved["fluency"]
dpo = Rows("summary", label="DPO", setting="standard", arm="fluency_dpo")
fitted = Rows("temperature", setting="standard")
greedy, *branching = (
    Rows("decoding", label=method.replace("_", " "), setting="standard", arm="base", method=method)
    for method in ("greedy", "max_path", "aggregated", "majority")
)
warm, cold = (Rows("artefact", temperature=t) for t in (1.0, 0.7))
last = Measure(lambda tables: e.course(tables, e.LONG, 120).groupby("seed")["below"].last(), "below own peak", "points")
published, pretrained = (partial(criterion, evidence=evidence) for evidence in ("published", "models"))
untried, unmeasured = (partial(criterion, paper=f"not {what} there") for what in ("tried", "measured"))

# --- Criteria -------------------------------------------------------------------------------------

W0 = (
    e.damage(
        "W0a",
        "style damage (gate of W3-W5)",
        "fluency: sampled accuracy vs base; sampled share full",
        e.without_unit((fluency - base).sampled_accuracy).at_most(-3, 5),
        e.without_unit(fluency.share_full).at_least(3),
    ),
    e.damage(
        "W0b",
        "calibration damage (gate of W6b, W6d)",
        "binary: greedy ECE prob.",
        (binary / base).greedy_ece.named("greedy ECE, binary / base", "ratio").at_least(1.5, 5),
        (binary - base).greedy_ece.points.at_least(4, 5),
    ),
    e.damage(
        "W0c",
        "both (gate of W6a)",
        "assured: sampled accuracy, greedy and sampled ECE prob., share full",
        e.without_unit((assured - base).sampled_accuracy).at_most(-3, 5),
        e.without_unit((assured - base).greedy_ece).at_least(4, 5),
        e.without_unit((assured - base).sampled_ece).at_least(4, 5),
        e.without_unit(assured.share_full).at_least(3, 5),
    ),
    e.damage(
        "W0d",
        "positive control (gate of W6c)",
        "sharpened: sampled ECE prob.; fitted temperature",
        e.without_unit((sharpened - base).sampled_ece).at_least(1.5, 4),
        fitted.where(arm="sharpened").temperature.named("fitted temperature", "T").within(1.5, 2.5),
    ),
)
STYLE, CERTAINTY, BOTH, SHARP = (gate.checks[:1] for gate in W0)

CRITERIA = (
    published(
        "P1",
        "accuracy above greedy",
        "cells up; intervals above 0",
        *e.counts("accuracy above greedy", "accuracy above greedy, interval above 0"),
        paper="5 of 6 cells",
        note="intervals: two independent binomials on the public split; secondary cells",
    ),
    published(
        "P2",
        "ECE below the RLHF arm",
        "cells; intervals below 0",
        *e.counts("ECE below the RLHF arm", "ECE below the RLHF arm, interval below 0"),
        paper="4 of 4 math cells",
        note="two arms from one base are compared: no damaged model was repaired",
    ),
    published(
        "P3",
        "ECE below the base",
        "cells; intervals; Gemma math",
        *e.counts("ECE below the base", "ECE below the base, interval below 0", "ECE below the base, Gemma math"),
        paper="not counted there",
        note="the math table shows damage avoided rather than repaired",
    ),
    published(
        "P4",
        "direction of the error",
        "cells with accuracy + ECE > 100; Qwen CoT sums within .05 of 100",
        *e.counts("accuracy + ECE above 100", "Qwen CoT-decoding: accuracy + ECE within .05 of 100"),
        paper="not computed there",
        note="a sum above 100 needs underconfidence; near 100 ECE is 1 - accuracy in disguise",
    ),
    published(
        "P5",
        "amortised CoT-decoding",
        "accuracy intervals RLSF-PPO minus CoT that contain 0; ECE worse",
        *e.counts("accuracy interval to CoT-decoding contains 0", "ECE above CoT-decoding"),
        paper="not computed there",
        note="what it buys is a tenth of the cost of inference",
    ),
    published(
        "P6",
        "the artefact",
        "ten answers, T 1 -> .7: change of ECE, disparity and probability",
        (100 * ((cold / warm).ece_disparity - 1)).named("ECE by disparity", "percent").at_most(-30),
        (cold - warm).ece_probability.points.named("ECE by probability").at_least(5),
        paper="the released evaluation defaults to disparity",
        note="a drop of the one can be pure overconfidence in the other",
    ),
    *W0,
    unmeasured(
        "W1",
        "(i) confidence ranks traces of one prompt",
        "within-prompt AUROC, disparity, 600 prompts; base, fluency, assured, sharpened, binary",
        *(
            before[start].within_auroc.named(f"within-prompt AUROC, {start}", "AUROC").at_least(0.8, 5)
            for start in ("base", "fluency", "assured", "sharpened", "binary")
        ),
        note=e.labels_note,
    ),
    criterion(
        "W2",
        "branching finds better traces",
        "CoT-decoding max path minus greedy, base",
        (branching[0] - greedy).accuracy.points.at_least(10, 5),
        *((other - greedy).accuracy.points.reported for other in branching[1:]),
        paper="-1.7 to +4.9",
    ),
    criterion(
        "W3",
        "(ii) training on it raises accuracy",
        "fluency + RLSF-RLOO minus fluency, sampled; greedy beside it",
        strengthened.sampled_accuracy.points.at_least(3, 5),
        strengthened.greedy_accuracy.points.reported,
        paper="-1.4 to +6.7 (greedy, PPO)",
        gates=STYLE,
    ),
    criterion(
        "W4",
        "... because of the ranking",
        "same minus shuffled (mean of the seed's shuffles), sampled",
        (rlsf - e.shuffled).sampled_accuracy.points.at_least(2, 4),
        (rlsf - e.shuffled).greedy_accuracy.points.reported,
        paper="no such control there",
        gates=STYLE,
    ),
    unmeasured(
        "W5a",
        "more step-by-step",
        "sampled share full: minus fluency; minus shuffled",
        strengthened.share_full.points.at_least(10, 5),
        (rlsf - e.shuffled).share_full.points.at_least(0, 4),
        gates=STYLE,
    ),
    unmeasured(
        "W5b",
        "better steps",
        "step validity in sampled full traces, minus base",
        (rlsf - base).step_validity.points.at_least(1, 4),
        gates=STYLE,
    ),
    criterion(
        "W6a",
        "(iii) repair of a less accurate, too certain model",
        "ECE prob., greedy and sampled, RLSF-RLOO vs assured",
        *e.fallen("assured", 4, greedy_ece="greedy ECE", sampled_ece="sampled ECE"),
        paper="compared with an RLHF arm, no repair",
        note=partial(e.source_note, "assured"),
        gates=BOTH,
    ),
    untried(
        "W6b",
        "repair after binary reward",
        "greedy ECE prob. and gap",
        *e.fallen("binary", 4, greedy_ece="greedy ECE", greedy_gap="greedy gap"),
        note=partial(e.source_note, "binary"),
        gates=CERTAINTY,
    ),
    untried(
        "W6c",
        "repair of sharpened logits",
        "greedy and sampled ECE prob. (3 seeds)",
        *e.fallen("sharpened", 5, greedy_ece="greedy ECE", sampled_ece="sampled ECE"),
        note=lambda tables: f"{e.FEW}; {e.source_note('sharpened', tables)}",
        gates=SHARP,
    ),
    *(
        criterion(
            f"W6d {start}",
            f"probabilities themselves repaired, {start}",
            "fixed traces, ECE prob., RLSF minus start: fluency, assured, binary, each judged alone",
            moved[start].fixed_ece.points.at_most(-2, 4),
            paper="not separated there",
            gates=gates,
        )
        for start, gates in (("fluency", CERTAINTY), ("assured", CERTAINTY + BOTH), ("binary", CERTAINTY))
    ),
    criterion(
        "W6e",
        "undamaged base stays calibrated",
        "sampled ECE prob., base + RLSF-RLOO minus base (3 seeds)",
        moved["base"].sampled_ece.points.at_most(1),
        paper="-11.0 to +.4 (greedy, by disparity?)",
        note=e.FEW,
    ),
    *(
        untried(
            f"W6f {start}",
            f"reference: one temperature, {start}",
            "assured and binary, T from 200 labels at the answer token, greedy ECE after / before",
            (one.ece_after / one.ece_before).named("greedy ECE after / before", "ratio").at_most(0.5, 4),
            note="a reference for what 200 labels buy, not a label-free rival",
            gates=gates,
        )
        for start, one, gates in (
            ("assured", fitted.where(arm="assured"), BOTH),
            ("binary", fitted.where(arm="binary"), ()),
        )
    ),
    criterion(
        "W7",
        "the measure decides",
        "disparity: ECE(binary)/ECE(base); probability: same",
        (binary / base).greedy_ece_disparity.named("by disparity", "ratio").at_most(0.7, 5),
        (binary / base).greedy_ece.named("by probability", "ratio").at_least(1.5, 5),
        paper="which one was printed is not stated",
    ),
    criterion(
        "W8",
        "selection identity",
        "sign of gap change = sign of (1 - b) x confidence change, greedy",
        Measure(e.signs_agree, "share of starts whose sign agrees", "share").reported,
        *(
            measure.reported
            for start in before
            for measure in (moved[start].greedy_gap.points.named(f"gap, {start}"), e.predicted(start))
        ),
        paper="no theory there",
    ),
    criterion(
        "W9",
        "RL no worse than DPO in ECE",
        "greedy and sampled ECE prob., fluency start (3 seeds)",
        *((rlsf - dpo).column(f"{mode}_ece").points.at_most(0, 5) for mode in ("greedy", "sampled")),
        *((rlsf - dpo).column(f"{mode}_accuracy").points.reported for mode in ("greedy", "sampled")),
        paper="5 of 6 cells",
        note=e.FEW,
    ),
    untried(
        "W10",
        "label-free rival",
        "sampled accuracy of SFT checkpoint with KL nearest to RLSF's, minus RLSF",
        e.rival.reported,
        note=e.needed_note,
    ),
    criterion(
        "W11",
        "shuffled null",
        "abs of mean over seeds and shuffles, sampled accuracy minus start; spread",
        (e.shuffled - fluency).sampled_accuracy.points.within(2),
        Measure(e.spread, "standard deviation over runs", "points").reported,
        paper="no such control there",
    ),
    e.collapse(
        "W12",
        "(v) online confidence collapses",
        "confidence >= .97 and accuracy >= 10 below own peak within 160 steps",
    ),
    e.collapse(
        "W12-greedy",
        "the same with greedy answers (added after the result of W12; no part rests on it)",
        "as W12, greedy: the plan's pilot had counted greedy answers",
        "greedy_",
    ),
    criterion(
        "W13",
        "(v) one-round RLSF does not",
        "fluency + RLSF-RLOO at 120 steps vs own peak, sampled accuracy",
        last.at_most(3, 5),
        paper="not prolonged there",
        note=e.FEW,
    ),
    untried(
        "W14",
        "precondition",
        "half trap (1 seed): accuracy and gap change",
        *(
            e.trapped.column(f"{mode}_{measure}").points.reported
            for mode in ("greedy", "sampled")
            for measure in ("accuracy", "gap")
        ),
        note=e.trap_note,
    ),
    criterion(
        "W15",
        "(iv) no labels",
        "code path of labelling, reward model and RL receives prompts only (assert); constants fixed before any "
        "labelled evaluation",
        Measure(e.beyond_prompts, "labelling runs not shown to receive prompts only", "runs").equals(0),
        Rows("audit").how_many(lambda a: a["evaluations"] > 0, "steps that rest on an evaluation", "steps").equals(0),
        paper="by construction",
        note="RLSF steps of all starts; the start models themselves were made with labels",
    ),
    pretrained(
        "M1",
        "ranking on real models",
        "GSM8K and CommonsenseQA, >= 200 prompts with both right and wrong traces: within-prompt AUROC; max path minus "
        "greedy",
        *(
            check
            for dataset in e.SETS
            for check in (
                e.ranking(dataset, "within_auroc", "within-prompt AUROC").at_least(0.6),
                e.ranking(dataset, "within_auroc_low", "its lower bound").at_least(0.5),
                e.ranking(dataset, "max_path_gain", "max path minus greedy", "share").reported,
            )
        ),
        paper="not measured there",
    ),
    pretrained(
        "M2",
        "accuracy",
        "RLSF minus base greedy, 3 seeds, McNemar",
        *(
            check
            for dataset in e.SETS
            for check in (
                e.moved_on(dataset, "base", "accuracy").within(0, 6),
                e.moved_on(dataset, "base", "accuracy").named(f"not below -1, {dataset}").at_least(-1, 5),
                Rows("models_differences", dataset=dataset, arm="rlsf", other="base")
                .mcnemar_p.named(f"McNemar p, {dataset}", "p")
                .reported,
            )
        ),
        paper="+2.6, +5.0, +6.7",
        note=e.FEW,
    ),
    pretrained(
        "M3",
        "calibration",
        "ECE prob.: RLSF minus base; RLSF minus RLHF arm (public reward model, same KL)",
        *(
            e.moved_on(dataset, other, "ece").at_most(limit)
            for dataset in e.SETS
            for other, limit in (("base", 2), ("rlhf", -3))
        ),
        paper="(disparity?) -11 to +.4; -4.9 to -9.3",
        note=e.FEW,
    ),
    pretrained(
        "M4",
        "amortisation",
        "RLSF greedy minus CoT-decoding max path",
        *(e.moved_on(dataset, "cot", "accuracy").within(-3, 1) for dataset in e.SETS),
        paper="-1.0 to +2.2",
        note=e.FEW,
    ),
    pretrained(
        "M5",
        "DPO variant",
        "ECE and accuracy vs base",
        *(
            e.moved_on(dataset, "base", measure, "dpo").reported
            for dataset in e.SETS
            for measure in ("ece", "accuracy")
        ),
        paper="ECE up in 5 of 6 cells",
    ),
    pretrained(
        "M6",
        "measure",
        "does any verdict of M2-M5 flip with disparity or with zeros dropped?",
        Rows("models_flips").how_many(lambda f: f["flips"].astype(bool), "verdicts that flip", "verdicts").reported,
        paper="disparity, zeros dropped, by default",
        note=e.flips_note,
    ),
    pretrained(
        "M7",
        "paper scale",
        "differences to own base: accuracy +-2.5 (GSM8K, CommonsenseQA), +-5 (MultiArith Qwen), +-1 (ARC); ECE +-3",
        *(e.printed_check(*cell, metric) for cell in e.PRINTED_CELLS for metric in ("accuracy", "ece")),
        paper="the printed differences",
        note="which confidence entered the printed ECE is not stated",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

FIXED = tuple(f"W6d {start}" for start in STARTS)


def strengthens(verdict: Verdicts) -> tuple[str, str]:
    """W3 and W4; what to call it depends on W5a and W5b."""
    word = worst([verdict["W3"], verdict["W4"]])
    if word == NOT_ATTEMPTED:
        wording = "open"
    elif verdict["W5b"] == REPLICATED:
        wording = "better steps"
    elif verdict["W5a"] == REPLICATED:
        wording = "more stepwise traces"
    else:
        wording = "neither more stepwise traces nor better steps shown"
    return word, f"{wording}; {listed(verdict, 'W3', 'W4', 'W5a', 'W5b')}"


def probabilities_note(verdict: Verdicts) -> str:
    """Whether the probabilities on fixed traces were repaired (W6d)."""
    if all(verdict[c] == NOT_ATTEMPTED for c in FIXED):
        return "whether the probabilities changed was not tested (W6d)"
    if repaired := named(verdict, REPLICATED, *FIXED):
        return f"the probabilities themselves were repaired from {repaired.replace('W6d ', '')} (W6d)"
    return "no repair of the probabilities is shown (W6d), so that a fall of ECE came from accuracy or selection"


def reverses(verdict: Verdicts) -> tuple[str, str]:
    """Replicated if W6a and W6b hold, partly if one of them does, else the better of the two.

    So what was not attempted holds no more than what failed, and an interval that spans the limit leaves the part
    inconclusive where the other does not hold.
    """
    words = verdict["W6a"], verdict["W6b"]
    word = PARTLY if better(*words) == REPLICATED != worst(list(words)) else better(*words)
    beside = listed(verdict, "W6c", *FIXED, "W6e", "W6f assured", "W6f binary", "W7")
    return word, f"{listed(verdict, 'W6a', 'W6b')}; {probabilities_note(verdict)}; beside: {beside}"


def collapses_not(verdict: Verdicts) -> tuple[str, str]:
    return worst([verdict["W12"], verdict["W13"]]), f"three seeds; {listed(verdict, 'W12', 'W13')}"


def overall(verdict: Verdicts) -> tuple[str, str]:
    """Replicated if (i)-(iii) are, partly if (i) and (ii) hold and (iii) does not; otherwise by parts: the worst."""
    strong, wording = strengthens(verdict)
    repair, why = reverses(verdict)
    parts = {"(i)": verdict["W1"], "(ii)": strong, "(iii)": repair}
    head = f"(i) {verdict['W1']}, (ii) {strong} ({wording.split(';')[0]}), (iii) {repair}: {why}"
    if missing := named(parts, NOT_ATTEMPTED, *parts):
        return NOT_ATTEMPTED, f"still missing: {missing}; {head}"
    if verdict["W1"] == strong == REPLICATED:
        return (REPLICATED if repair == REPLICATED else PARTLY), head
    return worst(list(parts.values())), f"by parts: {head}"


PARTS = (
    Part("(i)", "world", "answer-span confidence ranks traces of one prompt by correctness", ("W1",)),
    Part("(ii)", "world", "training on the ranking strengthens step-by-step reasoning", ("W3", "W4"), strengthens),
    Part("(iii)", "world", "it reverses calibration damage", ("W6a", "W6b"), reverses),
    Part("(iv)", "world", "no human labels enter", ("W15",)),
    Part("(v)", "world", "it does not collapse as online confidence rewards do", ("W12", "W13"), collapses_not),
)

CLAIM = Claim(
    name="self_feedback",
    number=6,
    title="The model's own confidence as feedback",
    statement=(
        "A model's own answer-span confidence ranks reasoning traces into synthetic preferences, strengthens "
        "step-by-step reasoning and reverses RLHF's calibration damage without human labels (RLSF)."
    ),
    paper="niekerk2025rlsf",
    citation=(
        "van Niekerk, Vukovic, Ruppik, Lin, Gasic: Post-Training Large Language Models via Reinforcement Learning from "
        "Self-Feedback. arXiv 2507.21931, 2025"
    ),
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        *("counts", "artefact", "differences", "audit"),
        *("summary", "decoding", "temperature", "pairs", "trajectory"),
        *("models_ranking", "models_summary", "models_differences", "models_flips", "models_cells"),
    ),
)
