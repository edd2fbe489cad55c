"""The `lumiray` command: shards, doctor, export, ground, report, status, study, systems.  Jobs are scripts in jobs/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

from lumiray import __version__
from lumiray.errors import UserError


def _shards_make(given: argparse.Namespace) -> None:
    from lumiray.data.annotations import annotated_rows
    from lumiray.data.parallel import ray_map
    from lumiray.data.write import make_shards
    from lumiray.train.cluster import start_ray

    if given.pictures is not None and given.format is None:
        raise UserError("--pictures is for SOURCE with boxes: say its --format, coco, odvg or flickr.")
    if given.label_map is not None and given.format != "odvg":
        raise UserError("--label-map is for lines of boxes: say --format odvg, whose labels are numbers.")
    boxes = annotated_rows(given.source, given.format, given.pictures, given.label_map) if given.format else None
    made = make_shards(
        given.source if boxes is None else boxes,
        given.output,
        rows_per_shard=given.rows_per_shard,
        skip_missing=given.skip_missing,
        captions=not (given.no_captions or given.format),
        shard_map=partial(ray_map, start=start_ray),
    )
    print(made)


def _shards_info(given: argparse.Namespace) -> None:
    from lumiray.data.describe import describe

    print(describe("::".join(given.shards)))


def _shards_verify(given: argparse.Namespace) -> None:
    from lumiray.data.verify import verify
    from lumiray.errors import RunFailure

    problems = verify("::".join(given.shards))
    for problem in problems:
        print(problem)
    if problems:
        raise RunFailure(f"{len(problems)} problems found.")
    print("no problems found")


def _doctor(given: argparse.Namespace) -> None:
    from lumiray.doctor import run_doctor

    run_doctor(given.output, "::".join(given.shards) if given.shards else None)


def _export(given: argparse.Namespace) -> None:
    from lumiray.train.export import export_run

    print(export_run(given.run, given.format, given.output, given.checkpoint))


def _ground(given: argparse.Namespace) -> None:
    from lumiray.evaluate.ground_options import read_ground_command

    command = read_ground_command(given.line, "Draw boxes around what phrases speak of in a picture.")
    from lumiray.evaluate.ground_picture import ground_picture  # after the line was read: help imports less

    print(ground_picture(command))


def _report(given: argparse.Namespace) -> None:
    from lumiray.evaluate.report import write_report

    print(write_report(given.run))


def _status(given: argparse.Namespace) -> None:
    from lumiray.run_status import run_status

    print(run_status(given.run))


def _study_show(given: argparse.Namespace) -> None:
    from lumiray.tune.summary import shown

    print(shown(given.study, given.storage))


def _study_best(given: argparse.Namespace) -> None:
    from lumiray.tune.summary import best_settings

    print(best_settings(given.study, given.storage, given.trial), end="")


def _study_repeat(given: argparse.Namespace) -> None:
    from lumiray.tune.repeat import repeat

    print(repeat(given.study, given.trial, given.seeds, given.storage))


def _study_dashboards(given: argparse.Namespace) -> None:
    from lumiray.tune.dashboards import show_dashboards

    show_dashboards(given.study, given.storage, given.port)


def _systems(given: argparse.Namespace) -> None:
    from lumiray.overview import systems

    print(systems())


def _systems_show(given: argparse.Namespace) -> None:
    from lumiray.overview import one_system

    print(one_system(given.system))


def parser() -> argparse.ArgumentParser:
    """The whole command line; imports nothing heavy."""
    top = argparse.ArgumentParser("lumiray", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(metavar="VERB", required=True)

    shards = verbs.add_parser("shards", help="make, describe and verify WebDataset shards")
    kinds = shards.add_subparsers(metavar="VERB", required=True)
    make = _verb(kinds, "make", _shards_make, "write a folder, CSV, parquet or JSON lines as shards")
    make.add_argument(
        "source", help="table of picture paths and captions, folder of both, of KEY.PART.EXT, or lq/ and gt/ in pairs"
    )
    make.add_argument("output", help="folder for the shards, local or s3://")
    make.add_argument("--rows-per-shard", type=int, default=10_000)
    make.add_argument("--skip-missing", action="store_true", help="leave out rows without picture, partner or caption")
    make.add_argument("--no-captions", action="store_true", help="pictures without texts are rows, too")
    make.add_argument("--format", choices=("coco", "odvg", "flickr"), help="SOURCE is boxes in this form")
    make.add_argument("--pictures", help="folder of the pictures that boxes are of (default: their own)")
    make.add_argument("--label-map", help="of odvg: JSON file with the names of all classes by their numbers")
    for name, action, words in (
        ("info", _shards_info, "counts, sizes, extensions, captions"),
        ("verify", _shards_verify, "find truncated, corrupt and duplicate members"),
    ):
        _verb(kinds, name, action, words).add_argument("shards", nargs="+", help="folder, pattern or s3://")

    doctor = _verb(verbs, "doctor", _doctor, "check this machine, the cluster, storage and disk")
    doctor.add_argument("--output", help="where runs will write: folder or s3://")
    doctor.add_argument("--shards", nargs="+", help="shards that runs will read: folder, pattern or s3://")

    export = _verb(verbs, "export", _export, "write a run's weights as one file")
    export.add_argument("run", help="a run's output")
    export.add_argument("--format", default="open_clip", help="open_clip (default) or safetensors")
    export.add_argument("--output", required=True, help="file to write")
    export.add_argument("--checkpoint", help="a checkpoint in place of the newest")

    words = "draw boxes around what phrases speak of in a picture"
    # with a system's options, which are read elsewhere: no word of the line is an option here
    ground = verbs.add_parser("ground", help=words, prefix_chars="\0", add_help=False)
    ground.set_defaults(action=_ground)
    ground.add_argument("line", nargs=argparse.REMAINDER)

    _verb(verbs, "report", _report, "write a run's HTML report").add_argument("run", help="a run's output")
    status = _verb(verbs, "status", _status, "say how a run is: step, speed, last checkpoint, restarts")
    status.add_argument("run", help="a run's output, local or s3://; of one with several stages, all of them")
    looks = verbs.add_parser("study", help="look at a search: its trials, its best settings").add_subparsers(
        required=True
    )
    for name, action, words in (
        ("show", _study_show, "all trials, the best settings, which of them matter"),
        ("best", _study_best, "the best trial's settings as YAML, for --config of a job"),
        ("dashboards", _study_dashboards, "in a browser while it runs: TensorBoard's HParams, optuna-dashboard"),
        ("repeat", _study_repeat, "the best trial and the shared settings under several seeds: is its lead noise"),
    ):
        look = _verb(looks, name, action, words)
        if name in ("best", "repeat"):
            look.add_argument("--trial", type=int, help="another trial than the best one")
        if name == "dashboards":
            look.add_argument("--port", type=int, default=6006, help="of TensorBoard; the next one is the other's")
        if name == "repeat":
            look.add_argument("--seeds", type=int, default=5, help="how many seeds (default 5)")
        look.add_argument("study", help="a search's output, local or s3://")
        look.add_argument("--storage", help="its database, if the search had one: postgresql://USER@HOST/NAME")

    listed = _verb(verbs, "systems", _systems, "list all systems: task, stages, published figures, state")
    one = listed.add_subparsers(metavar="show")
    show = _verb(one, "show", _systems_show, "one system: facts, licences, parameters, settings")
    show.add_argument("system", help="its name, as in the list")
    return top


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    action: Callable[[argparse.Namespace], None],
    words: str,
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=words)
    verb.set_defaults(action=action)
    return verb


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    given = parser().parse_args(arguments)
    try:
        given.action(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
