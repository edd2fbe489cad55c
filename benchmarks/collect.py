"""Run every benchmark and keep what it measured: what `make bench` calls.

    python benchmarks/collect.py [--only train_overhead first_step]

Each runs as a process of its own, one after the other, its output passed on as it comes; the last line that it
prints is its result.  All results go to benchmarks/results/<date>.json with versions, machine and commit, written
again after every benchmark, so that an interrupted run keeps what is done.  One that fails is recorded with its exit
code and last lines, the others still run, and the exit code is then 1.  A missed target is shown, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = ("torch", "ray", "deepspeed", "open_clip_torch", "lumiray")
LAST_LINES = 40  # of a benchmark's output, kept when it fails


@dataclass(frozen=True)
class Benchmark:
    """One script of the folder: its arguments, and the targets of its result's keys."""

    name: str
    arguments: tuple[str, ...] = ()
    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)


# every benchmark, and the only place where a target is written as a number
BENCHMARKS = (
    Benchmark("train_overhead", at_most={"ratio_bare": 1.05}),
    Benchmark("against_open_clip", at_least={"ratio_data_bound": 1.2, "ratio_compute_bound": 1.0}),
    Benchmark(
        "loader",
        at_least={
            "ratio_webdataset_steady": 3.0,
            "ratio_webdataset_total": 2.0,
            "ratio_limit": 0.9,
            "ratio_reduced": 1.4,
            "psnr_mean_db": 38.0,
        },
    ),
    Benchmark("first_step", at_most={"first_step_s": 40.0}),
    Benchmark("contrastive_memory", at_most={"ratio_16k_32k": 2.2}),
    Benchmark("gpu_step"),
    Benchmark("glip_step", at_most={"ratio_bare": 1.1}),
    Benchmark("plan", at_most={"ms_per_batch": 10.0, "memory_mb": 100.0}),
    Benchmark("padding", at_most={"ms_per_batch": 10.0}),
    Benchmark("shuffle_quality"),
    Benchmark("restore_train", at_least={"ratio_plain": 1.1}),
    Benchmark("zero_shot_fit", at_least={"ratio_plain": 1.5}),
    Benchmark("restore_throughput", at_least={"ratio_tiled": 0.95}),
    Benchmark("search_overhead", at_most={"ratio_pool": 1.25, "overhead_s": 12.0}),
    Benchmark("scale"),
    Benchmark("many_shards", at_most={"ratio_start": 1.5, "ratio_memory": 1.5}),
)


def run(benchmark: Benchmark, folder: Path) -> dict[str, Any]:
    """Run one benchmark to its end.

    Returns:
        `arguments`, `load_before` (the machine's one-minute load: a quiet one has about 0), `wall_s`, `exit_code`,
        and `result`, or `failure` and `last_lines` where it failed or its last line is no JSON object.
    """
    command = [sys.executable, str(folder / f"{benchmark.name}.py"), *benchmark.arguments]
    record: dict[str, Any] = {
        "arguments": list(benchmark.arguments),
        "load_before": round(os.getloadavg()[0], 2),
    }
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    printed = ""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE.parent
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = threading.Thread(target=_pass_on, args=(process.stderr, sys.stderr, last_lines))
        errors.start()
        printed = _pass_on(process.stdout, sys.stdout, last_lines)
        errors.join()
    record |= {"wall_s": round(time.perf_counter() - begin, 1), "exit_code": process.returncode}
    result = _json_object(printed)
    if process.returncode == 0 and result is not None:
        return record | {"result": result}
    failure = f"exit code {process.returncode}" if process.returncode else "its last line is not a JSON object"
    return record | {"failure": failure, "last_lines": list(last_lines)}


def _pass_on(stream: IO[str], to: IO[str], last_lines: deque[str]) -> str:
    """Print lines as they come and remember them; returns the last one that is not empty."""
    last = ""
    for line in stream:
        print(line, end="", file=to, flush=True)
        last_lines.append(line.rstrip("\n"))
        last = line if line.strip() else last
    return last


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def versions() -> dict[str, str | None]:
    """Of Python and of the packages whose speed is measured; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, GPUs."""
    import psutil

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
    }


def commit() -> dict[str, Any]:
    """The checkout's commit, and whether tracked files differ from it."""
    git = ("git", "-C", str(HERE))
    changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return {"hash": _output(*git, "rev-parse", "HEAD") or None, "changed": bool(changed)}


def _output(*command: str) -> str:
    """What a command prints; nothing where there is no such command, or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def judged(benchmark: Benchmark, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every target of a benchmark with the value that was measured, and whether it is met (None: not measured)."""
    result = record.get("result", {})
    bounds = [(key, "<=", bound) for key, bound in benchmark.at_most.items()]
    bounds += [(key, ">=", bound) for key, bound in benchmark.at_least.items()]
    found = []
    for key, sense, bound in bounds:
        value = result.get(key)
        met = None if value is None else value <= bound if sense == "<=" else value >= bound
        found.append({"key": key, "value": value, "target": f"{sense} {bound:g}", "met": met})
    return found


def table(benchmarks: Sequence[Benchmark], records: Mapping[str, dict[str, Any]]) -> str:
    """The end of a run, one line per target; benchmarks without a target have a line too."""
    lines = [f"{'benchmark':20s} {'key':22s} {'value':>10s}  target"]
    for benchmark in benchmarks:
        record = records[benchmark.name]
        if "result" not in record:
            lines.append(f"{benchmark.name:20s} FAILED: {record['failure']}")
        elif "skipped" in record["result"]:
            lines.append(f"{benchmark.name:20s} skipped: {record['result']['skipped']}")
        elif not record["targets"]:
            lines.append(f"{benchmark.name:20s} done")
        else:
            for one in record["targets"]:
                value = "-" if one["value"] is None else f"{one['value']:g}"
                verdict = {True: "met", False: "MISSED", None: "not measured"}[one["met"]]
                lines.append(f"{benchmark.name:20s} {one['key']:22s} {value:>10s}  {one['target']} {verdict}")
    return "\n".join(lines)


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write the results whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(file)


def main(
    arguments: list[str],
    benchmarks: Sequence[Benchmark] = BENCHMARKS,
    folder: Path = HERE,
    results: Path = RESULTS,
) -> int:
    """Command line; returns the exit code.

    Args:
        folder: where the scripts of `benchmarks` are.
        results: where the file is written.
    """
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    names = [one.name for one in benchmarks]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}")
    given = parser.parse_args(arguments)
    chosen = [one for one in benchmarks if given.only is None or one.name in given.only]
    file = results / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.json"
    records: dict[str, dict[str, Any]] = {}
    about = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": commit()}
    about |= {"versions": versions(), "machine": machine()}
    for benchmark in chosen:
        print(f"== {benchmark.name} {' '.join(benchmark.arguments)}".rstrip(), flush=True)
        record = run(benchmark, folder)
        records[benchmark.name] = record | {"targets": judged(benchmark, record)}
        write(file, about | {"benchmarks": records})
    print(f"\n{table(chosen, records)}\nwritten to {file}")
    return 0 if all("result" in record for record in records.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
