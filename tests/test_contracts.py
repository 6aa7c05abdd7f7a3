"""Types and imports: the checker finds no more than it did, and imports run one way.

`python tests/test_contracts.py` writes the baseline `tests/types.json` again; it refuses to write a longer one.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / "tests" / "types.json"


def run(program: str, *words: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def diagnostics() -> dict[str, list[str]]:
    """What the type checker says of lib/, by file and rule."""
    found: dict[str, list[str]] = {}
    output = run("ty", "check", "lib", "--python", sys.prefix, "--output-format", "concise")
    for line in output.splitlines():
        if parts := re.match(r"(\S+?):\d+:\d+: \w+\[([\w-]+)\]", line):
            found.setdefault(f"{parts[1]} {parts[2]}", []).append(line)
    assert found or "All checks passed" in output, output
    return found


def test_the_type_checker_finds_nothing_new():
    known, found = Counter(json.loads(BASELINE.read_text())), diagnostics()
    new = [line for key, lines in found.items() if len(lines) > known[key] for line in lines]
    assert not new, "\n".join(["More than before in these files:", *new])


def test_the_baseline_of_types_shrinks_with_the_code():
    counts = {key: len(lines) for key, lines in diagnostics().items()}
    less = {key: n for key, n in json.loads(BASELINE.read_text()).items() if counts.get(key, 0) < n}
    assert not less, f"Less to find than {BASELINE.name} says: run `python tests/test_contracts.py` ({less})"


def test_imports_run_one_way():
    output = run("lint-imports", "pyproject.toml", "--no-cache")
    assert " 0 broken" in output, output


if __name__ == "__main__":
    counts = {key: len(lines) for key, lines in sorted(diagnostics().items())}
    before = sum(json.loads(BASELINE.read_text()).values()) if BASELINE.exists() else None
    if before is not None and sum(counts.values()) > before:
        sys.exit(f"{sum(counts.values())} findings, and the baseline has {before}: mend the new ones first.")
    BASELINE.write_text(json.dumps(counts, indent=0) + "\n")
