"""Readers of model outputs take time in proportion to the text: hostile texts, each within some processor seconds."""

import subprocess
import sys

TEXTS = {  # what is repeated, and what stands around it
    "last_tag": ("{}", ["<answer>", "<answer>a</answer>", "<answer>a"]),
    "parse": ("</think> <answer> a {}", ["</think> <answer>", "<answer> ", " ", "word < ", "</think>"]),
    "parse_confidence": (
        "</think><answer>a</answer><analysis>b</analysis><confidence>{}x</confidence>",
        ["1", "1.", "."],
    ),
    "grade": ("<answer>{}x</answer>", ["a", "a ", "1", "1+", "(", "\\frac{", "x^"]),
    "choice": ("{}x", ["A", "(A) ", "A or ", "option A ", "a river ", "<answer>", "\\boxed{", "Answer: A or "]),
    "options_of": ("{}", ["A) x\n", " ", "\n", "(A", "A)\n"]),
    "given": (
        "Answer: {}x",
        [
            *("<think>", "<answer>", "\\boxed{", "\\boxed{8}", "{", "}", "The answer is ", "answer: A or ", "answer\n"),
            *(
                "####",
                " ",
                "\n",
                "1",
                "1,",
                "1 ",
                "1/",
                "1,000",
                "1.000",
                "\\frac{1}",
                "-",
                "$",
                "one ",
                "one-",
                "minus ",
            ),
            *("A", "A ", "(A) ", "is ", "aa", "a.", ".", "*", "\\text{", "(", "= 1", "because ", "B is ", "A \t\n"),
        ],
    ),
    "stories": ("ANSWER: A{}x", [" ", "\n", "*", "ANSWER: A ", "ANSWER:", "\\boxed{"]),
    "quotes": ("{}", ["<quote>", "<quote>a</quote>", "<v_quote>", "<"]),
    "user_turn": ("a\n{}x", ["\n", " ", "#", "# \n", "\n#", "\nuser ", "\n# "]),
    "asks": ("{}x", ["`", "```", "http://", "?", "www. "]),
    "first_sentence": ("{}x", [".", "!?", " ", ".x"]),
    "by_rule": ("{}x", ["ok ", "ok.", ",", "'"]),
    "stated": ("Answer: a{}x", [" ", "b ", "\n", "\nConfidence:", "\nConfidence: 1"]),
    "one_line": ("{}x", ["<", "<a", "</", "\n", "<a>"]),
}

READ = f"""
import resource, sys
from candor.claims.grounding_loss import dialogues
from candor.claims.sophistry import stories
from candor.language_models import text
from candor.claims.annotation_noise import annotation_models
from candor.language_models import run as language_models
from candor.claims.grounding_loss import labeller
from candor.measure import spans

readers = {{
    "last_tag": lambda t: text.last_tag(t, "answer"),
    "parse": lambda t: [text.parse(t, form) for form in ("document", "answer")],
    "parse_confidence": text.parse,
    "grade": lambda t: text.grade_leniently([t] * 2, [["8"]] * 2, ["exact", "math"]),
    "choice": lambda t: text.option(t, {{"A": "bank", "B": "river"}}),
    "options_of": text.options_of,
    "given": lambda t: [f(t, kind) for f in (spans.given, spans.stated) for kind in ("number", "choice")],
    "stories": stories.answer,
    "quotes": lambda t: [stories.quotes(t, "a story"), stories.plain(t)],
    "user_turn": dialogues.until_own_user_turn,
    "asks": dialogues.asks,
    "first_sentence": labeller.first_sentence,
    "by_rule": labeller.by_rule,
    "stated": annotation_models.parse,
    "one_line": language_models._one_line,
}}
for name, (shape, parts) in {TEXTS!r}.items():
    for part in parts:
        print(name, repr(part), flush=True)
        used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used + 4, resource.RLIM_INFINITY))
        readers[name](shape.format(part * (80_000 // len(part))))
print("all read")
"""


def test_reading_takes_time_in_proportion_to_the_text():
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["all read"], (done.stdout[-200:], done.stderr[-500:], done.returncode)
