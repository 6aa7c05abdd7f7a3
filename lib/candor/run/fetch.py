"""What the models path reads, put onto this machine: data sets, model weights, the authors' released outputs.

    python -m candor fetch hotpot_modified commonsense_qa models outputs --scale gpu
    python -m candor fetch esconv persuasion ultrafeedback ultrachat models --scale gpu
    python -m candor fetch apps quality models --scale gpu
    python -m candor fetch dices_350 dices_990 prism multipref helpsteer3 trivia_qa models --scale gpu
    python -m candor fetch hosking_unbiased hosking_errors hosking_groupings --scale gpu
    python -m candor fetch gsm8k gsm8k_train commonsense_qa commonsense_qa_train reward_bench models --scale gpu

Data sets become `data/corpora/<name>/<split>.parquet` (never committed), with `source.json` beside them; weights go
into the Hub client's cache, safetensors only. It is the only module of Candor that uses a network. Annotations of
people: DICES-350 and -990 (43,050 and 72,104 rows, CC BY 4.0), PRISM (68,400 rows, human text CC BY 4.0, model text CC
BY-NC 4.0), MultiPref (10,461 pairs, ODC-BY), HelpSteer3 (about 40,000 pairs, CC BY 4.0), Hosking et al. (3 x 7,200
rows, no licence: not to be passed on). Reasoning, a few MB each: GSM8K (7,473 and 1,319 questions, MIT), CommonsenseQA
(9,741 and 1,221, MIT), MultiArith (420 and 180, CC BY 4.0), ARC-Easy (2,251 and 2,376, CC BY-SA 4.0), RewardBench
(2,985 pairs, ODC-BY).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from candor.claims.annotation_noise import annotations
from candor.claims.grounding_loss import dialogues
from candor.claims.self_feedback import reasoning
from candor.claims.sophistry import programs, stories
from candor.core import provenance
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.language_models import needs, outputs, sets
from candor.run import steps as experiments

RELEASED = "https://raw.githubusercontent.com/damanimehul/RLCR/main/eval_outputs/Hotpot-models"
OUTPUT_FILE = "data-00000-of-00001.arrow"
# Never a pickle: a model without safetensors is refused when it is loaded.
WEIGHTS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer*", "merges*", "vocab*", "LICENSE*"]
WORDS = ("models", "outputs", "all")


def names(config: Config) -> list[str]:
    """Everything that can be fetched at a scale, by name."""
    return [*needs.fetched(config["models"]), *WORDS]


def fetch(wanted: Iterable[str], config: Config, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Fetch data sets by name, `models` (those that the scale loads), `outputs`, or `all` that the scale needs.

    Returns the folders that were filled; `say` is told one line each. Raises: `CandorError` in one sentence for an
    unknown name, for no network, and for a gated source that was not opened.
    """
    wanted = list(wanted)
    if unknown := [name for name in wanted if name not in names(config)]:
        raise CandorError(f"There is nothing to fetch called {unknown[0]!r}: choose from {', '.join(names(config))}.")
    if "all" in wanted:
        known = _asked(config)
        data = [name for name, _ in needs.data(known, config["models"]) if name in names(config)]
        wanted = [*dict.fromkeys(data), *["models"] * bool(needs.weights(known, config["models"])), "outputs"]
    places = []
    for name in wanted:
        found = {"models": _models, "outputs": _outputs}.get(name, lambda config, name=name: [_data(name, config)])(
            config
        )
        for place in found:
            say(f"{name}: {place}")
        places += found
    return places


def _asked(config: Config) -> list[steps.Step]:
    """The steps of pretrained models that the scale asks for."""
    known = experiments.steps()
    return [known[key] for key in steps.wanted(known, config)]


HUB = dialogues.HUB | annotations.HUB | reasoning.HUB | programs.HUB | stories.HUB  # configuration; our split: theirs


def _data(name: str, config: Config) -> Path:
    import datasets

    source = needs.fetched(config["models"])[name]
    if name in programs.FILES or name in annotations.FILES:
        return (_files if name in programs.FILES else _file)(name, source)
    if name in HUB:
        configuration, splits = HUB[name]
    else:
        configuration, splits = sets.HUB.get(source, (None, {"train": "train", "test": "test"}))
        splits = {split: splits[split] for split in sets.SETS[name].splits}
    folder = sets.root() / name
    _folder(folder)
    for split, theirs in splits.items():
        rows = _reaching(source, lambda theirs=theirs: datasets.load_dataset(source, configuration, split=theirs))
        partial = folder / f"{split}.partial"
        rows.to_parquet(str(partial))
        partial.replace(folder / f"{split}.parquet")
    _origin(folder, source=source, configuration=configuration, splits=splits)
    return folder


def _files(name: str, source: str) -> Path:
    """A data set whose files are taken as they are, line by line: it would come with a program that loads it."""
    from huggingface_hub import hf_hub_download

    folder = sets.root() / name
    _folder(folder)
    for split, file in programs.FILES[name].items():
        cached = _reaching(source, lambda file=file: hf_hub_download(source, file, repo_type="dataset"))
        partial = folder / f"{split}.partial"
        _reaching(source, lambda cached=cached, partial=partial: shutil.copyfile(cached, partial))
        partial.replace(folder / f"{split}.jsonl")
    _origin(folder, source=source, files=programs.FILES[name])
    return folder


def _file(name: str, repository: str) -> Path:
    """One file of a GitHub repository, CSV or parquet, as the parquet file of a set."""
    import pandas as pd

    path = annotations.FILES[name]
    url, folder = f"https://raw.githubusercontent.com/{repository}/HEAD/{path}", sets.root() / name
    _folder(folder)
    content = io.BytesIO(_reaching(url, lambda: _read(url)))
    try:
        rows = pd.read_csv(content, low_memory=False) if path.endswith(".csv") else pd.read_parquet(content)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise CandorError(f"{url} is not the file of {name} ({reason}): run `candor fetch {name}` again.") from None
    partial = folder / "train.partial"
    rows.to_parquet(partial, index=False)
    partial.replace(folder / "train.parquet")
    _origin(folder, source=repository, file=path, sha256=hashlib.sha256(content.getvalue()).hexdigest())
    return folder


def _read(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.read()
    except http.client.IncompleteRead as error:
        raise OSError(f"it was cut off after {len(error.partial)} bytes") from None


def _models(config: Config) -> list[Path]:
    from huggingface_hub import snapshot_download

    ids = [place for place in needs.weights(_asked(config), config["models"]) if not Path(place).is_dir()]
    if not ids:
        raise CandorError(
            f"Scale {config['scale']} loads no pretrained models: fetch them for one that does, e.g. gpu."
        )
    return [Path(_reaching(i, lambda i=i: snapshot_download(i, allow_patterns=WEIGHTS))) for i in ids]


def _outputs(config: Config) -> list[Path]:
    places = []
    for name in outputs.OUTPUTS:
        url, folder = f"{RELEASED}/{name}/{OUTPUT_FILE}", outputs.root() / name
        _folder(folder)
        content, expected = _reaching(url, lambda url=url: _read(url)), outputs.OUTPUT_QUESTIONS[name]
        try:
            found = max(len(part) for part in outputs.output_frames(content))
            wrong = f"it holds {found} questions of {expected}" if found != expected else ""
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise CandorError(f"{url} is not the released file ({wrong}): run `python -m candor fetch outputs` again.")
        partial = folder / "partial"
        _reaching(url, lambda partial=partial, content=content: partial.write_bytes(content))
        partial.replace(folder / OUTPUT_FILE)
        _origin(folder, source=url, sha256=hashlib.sha256(content).hexdigest())
        places.append(folder)
    return places


def _origin(folder: Path, **about: object) -> None:
    told = about | {"date": provenance.today()}
    (folder / "source.json").write_text(json.dumps(told, indent=1) + "\n")


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CandorError(
            f"{path} cannot be made ({error.strerror}): change its permissions, or set CANDOR_CORPORA to another "
            "folder."
        ) from None


def _reaching(source: str, get: Callable):
    """What `get` returns; one sentence if the network, the source's gate or a full disk is in the way."""
    import httpx2
    from huggingface_hub import errors

    try:
        return get()
    except errors.GatedRepoError:
        why = (
            f"{source} is gated: accept its terms on its page on huggingface.co, log in with `hf auth login`, and "
            "fetch again."
        )
    except errors.HFValidationError:
        why = (
            f"{source!r} is neither a folder nor a name on the Hub (owner/name): correct it under models in the scale."
        )
    except errors.RepositoryNotFoundError:
        why = f"There is no {source} on the Hub, or you may not see it: check models in the scale."
    except (OSError, ValueError, httpx2.HTTPError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(".")
        why = (
            f"{source} could not be fetched ({type(error).__name__}: {reason}): is there a network? You may also fetch "
            f"elsewhere and copy {sets.root()} and the Hub client's cache here."
        )
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            why = f"The disk is full, so {source} was not fetched: free some space and fetch again."
    raise CandorError(why)
