"""The dial: defaults, the sentence of every error, and the scales that are shipped; what a run is told; folders."""

import copy
import json
import os
import pickle
import shutil

import jsonschema
import pytest
from candor.core import settings as config
from candor.core.step import results_root
from candor.language_models import sets
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def root(tmp_path):
    shutil.copytree(config.ROOT / "config", tmp_path / "config")
    return tmp_path


def refused(parts, scale, root=None, overrides=None, call=config.load):
    """One sentence, which has all the parts."""
    with pytest.raises(config.ConfigError) as caught:
        call(scale, root, *([overrides] if overrides else []))
    message = str(caught.value)
    assert "\n" not in message and message[-1] in ".?" and len(message) < 500
    for part in [parts] if isinstance(parts, str) else parts:
        assert part in message


def test_shipped_scales_load():
    assert {"smoke", "laptop", "gpu", "paper"} <= set(config.scales())
    for scale in config.scales():
        assert config.load(scale).scale == scale


SCHEMA = json.loads((config.ROOT / "config" / "schema.json").read_text())


def test_a_scale_never_speaks_of_the_machine():
    words = ("cores", "mem", "threads", "partition", "gpus", "device", "runtime")
    keys = json.dumps(SCHEMA["properties"]).lower()
    assert not [word for word in words if f'"{word}' in keys]


def test_schema_is_the_documentation():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def groups(node, path):
        if "properties" in node:
            assert node["additionalProperties"] is False, path
            for key, part in node["properties"].items():
                assert part["description"].endswith("."), f"{path}.{key}"
                assert "default" in part, f"{path}.{key}"
                groups(part, f"{path}.{key}")

    for name, node in {"config": SCHEMA, **SCHEMA["$defs"]}.items():
        groups(node, name)


def leaves(node, path=()):
    """Every key of the schema that is no group, with its path."""
    for key, part in node.get("properties", {}).items():
        yield from leaves(part, (*path, key)) if "properties" in part else [((*path, key), part)]


LEAVES = list(leaves(SCHEMA))


def test_every_number_has_limits_and_every_list_names_a_thing_once():
    for path, part in [*LEAVES, *(leaf for node in SCHEMA["$defs"].values() for leaf in leaves(node))]:
        kinds = part.get("type", [])
        if "array" in kinds:
            assert part["uniqueItems"], path
            if path[0] == "sizes" or path[-1].endswith("seeds"):
                assert part["items"]["minimum"] == 5, f"{path}: 0 to 4 are for tuning"
            part, kinds = part["items"], part["items"]["type"]
        if "enum" not in part and ("integer" in kinds or "number" in kinds):
            assert {"minimum", "exclusiveMinimum"} & set(part), path
            assert "maximum" in part or "integer" not in kinds, path


def test_defaults_are_laptop_and_satisfy_the_schema():
    laptop = config.load("laptop")
    jsonschema.validate(laptop.to_dict(), SCHEMA)
    assert laptop.seeds == (11, 12, 13, 14, 15)
    assert set(laptop.few_seeds) < set(laptop.seeds)
    assert config.load("smoke").few_seeds == config.load("smoke").seeds
    assert laptop.evidence == ("published", "world")
    assert laptop.world.witnesses.eval_seed == laptop["world"]["witnesses"]["eval_seed"] == 7001
    sizes = laptop.world.witnesses
    for steps, prompts in (("grpo_steps", "train_prompts"), ("grpo_steps_give_up", "train_prompts_give_up")):
        one_pass = sizes[steps] * sizes.prompts_per_step
        assert sizes[prompts] >= one_pass, "more than one pass lets the policy memorise the outcomes"


def test_paper_settings():
    paper = config.load("paper").models
    assert (paper.hotpot.prompts_per_step, paper.hotpot.num_generations, paper.hotpot.lr) == (64, 32, 1e-6)
    assert (paper.math.prompts_per_step, paper.math.num_generations, paper.math.lr) == (72, 32, 5e-6)
    assert paper.hotpot.lora is None and paper.math.lora is None
    assert config.load("gpu").models.math is None
    assert config.load("gpu").models.hotpot.lora.rank == 32


def test_overrides_reach_one_key_and_no_other():
    plain = config.load("laptop").to_dict()
    changed = config.load("laptop", overrides={"world": {"witnesses": {"base_steps": 7.0}}})
    assert changed.world.witnesses.base_steps == 7 and isinstance(changed.world.witnesses.base_steps, int)
    plain["world"]["witnesses"]["base_steps"] = 7
    assert changed.to_dict() == plain
    assert config.load("laptop", overrides={"few_seeds": [11]}).few_seeds == (11,)
    config.load("laptop", overrides={"world": {"sample_tests": {"snapshot_every": 80}}})  # of 80: just not too many


def test_read_only_equal_and_copyable():
    smoke = config.load("smoke")
    with pytest.raises(AttributeError, match="read-only"):
        smoke.seeds = [1]
    with pytest.raises(AttributeError, match="no key 'sedes'"):
        _ = smoke.sedes
    assert pickle.loads(pickle.dumps(smoke)) == copy.deepcopy(smoke) == smoke
    json.dumps(smoke.to_dict())


def test_digest_changes_with_any_value():
    digests = {config.load(scale).digest() for scale in config.scales()}
    assert len(digests) == len(config.scales())
    assert config.load("smoke").digest() == config.load("smoke").digest()
    assert config.load("smoke", overrides={"seeds": [12]}).digest() not in digests


@pytest.mark.parametrize("scale", ["lptop", "../laptop", "", "laptop.yaml", "sub/laptop"])
def test_an_unknown_scale_is_named_with_those_that_there_are(scale):
    refused([f"There is no scale '{scale}'", "gpu, laptop, paper, released, smoke"], scale)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"sedes": [11]}, ["Unknown key sedes", "did you mean seeds?"]),
        ({"world": {"witnesses": {"base_stps": 3}}}, ["world.witnesses.base_stps", "did you mean base_steps?"]),
        ({"models": {"hotpot": {"lora": {"ranks": 3}}}}, ["models.hotpot.lora.ranks", "did you mean rank?"]),
        ({"zzz": 1}, ["Unknown key zzz", "known here: scale, evidence"]),
        ({"world": {"witnesses": {"base_lr": "4e-3"}}}, ["base_lr", "a number", 'text "4e-3"', "as in 4.0e-3"]),
        ({"world": {"witnesses": {"layers": True}}}, ["layers", "a whole number, not true"]),
        ({"world": {"witnesses": {"layers": 1.5}}}, ["layers", "a whole number, not 1.5"]),
        ({"world": {"witnesses": {"grpo_steps": 0}}}, ["grpo_steps", "at least 1, not 0"]),
        ({"world": {"witnesses": {"grpo_lr": 0}}}, ["grpo_lr", "more than 0, not 0"]),
        ({"world": [1]}, ["world in", "a group of keys, not a list"]),
        ({"world": None}, ["world in", "a group of keys, not null"]),
        ({"few_seeds": 11}, ["few_seeds in", "a list or null, not 11"]),
        ({"seeds": ["a"]}, ["seeds[0] in", 'a whole number, not text "a"']),
        ({"seeds": []}, ["seeds in", "is empty"]),
        ({"evidence": ["modles"]}, ["evidence[0] in", "choose one of published, world, models"]),
        ({"models": {"hotpot": {"warmup": 2}}}, ["models.hotpot.warmup", "at most 1, not 2"]),
        ({"scale": "gpu"}, ["says scale: gpu", "laptop"]),
        ({"seeds": [11, 12, 11]}, ["seeds in", "names 11 twice"]),
        ({"seeds": [11, 11.0]}, ["seeds in", "names 11 twice"]),
        ({"seeds": [4]}, ["seeds[0] in", "at least 5, not 4"]),
        ({"seeds": [-1]}, ["seeds[0] in", "at least 5, not -1"]),
        ({"few_seeds": [10**31]}, ["few_seeds[0] in", "at most 1000000"]),
        ({"few_seeds": []}, ["few_seeds in", "is empty"]),
        ({"sizes": {"size_2m": [13, 13]}}, ["sizes.size_2m in", "names 13 twice"]),
        ({"models": {"chat_seeds": [0]}}, ["models.chat_seeds[0] in", "at least 5"]),
        ({"claims": ["brier_fix", "brier_fix"]}, ["claims in", 'names text "brier_fix" twice']),
        ({"evidence": ["world", "world"]}, ["evidence in", 'names text "world" twice']),
        ({"world": {"witnesses": {"base_lr": float("nan")}}}, ["base_lr in", "a number, not NaN"]),
        ({"world": {"annotators": {"reward_lr": float("inf")}}}, ["reward_lr in", "a number, not Infinity"]),
        ({"models": {"chat": {"dpo": {"lr": float("-inf")}}}}, ["chat.dpo.lr in", "a number, not -Infinity"]),
        (
            {"world": {"witnesses": {"heads": 5}}},
            ["witnesses.hidden_size in", "64 has no equal, even shares for 5 heads", "multiple of 10"],
        ),
        (
            {"world": {"arithmetic": {"hidden_size": 36}}},
            ["arithmetic.hidden_size in", "36 has no equal, even shares for 4 heads", "a multiple of 8"],
        ),
        ({"world": {"sample_tests": {"hidden_size": 10**9}}}, ["hidden_size in", "at most 16384"]),
        ({"world": {"reference_game": {"base_steps": 10**12}}}, ["base_steps in", "at most 10000000"]),
        (
            {"world": {"sample_tests": {"snapshot_every": 81}}},
            ["sample_tests.snapshot_every in", "81 is more than grpo_steps, 80"],
        ),
        ({"world": {"witnesses": {"train_prompts": 31}}}, ["prompts_per_step in", "32 is more than train_prompts, 31"]),
        ({"world": {"sample_tests": {"selection_samples": 5}}}, ["selection_samples in", "choose one of 4, 8, 16"]),
    ],
)
def test_every_error_is_one_sentence(overrides, parts):
    refused(["config/laptop.yaml", *parts], "laptop", overrides=overrides)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("scale: laptop\nseeds: [11, 12\n", ["Cannot parse config/laptop.yaml, line 3"]),
        ("scale: laptop\n\tseeds: 1\n", ["Cannot parse config/laptop.yaml, line 2"]),
        ("- scale\n", ["keys and values"]),
        ("scale: laptop\nsedes: [1]\n", ["Unknown key sedes in config/laptop.yaml: did you mean seeds?"]),
        ("scale: laptop\n11: 3\n", ["Unknown key 11"]),
        ("scale: laptop\nseeds: [2026-01-01]\n", ["seeds[0]", "2026-01-01"]),
        ("scale: laptop\nseeds: [2026-02-30]\n", ["Cannot parse", "day is out of range"]),
        ("scale: laptop\nworld: {}\nworld: {}\n", ["Cannot parse config/laptop.yaml, line 1: world is given twice"]),
        ("world:\n  witnesses: {layers: 1, heads: 2, layers: 3}\n", ["line 2: layers is given twice, keep one"]),
        ("world: {witnesses: {eval_questions: 12:30:45}}\n", ["12:30:45 would be read to the base 60"]),
        ("world: {witnesses: {base_lr: 1:30.5}}\n", ["1:30.5 would be read to the base 60"]),
        ("world: {witnesses: {eval_questions: 0100}}\n", ["0100 would be read to the base 8"]),
        (f"seeds: [{'9' * 5000}]\n", ["line 1: a number of 5000 digits"]),
        ("world: " + "[" * 3000 + "]" * 3000, ["config/laptop.yaml is nested too deeply"]),
        ("world: &again [*again]\n", ["world in config/laptop.yaml", "not a list"]),
        ("world: !!python/object/apply:os.system [ls]\n", ["Cannot parse config/laptop.yaml, line 1"]),
        ("scale: laptop\x00", ["Cannot parse config/laptop.yaml"]),
    ],
)
def test_bad_files(root, text, parts):
    (root / "config" / "laptop.yaml").write_text(text)
    refused(parts, "laptop", root)


def test_an_empty_file_is_all_defaults(root):
    (root / "config" / "laptop.yaml").write_text("")
    assert config.load("laptop", root) == config.load("laptop", root, {})


def test_missing_files(root):
    (root / "config" / "schema.json").unlink()
    refused("config/schema.json", "laptop", root)
    shutil.rmtree(root / "config")
    refused("", "laptop", root)


def test_a_scale_of_ones_own_names_itself(root):
    mine = root / "config" / "mine.yaml"
    mine.write_text("seeds: [21]\n")
    refused("config/mine.yaml does not name its scale: add the line scale: mine.", "mine", root)
    mine.write_text("scale: mine\nseeds: [0x15, 22.0]\n")
    assert config.load("mine", root).seeds == (21, 22)
    (root / "config" / "{x} y.yaml").write_text("scale: '{x} y'\n")
    refused("use letters, digits", "{x} y", root)


@pytest.mark.parametrize("kind", ["binary", "folder", "pipe", "link to itself", "link to nothing"])
def test_what_is_no_text_is_not_waited_for(root, kind):
    place = root / "config" / "laptop.yaml"
    place.unlink()
    if kind == "binary":
        place.write_bytes(b"\xff\xfe\x00scale")
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(place if kind == "link to itself" else root / "nothing")
    refused("config/laptop.yaml", "laptop", root)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([path for path, _ in LEAVES]), ANY)
def test_any_value_of_any_key_is_taken_or_refused_in_one_sentence(path, value):
    for key in reversed(path):
        value = {key: value}
    try:
        config.load("smoke", overrides=value)
    except config.ConfigError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=100)
@given(st.text() | st.text(alphabet=":-[]{}&*!|>'\"%@`#?,. \n\ta0"))
def test_any_text_is_a_scale_or_refused_in_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(config._parse(path), dict)
    except config.ConfigError as error:
        assert "\n" not in str(error)


# --- What a run is told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        ({"claims": "brier_fix"}, ["Unknown key claims in --config (known: scale, claim, batch, gpus_per_job"]),
        ({"note": "; touch it #"}, ["Unknown key note in --config: known here: scale, claim, batch"]),
        ({"scale": "huge"}, ["scale in --config", "choose one of gpu, laptop"]),
        ({"scale": None}, ["scale in --config", "text, not null"]),
        ({"claim": "brier"}, ["claim in --config", "choose one of binary_reward"]),
        ({"claim": ["brier_fix"]}, ["claim in --config", "not a list"]),
        ({"batch": 0}, ["batch in --config", "at least 1"]),
        ({"batch": "many"}, ["batch in --config", "a whole number"]),
        ({"gpus_per_job": 1.5}, ["gpus_per_job in --config", "a whole number, not 1.5"]),
        ({"worlds_on_gpu": "maybe"}, ["worlds_on_gpu in --config", "true or false"]),
        ({"preflight": 0}, ["preflight in --config", "true or false, not 0"]),
    ],
)
def test_what_a_run_is_told_is_checked(told, parts):
    refused(parts, told, call=config.options)


def test_a_run_that_is_told_nothing_is_the_laptop_s():
    assert config.options({}).to_dict() == {
        **{"scale": "laptop", "claim": None, "batch": None},
        **{"gpus_per_job": 1, "worlds_on_gpu": False, "preflight": True},
    }
    # Snakemake hands on numbers as numbers and truths as text.
    assert config.options({"preflight": "false", "worlds_on_gpu": "True", "batch": 1}).to_dict() == {
        **{"scale": "laptop", "claim": None, "batch": 1},
        **{"gpus_per_job": 1, "worlds_on_gpu": True, "preflight": False},
    }


# --- Folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "of", "default"),
    [("CANDOR_RESULTS", results_root, "results"), ("CANDOR_CORPORA", sets.root, "data/corpora")],
)
@pytest.mark.parametrize(
    ("given", "place"),
    [("rel/x", "here/rel/x"), ("../y z", "y z"), ("~/My Drive", "home/My Drive"), ("~", "home"), ("", None)],
)
def test_a_folder_is_the_same_wherever_it_is_asked_for(monkeypatch, tmp_path, variable, of, default, given, place):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, given)
    wanted = tmp_path / place if place else config.ROOT / default
    assert of() == wanted
    monkeypatch.chdir(tmp_path)
    assert of() == wanted and os.environ[variable] == (str(wanted) if place else "")


def test_a_folder_that_leads_nowhere_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CANDOR_RESULTS", "~nobody-of-that-name/results")
    with pytest.raises(config.ConfigError, match="CANDOR_RESULTS is ~nobody-of-that-name/results, which leads nowhere"):
        results_root()
    (tmp_path / "a").symlink_to(tmp_path / "a")
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "a" / "b"))
    with pytest.raises(config.ConfigError, match="leads nowhere"):
        results_root()
