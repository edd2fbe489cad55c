"""Writing checkpoints behind the training, keeping the right ones, and believing nothing that is read."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import storage_groups
from processes import run_group
from safetensors import safe_open

from lumiray.errors import RunFailure, UserError
from lumiray.train.checkpoint import Manifest, export_model, latest, open_checkpoint
from lumiray.train.manifest import _checksum, encode
from lumiray.train.retention import superfluous
from lumiray.train.slices import Fragment, share


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(root: Path, bucket: str) -> dict[str, Any]:
    return run_group(storage_groups.all_cases, 1, str(root), bucket)


def test_the_last_ones_the_best_and_the_held_stay(found: dict[str, Any]) -> None:
    kept = found["kept"]
    assert kept["steps"] == [[1], [2, 1], [3, 2, 1], [4, 3, 2, 1], [5, 4, 2, 1], [6, 5, 2, 1]]
    assert kept["folders"] == [f"step-{step:08d}" for step in (1, 2, 5, 6)]
    assert kept["one"] == [2]


@pytest.mark.parametrize("keep", [1, 2, 5])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_may_go_by_its_definition(keep: int, mode: str) -> None:
    values = [0.3, 0.1, 0.8, 0.1, 0.8, math.nan, 0.5]
    metrics = {step: {"recall": value} for step, value in enumerate(values)} | {7: {}}
    going = superfluous(metrics, keep, ("recall", mode))
    best = {"max": 2, "min": 1}[mode]  # of equal ones the first: later ones may carry its value along
    assert set(metrics) - set(going) == set(range(8 - keep, 8)) | {best}
    assert superfluous(metrics, keep, None) == list(range(8 - keep))
    assert superfluous({3: {}}, keep, ("recall", mode)) == []


@pytest.mark.parametrize("world", [1, 2, 3, 7, 40])
def test_shares_hold_every_element_once(world: int) -> None:
    import torch

    whole = [Fragment(str(size), (size,), 0, torch.arange(size)) for size in (5, 1, 11, 3)]
    whole = [replace(one, moments={"twice": one.values * 2}) for one in whole]
    parts = [part for rank in range(world) for part in share(whole, rank, world)]
    for one in whole:
        own = [part for part in parts if part.name == one.name]
        assert torch.cat([part.values for part in own]).tolist() == one.values.tolist()
        assert torch.cat([part.moments["twice"] for part in own]).tolist() == one.moments["twice"].tolist()
        assert all(int(part.values[0]) == part.start for part in own)
    sizes = [sum(part.values.numel() for part in share(whole, rank, world)) for rank in range(world)]
    assert max(sizes) == math.ceil(20 / world)


def test_a_step_saved_twice_is_replaced(found: dict[str, Any]) -> None:
    first, second, there = found["again"]
    assert not set(first) & set(second)
    assert there == sorted([*second, "manifest.json"])
    assert len(second) > 1


def test_what_is_written_is_the_state_at_the_time_of_saving(found: dict[str, Any]) -> None:
    case = found["behind"]
    assert case["saved"] == case["expected"]
    assert case["expected"][0] != case["expected"][1]


def test_storage_that_fails_for_a_while_and_for_good(found: dict[str, Any]) -> None:
    assert found["retried"] == [1]
    said = found["failed"]["said"]
    assert "The checkpoint of step 1 could not be written" in said and "checkpoints" in said
    assert found["failed"]["steps"] == [3]


def test_a_folder_without_manifest_is_no_checkpoint(found: dict[str, Any]) -> None:
    assert found["leftover"] == {"before": [1], "folders": ["step-00000001"]}


def test_two_players_in_one_checkpoint(found: dict[str, Any]) -> None:
    for saved, restored in found["players"].values():
        assert saved == restored
    assert found["players"]["one"][0] != found["players"]["two"][0]


def test_on_s3(found: dict[str, Any]) -> None:
    case = found["s3"]
    assert case["steps"] == [3, 2] and case["folders"] == ["step-00000002", "step-00000003"]
    assert case["position"] == {"step": 3} and case["same"] and case["exported"] and case["files"] > 1
    assert "checksum does not fit" in case["said"] and case["said"].endswith("checkpoints/step-00000002")


@pytest.fixture
def run(found: dict[str, Any], root: Path, tmp_path: Path) -> Path:
    """A copy of a run with checkpoints of the steps 10, 20 and 30."""
    shutil.copytree(root / "plain", tmp_path / "run")
    return tmp_path / "run"


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step-00000030"


def test_tensors_and_plain_data_only(run: Path) -> None:
    manifest = open_checkpoint(str(newest(run)))
    assert (manifest.step, manifest.position, manifest.metrics) == (30, {"step": 31 - 1}, {"recall": 0.3})
    assert manifest.identity == {"code": "abc", "nested": {"lr": 0.1}}
    assert {path.suffix for path in newest(run).iterdir()} == {".safetensors", ".json"}
    assert manifest.size_bytes == sum(path.stat().st_size for path in newest(run).glob("*.safetensors"))
    json.loads((newest(run) / "manifest.json").read_text())
    for one in manifest.files:
        with safe_open(str(newest(run) / one.name), framework="pt") as file:
            assert sum(len(piece.keys) for piece in one.pieces) == len(list(file.keys()))


def test_a_run_and_a_checkpoint_can_be_named(run: Path) -> None:
    for address in (run, newest(run), f"{newest(run)}/"):
        assert open_checkpoint(str(address)).step == 30
    with pytest.raises(UserError, match="no checkpoint and holds none"):
        open_checkpoint(str(run / "checkpoints"))
    assert latest(str(run / "nowhere")) is None


def damage(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the newest manifest and give it a checksum that fits: as an attacker would."""
    path = newest(run) / "manifest.json"
    body = json.loads(path.read_text())
    del body["checksum"]
    change(body)
    path.write_text(json.dumps({"checksum": _checksum(body), **body}))


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "leaves the folder": (lambda b: b["files"][0].update(name="../../../etc/passwd"), "no name of a file"),
    "absolute": (lambda b: b["files"][0].update(name="/etc/passwd"), "no name of a file"),
    "hidden in a good name": (
        lambda b: b["files"][0].update(name="rank-00000-of-00001-00-0.safetensors/../../x"),
        "no name of a file",
    ),
    "negative": (lambda b: b["files"][0]["pieces"][0].__setitem__(2, -4), "not a count"),
    "gap": (lambda b: b["files"].pop(), "elements"),
    "doubled": (lambda b: b["files"].append(b["files"][0]), "doubled"),
    "too long": (lambda b: b["files"][0]["pieces"][0].__setitem__(3, 10**12), "elements"),
    "unknown tensor": (lambda b: b["files"][0]["pieces"][0].__setitem__(1, "other"), "does not list"),
    "unknown player": (lambda b: b["files"][0]["pieces"][0].__setitem__(0, "other"), "missing"),
    "no player": (lambda b: b.pop("players"), "players"),
    "shape": (lambda b: b["players"]["player"]["tensors"]["scale"].update(shape=["1"]), "not a count"),
    "kind": (lambda b: b["players"]["player"]["tensors"]["scale"].update(kind="code"), "unknown kind"),
    "alias": (lambda b: b["players"]["player"]["aliases"].update(a="b"), "alias"),
    "position": (lambda b: b.update(position=[1]), "no table"),
    "later format": (lambda b: b.update(format="lumiray-checkpoint/9"), "format"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_refused(run: Path, case: str) -> None:
    change, said = HOSTILE[case]
    damage(run, change)
    with pytest.raises(RunFailure, match=said) as error:
        open_checkpoint(str(newest(run)))
    assert "manifest.json" in str(error.value)
    assert str(error.value).endswith("--resume " + str(run / "checkpoints" / "step-00000020"))
    found = latest(str(run))
    assert found is not None and found.step == 20  # the one before it is taken


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "lumiray-checkpoint/1"}'])
def test_what_is_no_manifest_is_refused(run: Path, text: str) -> None:
    (newest(run) / "manifest.json").write_text(text)
    with pytest.raises(RunFailure, match=r"manifest\.json"):
        open_checkpoint(str(newest(run)))


def test_a_changed_character_of_the_manifest_is_seen(run: Path) -> None:
    path = newest(run) / "manifest.json"
    path.write_text(path.read_text().replace('"recall": 0.3', '"recall": 0.4'))
    with pytest.raises(RunFailure, match="checksum"):
        open_checkpoint(str(newest(run)))


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_in_place_of_tensors_is_not_loaded(run: Path, tmp_path: Path) -> None:
    import hashlib

    mark = tmp_path / "was here"
    data = pickle.dumps(Attack(mark))
    manifest = open_checkpoint(str(newest(run)))
    (newest(run) / manifest.files[0].name).write_bytes(data)
    digest = hashlib.blake2b(data, digest_size=32).hexdigest()
    damage(run, lambda body: body["files"][0].update(size=len(data), blake2b=digest))
    manifest = open_checkpoint(str(newest(run)))
    manifest.verify()  # checksums of an attacker's file fit: only its form gives it away
    with pytest.raises(RunFailure, match=r"not the safetensors file.*step-00000020"):
        export_model(manifest)
    assert not mark.exists()


def test_tensors_other_than_listed_are_refused(run: Path) -> None:
    manifest = open_checkpoint(str(newest(run)))
    first, *others = manifest.files
    other = next(one for one in others if len(one.pieces))
    swapped = replace(first, size=other.size, blake2b=other.blake2b)
    shutil.copy(newest(run) / other.name, newest(run) / first.name)
    (newest(run) / "manifest.json").write_bytes(encode(replace(manifest, files=(swapped, *others))))
    with pytest.raises(RunFailure, match=manifest.files[0].name):
        export_model(open_checkpoint(str(newest(run))))


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_file_is_named_with_the_way_on(run: Path, how: str) -> None:
    manifest = open_checkpoint(str(run))
    path = newest(run) / manifest.files[-1].name
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data if how == "flipped" else data[:-4])
    for use in (Manifest.verify, export_model):
        with pytest.raises(RunFailure, match=path.name) as error:
            use(manifest)
        assert str(error.value).endswith("--resume " + str(run / "checkpoints" / "step-00000020"))
