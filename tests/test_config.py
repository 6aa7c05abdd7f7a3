"""The dial: defaults, the sentence of every error, and the scales that are shipped."""

import copy
import json
import pickle
import shutil

import jsonschema
import pytest
from candor import config
from candor.errors import CandorError


@pytest.fixture
def root(tmp_path):
    shutil.copytree(config.ROOT / "config", tmp_path / "config")
    return tmp_path


def sentence(scale, root=None, overrides=None):
    with pytest.raises(config.ConfigError) as caught:
        config.load(scale, root, overrides)
    message = str(caught.value)
    assert "\n" not in message and message[-1] in ".?"
    return message


def test_shipped_scales_load():
    assert {"smoke", "laptop", "gpu", "paper"} <= set(config.scales())
    for scale in config.scales():
        assert config.load(scale).scale == scale


def test_a_scale_never_speaks_of_the_machine():
    words = ("cores", "mem", "threads", "partition", "gpus", "device", "runtime")
    keys = json.dumps(json.loads((config.ROOT / "config" / "schema.json").read_text())["properties"]).lower()
    assert not [word for word in words if f'"{word}' in keys]


def test_schema_is_the_documentation():
    schema = json.loads((config.ROOT / "config" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    def groups(node, path):
        if "properties" in node:
            assert node["additionalProperties"] is False, path
            for key, part in node["properties"].items():
                assert part["description"].endswith("."), f"{path}.{key}"
                assert "default" in part, f"{path}.{key}"
                groups(part, f"{path}.{key}")

    groups(schema, "config")
    groups(schema["$defs"]["recipe"], "recipe")


def test_defaults_are_laptop_and_satisfy_the_schema():
    laptop = config.load("laptop")
    schema = json.loads((config.ROOT / "config" / "schema.json").read_text())
    jsonschema.validate(laptop.to_dict(), schema)
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


def test_errors_are_candor_errors():
    assert issubclass(config.ConfigError, CandorError)


def test_unknown_scale_lists_the_scales():
    message = sentence("lptop")
    assert "'lptop'" in message and "gpu, laptop, paper, smoke" in message


@pytest.mark.parametrize("scale", ["../laptop", "", "laptop.yaml", "sub/laptop"])
def test_odd_scale_names_are_unknown(scale):
    assert "There is no scale" in sentence(scale)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"sedes": [11]}, ["Unknown key sedes", "did you mean seeds?"]),
        (
            {"world": {"witnesses": {"base_stps": 3}}},
            ["Unknown key world.witnesses.base_stps", "did you mean base_steps?"],
        ),
        ({"models": {"hotpot": {"lora": {"ranks": 3}}}}, ["models.hotpot.lora.ranks", "did you mean rank?"]),
        ({"zzz": 1}, ["Unknown key zzz", "known here: scale, evidence"]),
        (
            {"world": {"witnesses": {"base_lr": "4e-3"}}},
            ["base_lr", "a number", 'text "4e-3"', "as in 4.0e-3"],
        ),
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
    ],
)
def test_every_error_is_one_sentence(overrides, parts):
    message = sentence("laptop", overrides=overrides)
    assert "config/laptop.yaml" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("scale: laptop\nseeds: [11, 12\n", ["Cannot parse config/laptop.yaml, line 3"]),
        ("scale: laptop\n\tseeds: 1\n", ["Cannot parse config/laptop.yaml, line 2"]),
        ("- scale\n", ["keys and values"]),
        ("scale: laptop\nsedes: [1]\n", ["Unknown key sedes in config/laptop.yaml: did you mean seeds?"]),
        ("scale: laptop\n11: 3\n", ["Unknown key 11"]),
        ("scale: laptop\nseeds: [2026-01-01]\n", ["seeds[0]", "2026-01-01"]),
    ],
)
def test_bad_files(root, text, parts):
    (root / "config" / "laptop.yaml").write_text(text)
    message = sentence("laptop", root)
    for part in parts:
        assert part in message


def test_binary_file(root):
    (root / "config" / "laptop.yaml").write_bytes(b"\xff\xfe\x00scale")
    assert "config/laptop.yaml" in sentence("laptop", root)


def test_an_empty_file_is_all_defaults(root):
    (root / "config" / "laptop.yaml").write_text("")
    assert config.load("laptop", root) == config.load("laptop", root, {})


def test_missing_files(root):
    (root / "config" / "schema.json").unlink()
    assert "config/schema.json" in sentence("laptop", root)
    shutil.rmtree(root / "config")
    sentence("laptop", root)
