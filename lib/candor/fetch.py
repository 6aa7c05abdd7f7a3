"""What the models path reads, put onto this machine: data sets, model weights, the authors' released outputs.

    python -m candor fetch hotpot_modified commonsense_qa models outputs --scale gpu
    python -m candor fetch esconv persuasion ultrafeedback ultrachat models --scale gpu
    python -m candor fetch apps quality models --scale gpu

Data sets become `data/corpora/<name>/<split>.parquet` (never committed), with `source.json` beside them; weights go
into the Hub client's cache, safetensors only. It is the only module of Candor that uses a network.
"""

from __future__ import annotations

import errno
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

from candor.config import Config
from candor.corpora import dialogues, programs, sets, stories
from candor.errors import CandorError
from candor.experiments import dialogue_models, judged_models, language_models

RELEASED = "https://raw.githubusercontent.com/damanimehul/RLCR/main/eval_outputs/Hotpot-models"
OUTPUT_FILE = "data-00000-of-00001.arrow"
# Never a pickle: a model without safetensors is refused when it is loaded.
WEIGHTS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer*", "merges*", "vocab*", "LICENSE*"]
WORDS = ("models", "outputs", "all")


def names(config: Config) -> list[str]:
    """Everything that can be fetched at a scale, by name."""
    kinds = ("datasets", "dialogue_data", "program_data", "story_data")
    return [*(name for kind in kinds for name in config["models"][kind]), *WORDS]


def fetch(wanted: Iterable[str], config: Config, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Fetch data sets by name, `models` (those that the scale loads), `outputs`, or `all` that the scale needs.

    Returns the folders that were filled; `say` is told one line each. Raises: `CandorError` in one sentence for an
    unknown name, for no network, and for a gated source that was not opened.
    """
    wanted = list(wanted)
    if unknown := [name for name in wanted if name not in names(config)]:
        raise CandorError(f"There is nothing to fetch called {unknown[0]!r}: choose from {', '.join(names(config))}.")
    if "all" in wanted:
        data = [name for path in (language_models, judged_models) for name, _ in path.data_needed(config)]
        data += dialogue_models.data_needed(config)
        wanted = [*dict.fromkeys(data), "models", "outputs"]
    places = []
    for name in wanted:
        found = {"models": _models, "outputs": _outputs}.get(name, lambda config, name=name: [_data(name, config)])(
            config
        )
        for place in found:
            say(f"{name}: {place}")
        places += found
    return places


def _data(name: str, config: Config) -> Path:
    import datasets

    if name in programs.FILES:
        return _files(name, config["models"]["program_data"][name])
    if name in stories.HUB or name in programs.SPLITS:
        source = config["models"]["story_data" if name in stories.HUB else "program_data"][name]
        configuration, splits = None, stories.HUB.get(name) or {split: split for split in programs.SPLITS[name]}
        kept = tuple(splits)
    elif name in dialogues.HUB:
        source = config["models"]["dialogue_data"][name]
        configuration, splits, kept = None, {"train": dialogues.HUB[name]}, ("train",)
    else:
        source, kept = config["models"]["datasets"][name], sets.SETS[name].splits
        configuration, splits = sets.HUB.get(source, (None, {split: split for split in sets.SETS[name].splits}))
    folder = sets.root() / name
    _folder(folder)
    for split in kept:
        rows = _reaching(source, lambda split=split: datasets.load_dataset(source, configuration, split=splits[split]))
        partial = folder / f"{split}.partial"
        rows.to_parquet(str(partial))
        partial.replace(folder / f"{split}.parquet")
    origin = {"source": source, "configuration": configuration, "splits": splits, "date": date.today().isoformat()}
    (folder / "source.json").write_text(json.dumps(origin, indent=1) + "\n")
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
    origin = {"source": source, "files": programs.FILES[name], "date": date.today().isoformat()}
    (folder / "source.json").write_text(json.dumps(origin, indent=1) + "\n")
    return folder


def _models(config: Config) -> list[Path]:
    from huggingface_hub import snapshot_download

    paths = (language_models, dialogue_models, judged_models)
    needed = [place for path in paths for place in path.models_needed(config)]
    ids = [place for place in dict.fromkeys(needed) if not Path(place).is_dir()]
    if not ids:
        raise CandorError(
            f"Scale {config['scale']} loads no pretrained models: fetch them for one that does, e.g. gpu."
        )
    return [Path(_reaching(i, lambda i=i: snapshot_download(i, allow_patterns=WEIGHTS))) for i in ids]


def _outputs(config: Config) -> list[Path]:
    places = []
    for name in language_models.OUTPUTS:
        url, folder = f"{RELEASED}/{name}/{OUTPUT_FILE}", language_models.outputs_root() / name
        _folder(folder)

        def read(url=url) -> bytes:
            with urllib.request.urlopen(url, timeout=60) as reply:
                return reply.read()

        content = _reaching(url, read)
        partial = folder / "partial"
        partial.write_bytes(content)
        partial.replace(folder / OUTPUT_FILE)
        places.append(folder)
    return places


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
        raise CandorError(
            f"{source} is gated: accept its terms on its page on huggingface.co, log in with `hf auth login`, and "
            "fetch again."
        ) from None
    except errors.RepositoryNotFoundError:
        raise CandorError(
            f"There is no {source} on the Hub, or you may not see it: check models in the scale."
        ) from None
    except (OSError, ValueError, httpx2.HTTPError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise CandorError(
                f"The disk is full, so {source} was not fetched: free some space and fetch again."
            ) from None
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise CandorError(
            f"{source} could not be fetched ({type(error).__name__}: {reason}): is there a network? You may also fetch "
            f"elsewhere and copy {sets.root()} and the Hub client's cache here."
        ) from None
