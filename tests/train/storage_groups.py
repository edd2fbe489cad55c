"""What the tests of `Checkpointer` run with a real engine on one rank: many cases in one start-up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import tiny
from state_groups import get_ready, plain


def all_cases(rank: int, world: int, root: str, bucket: str) -> dict[str, Any]:
    get_ready()
    from lumiray.train import checkpoint

    checkpoint.FIRST_PAUSE_S = 0.05
    checkpoint.FILE_BYTES = 600  # several files per save
    engine = tiny.make_engine(1)
    return {
        "kept": kept(f"{root}/kept", engine),
        "again": again(f"{root}/again", engine),
        "behind": behind(f"{root}/behind", engine),
        "retried": retried(f"{root}/retried", engine),
        "failed": failed(f"{root}/failed", engine),
        "leftover": leftover(f"{root}/leftover", engine),
        "players": players(f"{root}/players"),
        "s3": on_s3(f"{bucket}/run", engine),
        "plain": plain_files(f"{root}/plain", engine),
    }


def writer(url: str, **given: Any) -> Any:
    from lumiray.train.checkpoint import Checkpointer

    return Checkpointer(url, **given)


def put(one: Any, step: int, engine: Any, **metrics: float) -> None:
    one.save(step, {"player": engine}, {"step": step}, metrics)
    one.wait()


def steps(url: str) -> list[int]:
    from lumiray.train.manifest import complete

    return [one.step for one in complete(url)]


def kept(url: str, engine: Any) -> dict[str, Any]:
    """Steps that are there after each save; 1 is held by somebody, a restarted writer knows the best."""
    found = []
    one = writer(url, keep=2, best=("recall", "max"))
    for step, recall in enumerate([0.1, 0.9, 0.3, 0.9, float("nan"), 0.2], start=1):
        if step == 5:
            one.close()
            one = writer(url, keep=2, best=("recall", "max"))
        put(one, step, engine, recall=recall, loss=1.0)
        found.append(steps(url))
        if step == 1:
            (Path(url) / "checkpoints" / "step-00000001" / "keep").touch()
    only = writer(f"{url}-one", keep=1)
    for step in (1, 2):
        put(only, step, engine)
    return {
        "steps": found,
        "one": steps(f"{url}-one"),
        "folders": sorted(p.name for p in Path(url, "checkpoints").iterdir()),
    }


def again(url: str, engine: Any) -> list[Any]:
    """A step that is saved twice: the second save replaces the first, file by file new names."""
    from lumiray.train.manifest import latest

    one = writer(url)
    names = []
    for _ in range(2):
        put(one, 4, engine)
        manifest = latest(url)
        assert manifest is not None
        manifest.verify()
        names.append(sorted(file.name for file in manifest.files))
    there = sorted(path.name for path in Path(manifest.url).iterdir())
    return [*names, there]


def behind(url: str, engine: Any) -> dict[str, Any]:
    """Training goes on while the state of before is written; a second save waits for the first."""
    from lumiray.train.checkpoint import export_model
    from lumiray.train.fragments import full_fp32_state
    from lumiray.train.manifest import complete

    one = writer(url)
    expected = []
    for step in range(3):
        expected.append(plain(full_fp32_state(engine)))
        one.save(step, {"player": engine}, {"step": step}, {})
        tiny.train(engine, step, step + 1)
    one.wait()
    saved = [plain(export_model(manifest)) for manifest in reversed(list(complete(url)))]
    return {"expected": expected, "saved": [{k: v for k, v in s.items() if k != "tied.weight"} for s in saved]}


def retried(url: str, engine: Any) -> list[int]:
    """Storage that fails for a while: a file lies where the folder shall be."""
    one = writer(url)
    obstacle = Path(url) / "checkpoints"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    threading.Timer(0.2, obstacle.unlink).start()
    put(one, 1, engine)
    return steps(url)


def failed(url: str, engine: Any) -> dict[str, Any]:
    """Storage that fails for good: one clear error at the next save; mended, it saves again."""
    from lumiray.errors import RunFailure

    one = writer(url)
    obstacle = Path(url) / "checkpoints"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    one.save(1, {"player": engine}, {"step": 1}, {})
    said = ""
    try:
        one.save(2, {"player": engine}, {"step": 2}, {})
    except RunFailure as error:
        said = str(error)
    obstacle.unlink()
    put(one, 3, engine)
    one.close()
    return {"said": said, "steps": steps(url)}


def leftover(url: str, engine: Any) -> dict[str, Any]:
    """A run that was killed before the manifest: its folder does not count, and the next start clears it away."""
    one = writer(url)
    for step in (1, 2):
        put(one, step, engine)
    (Path(url) / "checkpoints" / "step-00000002" / "manifest.json").unlink()
    before = steps(url)
    writer(url)
    return {"before": before, "folders": sorted(path.name for path in Path(url, "checkpoints").iterdir())}


def players(url: str) -> dict[str, Any]:
    """Two engines of different stages in one checkpoint."""
    from lumiray.train.checkpoint import latest, restore
    from lumiray.train.fragments import full_fp32_state

    def engines(seed: int) -> dict[str, Any]:
        return {"one": tiny.make_engine(2, seed=seed), "two": tiny.make_engine(3, "bf16", seed=seed + 1)}

    first, second = engines(1), engines(8)
    one = writer(url)
    one.save(1, first, {"step": 1}, {})
    one.wait()
    manifest = latest(url)
    assert manifest is not None
    restore(manifest, second)
    return {name: [plain(full_fp32_state(group[name])) for group in (first, second)] for name in ("one", "two")}


def on_s3(url: str, engine: Any) -> dict[str, Any]:
    """The same on S3: saved, pruned, found, verified, restored, exported, and a damaged file refused."""
    from lumiray.errors import RunFailure
    from lumiray.storage import join, list_names, write_atomically
    from lumiray.train.checkpoint import export_model, latest, open_checkpoint, restore
    from lumiray.train.fragments import full_fp32_state

    one = writer(url, keep=2)
    for step in (1, 2, 3):
        tiny.train(engine, step, step + 1)
        put(one, step, engine)
    manifest = latest(url)
    assert manifest is not None
    manifest.verify()
    other = tiny.make_engine(3, seed=4)
    position = restore(open_checkpoint(url), {"player": other})
    found = {
        "steps": steps(url),
        "folders": list_names(join(url, "checkpoints")),
        "position": position,
        "files": len(manifest.files),
        "same": plain(full_fp32_state(other)) == plain(full_fp32_state(engine)),
        "exported": plain(export_model(manifest))["scale"] == plain(full_fp32_state(engine))["scale"],
    }
    write_atomically(join(manifest.url, manifest.files[1].name), b"x" * manifest.files[1].size)
    try:
        restore(manifest, {"player": other})
    except RunFailure as error:
        found["said"] = str(error)
    return found


def plain_files(url: str, engine: Any) -> list[int]:
    """Three checkpoints for the tests that damage copies of them."""
    one = writer(url, identity={"code": "abc", "nested": {"lr": 0.1}})
    for step in (10, 20, 30):
        tiny.train(engine, step, step + 1)
        put(one, step, engine, recall=step / 100)
    return steps(url)
