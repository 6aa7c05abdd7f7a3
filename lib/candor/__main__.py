"""The command line: `python -m candor COMMAND --help`. The graph's jobs call it, and so do the targets of `make`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from candor import claims
from candor.core.errors import CandorError, disk

if TYPE_CHECKING:
    from candor.run.plan import Plan

# Names are known without importing what they stand for: help and a wrong name take no second.
SCALES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "config").glob("*.yaml"))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> None:
        self.exit(2, f"candor: {message[:1].upper()}{message[1:]}. `python -m candor --help` shows the commands.\n")


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a seed is a whole number, such as 11, not {text!r}") from None


def _number(what: str, least: int = 1) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"a number of {what} is a whole number from {least}, not {text!r}")
        return int(text)

    return read


def parser() -> argparse.ArgumentParser:
    """All commands; each knows the function that it calls."""
    scales, names = ", ".join(SCALES), ", ".join(claims.NAMES)
    studies = ", ".join(claims.STUDIES)
    top = _Parser(
        prog="candor",
        description="Published claims about RLHF and overconfidence, replicated.",
        epilog=f"Scales: {scales}. Claims: {names}. Studies, at scales of their own: {studies}.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    shared: dict[str, dict] = {
        "scale": {"default": "laptop", "help": f"one of {scales} (default: laptop)"},
        "claim": {"help": f"one of {names}, {studies} (default: all)"},
        "cores": {"type": _number("cores"), "help": "processes at once (default: all cores)"},
    }

    def command(function, text: str, *options: str) -> argparse.ArgumentParser:
        made = commands.add_parser(function.__name__.strip("_"), help=text, description=text)
        made.set_defaults(function=function)
        for option in options:
            made.add_argument(f"--{option}", **shared[option])
        return made

    command(_list, "Show scales, claims and steps", "scale", "claim")
    made = command(replicate, "Compute, judge and draw everything", "scale", "claim", "cores")
    made.add_argument("--gpus", type=_number("GPUs"), default=1, help="GPUs that jobs share")
    made.add_argument("--gpus-per-job", type=_number("GPUs"), default=1, help="GPUs of a training that can use several")
    made = command(steps, "Make some steps of one seed; those that are done are skipped", "scale")
    made.add_argument("--seed", type=_seed, required=True)
    made.add_argument("--marker", type=Path, help="written when all are done")
    made.add_argument("--log", default="", help="where the output goes, to be named if a step fails")
    made.add_argument("--gpus", type=_number("GPUs", 0), help="GPUs it may see (default: 1 for a pretrained model)")
    made.add_argument("keys", nargs="+", metavar="KEY", help="world/setting/name")
    command(tables, "Make the tables of a claim from its steps", "scale", "claim")
    command(ledger, "Hold the criteria against the tables", "scale")
    made = command(figures, "Draw figures from the tables of the scale, or from data/reference", "scale", "claim")
    made.add_argument("--figure", help="one figure of the claim")
    command(notebooks, "Execute the notebooks again, in place, from data/reference with live cells off", "cores")
    command(lab, "Open copies of the notebooks, in work/, in JupyterLab; further options are JupyterLab's")
    command(report, "Write Snakemake's report of what has been computed", "scale", "claim")
    made = command(cost, "Say what a scale needs: runs, tokens, GPU-hours, gigabytes; runs nothing", "scale", "claim")
    made.add_argument("--hardware", default="h100", help="a card of data/cost/rates.csv, such as a100 (default: h100)")
    made.add_argument("--shared-prompts", action="store_true", help="a prompt is computed once a group of completions")
    made.add_argument("--csv", type=Path, metavar="FILE", help="the table as CSV too")
    made.add_argument("--page", action="store_true", help="write COST.md instead")
    command(verify, "Compare your results with data/reference", "scale")
    command(declare, "Lock the criteria that are new, before their run; refuses if one that is locked was changed")
    command(repair, "Replicate, after removing what is truncated, edited or odd", "scale", "claim", "cores")
    made = command(seal, "Write the checksums of files into the JSON beside them; the graph's jobs do so")
    made.add_argument("manifest", type=Path, metavar="JSON")
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")
    made = command(fetch, "Put data sets and weights of the models path onto this machine", "scale")
    made.add_argument("names", nargs="+", metavar="NAME", help="data sets, or models, outputs, all")
    made = command(sheet, "Write turns to be labelled by hand, for the labeller of dialogues", "scale")
    made.add_argument("file", type=Path, metavar="FILE", help="a CSV to be written")
    made = command(reference, "Make the finished run the project's reference: data/reference and figures", "scale")
    made.add_argument("--unfinished", action="store_true", help="even if steps are missing; the provenance names them")
    return top


def _plan(arguments: argparse.Namespace) -> Plan:
    from candor.run.plan import plan

    return plan(arguments.scale, getattr(arguments, "claim", None))


def _list(arguments: argparse.Namespace) -> None:
    plan = _plan(arguments)
    print("Scales:", ", ".join(SCALES))
    print("Claims:")
    for name in plan.claims:
        print(f"  {name}: {claims.load(name).claim.title}")
    print(f"Steps at scale {plan.scale}, in the order in which they run:")
    seeds: dict[str, list[str]] = {}
    for key, seed in plan.runs():
        seeds.setdefault(key, []).append(str(seed))
    for key, those in seeds.items():
        print(f"  {key}  (seeds {', '.join(those)})")


def replicate(arguments: argparse.Namespace) -> None:
    print(f"Candor reads what is there at scale {arguments.scale} ...", flush=True)
    from candor.run.replicate import replicate

    gpus = (arguments.gpus, arguments.gpus_per_job)
    replicate(_plan(arguments), arguments.cores, arguments.claim, gpus=gpus)


def steps(arguments: argparse.Namespace) -> None:
    from candor.run import jobs
    from candor.run import plan as graph

    plan = graph.plan(arguments.scale)
    graph.check_seed(plan, arguments.seed, arguments.keys)
    jobs.batch(plan, arguments.seed, arguments.keys, arguments.marker, arguments.log, arguments.gpus)


def tables(arguments: argparse.Namespace) -> None:
    from candor.run import jobs

    plan = _plan(arguments)
    for claim in plan.claims:
        jobs.tables(plan, claim)
        print(plan.folder / "tables" / claim)


def ledger(arguments: argparse.Namespace) -> None:
    from candor.run import evidence, jobs
    from candor.run.progress import show_ledger

    plan = _plan(arguments)
    jobs.judge(plan)
    show_ledger(evidence.load_ledgers(plan.folder))


def figures(arguments: argparse.Namespace) -> None:
    from candor.run import jobs
    from candor.run import plan as graph

    plan = graph.plan(arguments.scale, arguments.claim)
    for claim in plan.claims:
        if not (plan.folder / "tables" / claim / "provenance.json").exists():
            print(f"No results of {claim} at scale {plan.scale}: drawn from {graph.reference([claim])}.", flush=True)
        for path in jobs.figures(plan, claim, arguments.figure):
            print(path, flush=True)


def notebooks(arguments: argparse.Namespace) -> None:
    from candor.run.publish import execute_notebooks

    execute_notebooks(arguments.cores)


def lab(arguments: argparse.Namespace) -> None:
    from candor.run.publish import lab

    lab(arguments.flags)


def report(arguments: argparse.Namespace) -> None:
    from candor.run.replicate import report

    print(report(_plan(arguments), arguments.claim))


def cost(arguments: argparse.Namespace) -> None:
    from candor.run import cost

    if arguments.page:
        print(cost.write_page())
        return
    card = cost.rate(arguments.hardware)
    cost.show(_plan(arguments), card, arguments.shared_prompts, arguments.csv)


def verify(arguments: argparse.Namespace) -> None:
    from candor.run.publish import verify

    print(verify(_plan(arguments)))


def declare(arguments: argparse.Namespace) -> None:
    from candor.declare.lock import declare, declared

    print(*(declare(declared()) or ["Every criterion is declared already."]), sep="\n")


def repair(arguments: argparse.Namespace) -> None:
    from candor.run.replicate import replicate

    replicate(_plan(arguments), arguments.cores, arguments.claim, mend=True)


def seal(arguments: argparse.Namespace) -> None:
    from candor.core import store
    from candor.core.errors import MissingError

    about = {}
    with suppress(MissingError):
        about = store.read_json(arguments.manifest)
    store.seal(arguments.manifest, about, arguments.files)


def fetch(arguments: argparse.Namespace) -> None:
    from candor.core import settings as config
    from candor.run.fetch import fetch

    fetch(arguments.names, config.load(arguments.scale), print)


def sheet(arguments: argparse.Namespace) -> None:
    from candor.claims.grounding_loss import dialogue_models
    from candor.core import settings as config
    from candor.run.steps import Results

    if arguments.file.exists():
        raise CandorError(f"{arguments.file} is there already and may hold labels: name another file.")
    found = dialogue_models.sheet(Results(config.load(arguments.scale)))
    try:
        found.to_csv(arguments.file, index=False)
    except OSError as error:
        raise CandorError(f"{arguments.file} cannot be written ({error.strerror or error}): name another.") from None


def reference(arguments: argparse.Namespace) -> None:
    from candor.run.publish import promote

    for path in promote(_plan(arguments), arguments.unfinished):
        print(path)


def _check(arguments: argparse.Namespace) -> None:
    """What can be told at once, before what takes seconds is imported."""
    from candor.core import settings as config

    if "scale" in arguments:
        config.check_scale(arguments.scale)
    if "claim" in arguments and arguments.claim is not None:
        claims.check(arguments.claim)
    if "cores" in arguments and arguments.cores is None:
        from candor.run.preflight import machine_cores

        arguments.cores = machine_cores()


def _once(show: Callable) -> Callable:
    """Shows each warning once: Python's own filter forgets what was shown whenever a library changes the filters."""
    shown = set()

    def first(message, category, *where) -> None:
        if (text := (category, str(message))) not in shown:
            shown.add(text)
            show(message, category, *where)

    return first


def _stop(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def main(words: list[str] | None = None) -> int:
    """Exit code 0, 2 after one sentence on what is wrong, or 128 and the number of the signal that asked to stop."""
    arguments, arguments.flags = parser().parse_known_args(words)
    if arguments.flags and arguments.command != "lab":
        parser().error(f"unrecognized arguments: {' '.join(arguments.flags)}")
    for number in (signal.SIGTERM, signal.SIGHUP) if words is None else ():
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _stop)
    try:
        _check(arguments)
        with disk("A file"), warnings.catch_warnings():
            warnings.showwarning = _once(warnings.showwarning)
            arguments.function(arguments)
    except CandorError as error:
        print(f"candor: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        with suppress(OSError):  # a terminal that was closed
            print("candor: Stopped; what is finished is kept, and the same command goes on there.", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
