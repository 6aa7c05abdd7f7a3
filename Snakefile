"""The whole replication as one graph: steps, tables, ledger, figures, notebooks, report.

    snakemake                                                 everything at laptop scale
    snakemake --config scale=smoke claim=binary_reward        one claim, mechanics only

What there is to do is said in `lib/candor/run/plan.py`; this file says how it hangs together. Fingerprints go through
`params`, because Snakemake does not see an edit in an imported module; inputs that only order jobs are `ancient`.
Every placeholder of a shell command is quoted (`:q`): a results folder may have any name, and a name is no command.
"""

from pathlib import Path

from candor.claims import load
from candor.core.errors import spoken
from candor.core.settings import options
from candor.run import plan as graph
from candor.run import preflight, progress
from candor.run.replicate import hold

with spoken():  # Snakemake would show a stack trace
    RUN = options(config)
    PLAN = graph.plan(RUN.scale, RUN.claim)
    OUT = graph.plain(PLAN.folder, Path.cwd())
BATCHES = PLAN.batches(RUN.batch)
SCALE = PLAN.scale
ENVIRONMENT = str(Path(workflow.basedir, "environment.yml")).replace("{", "{{").replace("}", "}}")
NOTEBOOKS = [path.stem for path in graph.notebooks(PLAN.claims)] if PLAN.shown else []
FIGURES = {c: {f: graph.figure_digest(c, f) for f in load(c).figures.FIGURES} for c in PLAN.claims}


def marker(name, seed):
    return f"{OUT}/batches/{seed}/{name}.json"


def batch_of(wildcards):
    return BATCHES[wildcards.batch, int(wildcards.seed)]


def markers_for(claim):
    keys = set(PLAN.keys(claim))
    return [marker(*where) for where, batch in BATCHES.items() if keys & set(batch.keys)]


wildcard_constraints:
    batch="[a-z0-9_]+",
    seed="[0-9]+",
    claim="[a-z0-9_]+",
    notebook="[a-z0-9_]+",


report: "lib/candor/report/workflow.rst"


# On a cluster only the steps are jobs of their own; what takes seconds stays where the graph was started.
localrules:
    all,
    evidence,
    tables,
    ledger,
    figures,
    notebook,
    report,


onstart:
    with spoken():
        # Held until Snakemake ends, however it ends.
        LOCK = hold(PLAN.folder)
        # `replicate` holds the lock and has asked; preflight=false is for weights that only a cluster's nodes see.
        if LOCK and RUN.preflight:
            sent = [job.resources for job in workflow.dag.needrun_jobs() if not job.is_local]
            asked = {(str(r.get("slurm_account", "")), str(r.get("slurm_partition", ""))) for r in sent}
            preflight.check(PLAN, workflow.resource_settings.cores or 1, workflow.executor_plugin.name, asked)


rule all:
    """Everything that this scale can show."""
    input:
        f"{OUT}/report.html",


rule evidence:
    """Everything but the report."""
    input:
        [ancient(marker(*where)) for where in BATCHES],
        f"{OUT}/ledger.csv",
        [f"{OUT}/figures/{claim}" for claim in PLAN.claims if PLAN.shown],
        [f"{OUT}/notebooks/{notebook}.html" for notebook in NOTEBOOKS],


rule steps:
    """Train, collect or evaluate a batch of one seed's steps; those that are done are skipped."""
    input:
        lambda wildcards: [marker(need, wildcards.seed) for need in batch_of(wildcards).needs],
    output:
        f"{OUT}/batches/{{seed}}/{{batch}}.json",
    log:
        f"{OUT}/logs/steps/{{seed}}/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/steps/{{seed}}/{{batch}}.tsv"
    conda:
        ENVIRONMENT
    params:
        wanted=lambda wildcards: list(batch_of(wildcards).keys),
        fingerprints=lambda wildcards: PLAN.fingerprints(batch_of(wildcards).keys, int(wildcards.seed)),
        scale=SCALE,
    threads: 1
    priority: lambda wildcards: 1000 - batch_of(wildcards).rank
    resources:
        gpu=lambda wildcards: PLAN.gpus(batch_of(wildcards), RUN.gpus_per_job, RUN.worlds_on_gpu),
        # A retry (profiles/slurm, profiles/kubernetes) gets as much again: memory is what a killed job lacked.
        mem_mb=lambda wildcards, attempt: attempt * (64000 if batch_of(wildcards).gpu else 2000),
        runtime=lambda wildcards: 1440 if batch_of(wildcards).gpu else 120,
    shell:
        "python -m candor steps --scale {params.scale:q} --seed {wildcards.seed:q} --marker {output:q} --log {log:q} "
        "--gpus {resources.gpu:q} {params.wanted:q} > {log:q} 2>&1"


rule tables:
    """The small tables of a claim, from the published numbers, from theory and from its steps."""
    input:
        lambda wildcards: markers_for(wildcards.claim),
    output:
        f"{OUT}/tables/{{claim}}/provenance.json",
    log:
        f"{OUT}/logs/tables/{{claim}}.log",
    benchmark:
        f"{OUT}/benchmarks/tables/{{claim}}.tsv"
    conda:
        ENVIRONMENT
    params:
        digest=lambda wildcards: PLAN.tables_digest(wildcards.claim),
        scale=SCALE,
    threads: 1
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=30,
    shell:
        "python -m candor tables --scale {params.scale:q} --claim {wildcards.claim:q} > {log:q} 2>&1"


rule ledger:
    """Criteria held against the tables: values, intervals, verdicts."""
    input:
        [f"{OUT}/tables/{claim}/provenance.json" for claim in PLAN.claims],
    output:
        report(
            f"{OUT}/ledger.csv", category="Ledger", caption="lib/candor/report/ledger.rst", labels={"table": "criteria"}
        ),
        report(
            f"{OUT}/checks.csv", category="Ledger", caption="lib/candor/report/ledger.rst", labels={"table": "bands"}
        ),
        report(
            f"{OUT}/verdicts.csv",
            category="Ledger",
            caption="lib/candor/report/ledger.rst",
            labels={"table": "verdicts"},
        ),
        f"{OUT}/provenance.json",
    log:
        f"{OUT}/logs/ledger.log",
    benchmark:
        f"{OUT}/benchmarks/ledger.tsv"
    conda:
        ENVIRONMENT
    params:
        digests={claim: graph.criteria_digest(claim) for claim in PLAN.claims},
        scale=SCALE,
    threads: 1
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=10,
    shell:
        "python -m candor ledger --scale {params.scale:q} > {log:q} 2>&1"


rule figures:
    """The figures of a claim, from its tables, in one job: to import costs more than to draw."""
    input:
        f"{OUT}/tables/{{claim}}/provenance.json",
    output:
        report(
            directory(f"{OUT}/figures/{{claim}}"),
            patterns=["{figure}.svg"],
            category="Figures",
            subcategory=lambda wildcards: load(wildcards.claim).claim.title,
            caption="lib/candor/report/figure.rst",
            labels=lambda wildcards: {
                "figure": load(wildcards.claim).figures.FIGURES[wildcards.figure].caption.split(". ")[0]
            },
        ),
    log:
        f"{OUT}/logs/figures/{{claim}}.log",
    benchmark:
        f"{OUT}/benchmarks/figures/{{claim}}.tsv"
    conda:
        ENVIRONMENT
    params:
        digests=lambda wildcards: FIGURES[wildcards.claim],
        captions=lambda wildcards: {name: plot.caption for name, plot in load(wildcards.claim).figures.FIGURES.items()},
        scale=SCALE,
    threads: 1
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=10,
    shell:
        "python -m candor figures --scale {params.scale:q} --claim {wildcards.claim:q} > {log:q} 2>&1"


rule notebook:
    """A notebook, executed on the evidence of this scale, and as a page for the report."""
    input:
        f"{OUT}/ledger.csv",
        source=ancient("notebooks/{notebook}.ipynb"),
    output:
        executed=f"{OUT}/notebooks/{{notebook}}.ipynb",
        page=report(
            f"{OUT}/notebooks/{{notebook}}.html",
            category="Notebooks",
            caption="lib/candor/report/notebook.rst",
            labels={"notebook": "{notebook}"},
        ),
        sums=f"{OUT}/notebooks/{{notebook}}.json",
    log:
        f"{OUT}/logs/notebooks/{{notebook}}.log",
    benchmark:
        f"{OUT}/benchmarks/notebooks/{{notebook}}.tsv"
    conda:
        ENVIRONMENT
    params:
        digest=lambda wildcards, input: [graph.notebook_digest(Path(input.source)), FIGURES],
        given=lambda wildcards, input: [
            word
            for name, value in graph.notebook_parameters(
                Path(input.source), scale=SCALE, source="auto", live=SCALE != "smoke"
            ).items()
            for word in ("-p", name, value)
        ],
    threads: 1
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=30,
    shell:
        "papermill {input.source:q} {output.executed:q} {params.given:q} --cwd notebooks --no-progress-bar > {log:q} 2>&1 && "
        "jupyter nbconvert --to html --log-level ERROR {output.executed:q} >> {log:q} 2>&1 && "
        "python -m candor seal {output.sums:q} {output.executed:q} {output.page:q} >> {log:q} 2>&1"


rule report:
    """Snakemake's own report of all this: figures with captions, ledger, notebooks, and how they were made."""
    input:
        rules.evidence.input,
    output:
        page=f"{OUT}/report.html",
        sums=f"{OUT}/report.json",
    log:
        f"{OUT}/logs/report.log",
    benchmark:
        f"{OUT}/benchmarks/report.tsv"
    conda:
        ENVIRONMENT
    params:
        config=[f"{key}={value}" for key, value in config.items()],
    threads: 1
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    shell:
        "snakemake evidence --report {output.page:q} --nolock --config {params.config:q} > {log:q} 2>&1 && "
        "python -m candor seal {output.sums:q} {output.page:q} >> {log:q} 2>&1"
