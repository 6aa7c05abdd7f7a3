"""What is fetched, from where, and that it is what the readers read; no network is asked."""

import io
import json
import socket
from pathlib import Path

import pandas as pd
import pytest
from candor.claims.annotation_noise import annotations
from candor.claims.grounding_loss import dialogues
from candor.claims.self_feedback import reasoning
from candor.claims.sophistry import programs, stories
from candor.core import settings as config
from candor.core.errors import CandorError
from candor.language_models import sets
from candor.run import fetch

FIXTURES = Path(__file__).parents[1] / "fixtures"
GPU = config.load("gpu")
ANSWERED = [{"question": "Sum?", "answer": "so\n#### 3"}]
TALK = [{"text": '{"dialog": [{"speaker": "usr", "text": "Hi."}]}'}]
PREFERRED = FIXTURES / "helpsteer3.jsonl"
# What is asked of the Hub for a set, by configuration and split; rows, and what reads them.
HUB = {
    "gsm8k": ("openai/gsm8k", "main", ["test"], ANSWERED, lambda: sets.prompts("gsm8k")["answer"] == [["3"]]),
    "gsm8k_train": ("openai/gsm8k", "main", ["train"], ANSWERED, lambda: reasoning._problems("gsm8k", "train", 0)),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", ["train", "test"], ANSWERED, lambda: [*sets.rows("arc_easy", "test")]),
    "esconv": (
        *("thu-coai/esconv", None, ["train+validation+test"], TALK),
        lambda: dialogues.raw_conversations("esconv")[0][0].text == "Hi.",
    ),
    "helpsteer3": (
        *("nvidia/HelpSteer3", "preference", ["train"], PREFERRED),
        lambda: len(annotations.helpsteer3()) == 17 and len(annotations.preference_pairs("helpsteer3")) == 6,
    ),
    "quality": (
        *("tasksource/QuALITY", None, ["train", "validation"], FIXTURES / "quality.jsonl"),
        lambda: stories.questions("test"),
    ),
    "code_contests": (
        "deepmind/code_contests",
        None,
        ["test"],
        ANSWERED,
        lambda: [*sets.rows("code_contests", "test")],
    ),
    "hotpot_vanilla": ("hotpotqa/hotpot_qa", "distractor", ["validation"], ANSWERED, lambda: True),
}


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", HUB)
def test_a_set_of_the_hub_becomes_what_its_reader_reads(corpora, monkeypatch, name):
    import datasets

    source, configuration, splits, rows, reads = HUB[name]
    asked, told = [], []

    def load_dataset(*place, split):
        asked.append((*place, split))
        if isinstance(rows, Path):
            lines = [json.loads(line) for line in rows.read_text().splitlines()]
            return datasets.Dataset.from_list(lines)
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert fetch.fetch([name], GPU, told.append) == [corpora / name] and told == [f"{name}: {corpora / name}"]
    assert asked == [(source, configuration, split) for split in splits] and len(
        reads() if reads() is not True else "x"
    )
    assert json.loads((corpora / name / "source.json").read_text())["source"] == source


def test_files_that_are_taken_as_they_are(corpora, monkeypatch):
    import huggingface_hub

    asked, rows = [], pd.read_json(FIXTURES / "dices_350.jsonl", lines=True)

    def downloaded(source, file, repo_type):
        asked.append((source, file))
        return str(FIXTURES / "apps.jsonl")

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(rows.to_csv(index=False).encode())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", downloaded)
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert fetch.fetch(["apps", "dices_350"], GPU) == [corpora / "apps", corpora / "dices_350"]
    assert asked == [("codeparrot/apps", "train.jsonl"), ("codeparrot/apps", "test.jsonl"), asked[2]]
    assert asked[2] == (
        "https://raw.githubusercontent.com/google-research-datasets/dices-dataset/HEAD/350/"
        "diverse_safety_adversarial_dialog_350.csv"
    )
    assert len(list(programs.read("apps", "train"))) == 8
    assert annotations.dices("dices_350")["label"].tolist() == rows["Q_overall"].tolist()


def test_every_name_of_the_schema_has_a_place():
    from_files = {*programs.FILES, *annotations.FILES}
    assert set(fetch.names(GPU)) - set(fetch.WORDS) == {*fetch.HUB, *sets.SETS, *from_files}


@pytest.mark.parametrize("name", ["commonsense_qa", "outputs", "models"])
def test_without_a_network_it_is_one_sentence(corpora, monkeypatch, name):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(corpora))
    with pytest.raises(CandorError, match="is there a network") as caught:
        fetch.fetch([name], GPU)
    assert "\n" not in str(caught.value) and not list(corpora.rglob("*.parquet"))


def test_what_does_not_exist_cannot_be_fetched():
    with pytest.raises(CandorError, match="nothing to fetch called 'squad'"):
        fetch.fetch(["squad"], GPU)
    with pytest.raises(CandorError, match="loads no pretrained models"):
        fetch.fetch(["models"], config.load("laptop"))
