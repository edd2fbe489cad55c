"""The command line of the training job is frozen: names and defaults change only on purpose.

tests/house/options.txt holds them.  After a change that is meant:

    python tests/house/test_options.py --write
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform"), str(ROOT / "models")]

import pytest
from tests.house.sources import help_of, sources
from tests.settings import leaves, options

from lumiray.command import Asked
from lumiray.config import RunConfig
from lumiray.evaluate.box_options import BoxOptions
from lumiray.evaluate.evaluate_options import EvaluateOptions
from lumiray.evaluate.fit_options import FitOptions
from lumiray.evaluate.ground_options import GroundOptions
from lumiray.evaluate.label_options import LabelOptions
from lumiray.evaluate.restore_options import RestoreOptions
from lumiray.registry import config_class, slugs
from lumiray.tune.options import SearchOptions

FROZEN = Path(__file__).with_name("options.txt")
JOB, SLUG = "jobs/clip_pretrain.py", "clip"
TRAINS_SEVERAL = "jobs/restore_finetune.py"
FIT_JOB, RESTORE_JOB, SEARCH_JOB = "jobs/restore_zero_shot.py", "jobs/restore_images.py", "jobs/search.py"
EVALUATE_JOB, LABEL_JOB, BOXES_JOB = "jobs/restore_evaluate.py", "jobs/glip_pseudo_label.py", "jobs/glip_evaluate.py"
USERS = (RESTORE_JOB, EVALUATE_JOB, BOXES_JOB, LABEL_JOB, "lumiray ground")
USES = (RestoreOptions, EvaluateOptions, BoxOptions, LabelOptions, GroundOptions)
RENEW = "python tests/house/test_options.py --write"
TRAINED = [config_class(slug) for slug in slugs()]
FITTED = [config_class(slug, "fit") for slug in slugs("fit")]
NOT_READ = {"config", "dry_run"}  # read by the command line itself


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def listed() -> list[str]:
    """One line for every option: its name and its default."""
    found: dict[str, Any] = {name: default for name, (_, default) in options(SLUG).items()}
    found |= {name: default for name, _, default in leaves(Asked)}
    return [f"{flag(name)} {shown(default)}" for name, default in found.items()]


def trained() -> list[str]:
    """Systems besides the first, whose options are listed with the run's."""
    return [slug for slug in slugs() if slug != SLUG]


def job_of(slug: str) -> tuple[str, ...]:
    """The job that trains a system, of its own or the one for several, and the words that say which."""
    own = f"jobs/{slug}_pretrain.py"
    return (own,) if (ROOT / own).exists() else (TRAINS_SEVERAL, slug)


def listed_trained() -> list[str]:
    """The own options of these systems, after their names; the run's are those above."""
    return [
        f"{slug} {flag(name)} {shown(default)}" for slug in trained() for name, _, default in leaves(config_class(slug))
    ]


def listed_fits() -> list[str]:
    """The same for the job that fits systems to pictures: its own options, then each system's after its name."""
    kinds = {"SYSTEM": FitOptions} | {slug: config_class(slug, "fit") for slug in slugs("fit")}
    return [
        f"{slug} {flag(name)} {'required' if default is dataclasses.MISSING else shown(default)}"
        for slug, kind in kinds.items()
        for name, _, default in leaves(kind)
    ]


def listed_restores() -> list[str]:
    """Options of jobs that restore folders, evaluate and label, and of `lumiray ground`, without those of a system."""
    return [
        f"{job} {flag(name)} {'required' if default is dataclasses.MISSING else shown(default)}"
        for job, kind in zip(("RESTORE", "EVALUATE", "BOXES", "LABEL", "GROUND"), USES, strict=True)
        for name, _, default in leaves(kind)
    ]


def listed_searches() -> list[str]:
    """Options of the job that searches, besides those of the system's own job."""
    return [f"SEARCH {flag(name)} {shown(default)}" for name, _, default in leaves(SearchOptions)]


def shown(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "nothing"
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def classes(kind: type) -> Iterator[type]:
    """A configuration class and those of its groups."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            yield from classes(typing.cast(type, hint))


def test_options_and_defaults_are_those_that_were_promised() -> None:
    frozen = [line for line in FROZEN.read_text().splitlines() if not line.startswith("#")]
    now = [*listed(), *listed_trained(), *listed_fits(), *listed_restores(), *listed_searches()]
    changes = "\n".join(difflib.unified_diff(frozen, now, "options.txt", "the command line now", lineterm="", n=0))
    assert not changes, (
        f"{JOB} has other options than tests/house/options.txt:\n{changes}\n"
        f"Command lines and configurations of users break if one goes or its default moves. If that is meant: {RENEW}"
    )


def test_the_help_shows_exactly_these_options_and_every_one_can_be_given() -> None:
    text, _ = help_of(JOB)
    found = re.findall(r"^│ (--[a-z0-9.-]+)", text, flags=re.MULTILINE)
    assert sorted(found) == sorted(line.split()[0] for line in listed())
    assert "{fixed}" not in text  # so tyro shows what it cannot read


@pytest.mark.parametrize("slug", trained())
def test_the_help_of_a_system_shows_the_run_s_options_and_its_own(slug: str) -> None:
    text, _ = help_of(*job_of(slug))
    found = re.findall(r"^│ (--[a-z0-9.-]+)", text, flags=re.MULTILINE)
    assert sorted(found) == sorted(flag(name) for name in [*options(slug), *(name for name, _, _ in leaves(Asked))])


@pytest.mark.parametrize("kind", [RunConfig, Asked, FitOptions, *USES, SearchOptions, *TRAINED, *FITTED])
def test_every_option_is_explained_by_the_text_below_its_field(kind: type) -> None:
    for one in classes(kind):
        (definition,) = ast.parse(inspect.getsource(one)).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in pairwise([*definition.body, None]):
            if not isinstance(field, ast.AnnAssign) or "default_factory" in ast.dump(field):
                continue
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            where = f"{one.__name__}.{ast.unparse(field.target)}"
            assert str(text).endswith((".", ")")), f"{where} has no help below it"
            assert "\n" not in str(text), f"{where}: help of several lines is shown with its breaks"


def test_every_option_is_read_somewhere() -> None:
    """An option that nothing reads promises what does not happen."""
    read = {
        node.attr
        for source in sources("platform", "models", "jobs")
        if not source.name.endswith("/config.py")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
    }
    names = [
        *(name for slug in slugs() for name in options(slug)),
        *(name for kind in (Asked, SearchOptions) for name, _, _ in leaves(kind)),
    ]
    assert [name for name in names if name.split(".")[-1] not in read | NOT_READ] == []


@pytest.mark.parametrize("slug", slugs())
def test_a_system_s_settings_do_not_share_a_name_with_the_run_s(slug: str) -> None:
    """Both stand side by side on the command line, in YAML and in a run's identity."""
    kinds = (RunConfig, Asked, *USES, SearchOptions)
    run = {field.name for kind in kinds for field in dataclasses.fields(kind)} | {"system"}
    assert run & {field.name for field in dataclasses.fields(config_class(slug))} == set()


@pytest.mark.parametrize("slug", slugs())
def test_a_system_s_settings_are_frozen_and_imported_without_torch(slug: str) -> None:
    kind = config_class(slug)
    assert dataclasses.is_dataclass(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, "other")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {RENEW}")
    head = f"# Options of {JOB} and their defaults.  Renewed by: {RENEW}"
    parts = {
        head: listed(),
        "# Options of the other systems, besides those of the run above": listed_trained(),
        f"# Options of {FIT_JOB} SYSTEM, and of each system": listed_fits(),
        f"# Options of {', '.join(USERS)}, without those of the system": listed_restores(),
        f"# Options of {SEARCH_JOB} SYSTEM, besides those of the system's own job": listed_searches(),
    }
    FROZEN.write_text("".join(f"{line}\n" for title, lines in parts.items() for line in (title, *lines)))
    print(f"{sum(map(len, parts.values()))} options written to {FROZEN.relative_to(ROOT)}")
