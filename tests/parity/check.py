"""Compare the project with numbers that the published code gave, case folder by case folder.

    python tests/parity/check.py FOLDER...

A FOLDER is a case (case.json, expected.npz) or any folder above cases.  Prints one line per case: name, ok or
FAIL, largest relative error; ends with 1 if any case fails or none was found.  What is computed follows from
`system` and `kind` in case.json; runners are in `runners/<system>.py`, one function per kind, returning every
expected output by its name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "platform"), str(ROOT / "models")]

from recipe import Case

Runner = Callable[[Case], dict[str, np.ndarray]]


def cases_below(folder: Path) -> list[Path]:
    """The folder itself if it is a case, else every case below it."""
    return sorted(found.parent for found in folder.rglob("case.json"))


def runner_of(case: Case) -> Runner:
    """The function for a case's system and kind.

    Raises:
        LookupError: there is none.
    """
    slug, kind = case.spec["system"], case.spec["kind"]
    try:
        kinds: dict[str, Runner] = importlib.import_module(f"runners.{slug.replace('-', '_')}").KINDS
        return kinds[kind]
    except (ImportError, KeyError):
        raise LookupError(f"no runner for kind {kind!r} of system {slug!r}") from None


def largest_error(case: Case) -> float:
    """Run a case and compare every expected output.

    Raises:
        AssertionError: an output is missing, of another shape, not finite, or off by more than the tolerance.
        LookupError: the case's kind is unknown.
    """
    got = runner_of(case)(case)
    missing = sorted(case.expected.keys() - got.keys())
    if missing:
        raise AssertionError(f"not computed: {', '.join(missing)}")
    return case.compare(got)


def fill(module: Any, case: Case, rename: Callable[[str], str] = lambda name: name) -> None:
    """Put the case's filled tensors into a torch module, strictly.

    Raises:
        AssertionError: the module has no such tensor, another shape, or keeps one that should be filled.
    """
    import torch

    own = module.state_dict()
    taken = {}
    for name, value in case.state_dict().items():
        target = rename(name)
        assert target in own, f"the model has no tensor {name}"
        tensor = torch.from_numpy(value)
        if own[target].shape != tensor.shape and own[target].numel() == tensor.numel() == 1:
            tensor = tensor.reshape(own[target].shape)  # shape [] in files, [1] in engines
        assert own[target].shape == tensor.shape, f"{name}: {tuple(own[target].shape)}, not {value.shape}"
        taken[target] = tensor
    kept = {rename(name) for name, _, how in case.spec["tensors"] if how == "kept"}
    parameters = {name for name, _ in module.named_parameters()}
    left = parameters - taken.keys() - kept
    assert not left, f"not filled: {', '.join(sorted(left))}"
    module.load_state_dict(own | taken)


def main(folders: list[str]) -> int:
    """Check every case; the exit code."""
    found = [case for folder in folders for case in cases_below(Path(folder))]
    failures = 0
    for folder in found:
        name = f"{folder.parent.name}/{folder.name}"
        try:
            print(f"{name}: ok, largest relative error {largest_error(Case.load(folder)):.2e}", flush=True)
        except Exception as error:
            failures += 1
            print(f"{name}: FAIL, {type(error).__name__}: {' '.join(str(error).split())[:400]}", flush=True)
    if not found:
        print(f"FAIL, no case.json below {', '.join(folders) or 'nothing'}")
    return 1 if failures or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
