"""A run as one HTML page that needs no server: figures, curves, settings, and pictures to look at."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lumiray.errors import UserError
from lumiray.evaluate.chart import Line, line_chart
from lumiray.evaluate.page import page
from lumiray.storage import absolute, base_name, exists, join, list_names, read_bytes, write_atomically

REPORT, SHEET = "report.html", "sheet.png"


@dataclass(frozen=True)
class Chart:
    """A chart with its title and one sentence on how to read it."""

    title: str
    words: str
    svg: str


def write_report(run: str) -> str:
    """Write `report.html` into a run's folder, local or s3://; returns its address.

    Parts that a run does not have are left out with a sentence.

    Raises:
        UserError: there is no such folder.
    """
    if not _is_there(run):
        raise UserError(f"{run}: there is no such run. Give the folder that the job wrote as --output.")
    rows = read_rows(run)
    scores = read_scores(run)
    content = page(
        "report.html.jinja",
        name=base_name(absolute(run)),
        status=status_line(_json(run, "status.json"), rows),
        headline=headline(scores, rows),
        basis=basis(scores, rows),
        scores=scores,
        charts=charts(rows),
        settings=list(flat(_yaml(run, "config.yaml")).items()),
        sheet=base64.b64encode(read_bytes(join(run, SHEET))).decode() if exists(join(run, SHEET)) else None,
    )
    place = join(run, REPORT)
    write_atomically(place, content)
    return place


def read_rows(run: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; a last line cut by a kill is left out.

    `time_s` begins anew where a run was resumed; here it goes on, so that it is the time spent in all.
    """
    place = join(run, "metrics.jsonl")
    rows: list[dict[str, Any]] = []
    before = last = 0.0
    for line in read_bytes(place).decode(errors="replace").splitlines() if exists(place) else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["kind"] == "start" or row["time_s"] < last:
            before, last = before + last, 0.0
        last = row["time_s"]
        rows.append(row | {"time_s": before + last})
    return rows


def read_scores(run: str) -> list[dict[str, Any]]:
    """What `clip_evaluate.py` wrote into the run's folder, and `restore_evaluate.py` into folders there, oldest first.

    Files without figures are passed over.
    """
    names = list_names(join(run, "scores"))
    found = [_json(run, f"scores/{name}" if name.endswith(".json") else f"scores/{name}/scores.json") for name in names]
    scores = [one for one in found if one and isinstance(one.get("metrics"), dict)]
    return sorted(scores, key=lambda one: one.get("time", 0.0))


def status_line(status: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]]) -> str:
    """How the run ended, or where it is if it has not ended since it was last started."""
    logged = rows[-1]["step"] if rows else 0
    if status is None or status["step"] < logged:
        return f"no end recorded: running or killed, logged to step {logged:,}" if rows else "nothing logged yet"
    return f"{status['state']} at step {status['step']:,}"


def charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss, accuracy, throughput, waiting, learning rate and gradient norm."""
    training = [row for row in rows if row.get("kind") == "train"]
    name, unit_s = time_unit(max((row["time_s"] for row in training), default=0.0))
    timed = [{**row, name: row["time_s"] / unit_s} for row in training]

    def single(title: str, words: str, column: str, x: str = "step", percent: bool = False) -> Chart:
        lines = [Line(column, _points(training if x == "step" else timed, x, column))]
        return Chart(title, words, line_chart(lines, x, percent=percent))

    return [
        single("Loss", "Of each logged step.", "loss"),
        *accuracy_charts([row for row in rows if row.get("kind") == "evaluation"]),
        single("Throughput", "Samples per second over all workers.", "samples_per_s", name),
        single(
            "Waiting for data",
            "Share of the time in which the next batch was not there yet.",
            "data_wait_share",
            name,
            percent=True,
        ),
        single("Learning rate", "As set before each step.", "lr"),
        single("Gradient norm", "Global, before clipping.", "grad_norm"),
    ]


def accuracy_charts(evaluations: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Recall of retrieval, accuracy of zero-shot classification, PSNR of restoration: what was evaluated."""
    words = "On the evaluation shards during training."
    both = (("text_to_image", "text to picture"), ("image_to_text", "picture to text"))
    recall = [
        Line(f"{name} R@{k}", _points(evaluations, "step", f"{column}_R@{k}")) for column, name in both for k in (1, 10)
    ]
    quality = [Line(name, _points(evaluations, "step", name)) for name in ("psnr", "psnr_gt_mean")]
    if any(line.points for line in quality):
        return [Chart("PSNR in dB", words, line_chart(quality, "step", from_zero=False))]
    found = [Chart("Recall", words, line_chart(recall, "step", percent=True))]
    accuracy = [Line(f"top {k}", _points(evaluations, "step", f"zero_shot_top{k}")) for k in (1, 5)]
    if any(line.points for line in accuracy):
        found.append(Chart("Zero-shot accuracy", words, line_chart(accuracy, "step", percent=True)))
    return found


def _points(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    return [(row[x], row[y]) for row in rows if row.get(y) is not None]


def time_unit(longest_s: float) -> tuple[str, float]:
    """What times up to this one are written in: a name, and its seconds."""
    return next(
        (name, unit_s)
        for name, unit_s in (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
        if longest_s > 3 * unit_s or unit_s == 1.0
    )


def headline(scores: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The figures that people look for first: (value, what it is); the last evaluation of all counts."""
    metrics = scores[-1]["metrics"] if scores else _last_evaluation(rows)
    names = (
        ("text_to_image_R@1", "text to picture, R@1", "{:.1%}"),
        ("text_to_image_R@10", "text to picture, R@10", "{:.1%}"),
        ("image_to_text_R@10", "picture to text, R@10", "{:.1%}"),
        ("zero_shot_top1", "zero-shot, top 1", "{:.1%}"),
        ("psnr", "PSNR", "{:.2f} dB"),
        ("ssim", "SSIM", "{:.4f}"),
    )
    found = [
        (form.format(metrics[name]).replace("%", " %"), words)
        for name, words, form in names
        if metrics.get(name) is not None
    ]
    training = [row for row in rows if row.get("kind") == "train"]
    if training:
        loss = training[-1].get("loss")
        found.append(("not finite" if loss is None else f"{loss:.3f}", "loss at the end"))
    speeds = sorted(row["samples_per_s"] for row in training if row.get("samples_per_s") is not None)
    if speeds:
        found.append((f"{speeds[len(speeds) // 2]:,.0f}/s", "samples, median"))
    return found


def basis(scores: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> str:
    """What the accuracies of the headline were measured on; empty if there are none."""
    if scores:
        return f"Accuracy is of the evaluation on {scores[-1].get('val_shards', 'shards that were not named')}."
    last = _last_evaluation(rows)
    return f"Accuracy is of the evaluation at step {last['step']:,}." if last else ""


def _last_evaluation(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((row for row in reversed(rows) if row.get("kind") == "evaluation"), {})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _is_there(run: str) -> bool:
    """Whether there is anything in the folder: S3 has no folders, only names."""
    return bool(list_names(run))


def _json(run: str, name: str) -> dict[str, Any] | None:
    """A JSON object of the run; None if there is none, or if what is there is none."""
    place = join(run, name)
    if not exists(place):
        return None
    try:
        found = json.loads(read_bytes(place))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _yaml(run: str, name: str) -> dict[str, Any]:
    place = join(run, name)
    return (yaml.safe_load(read_bytes(place)) or {}) if exists(place) else {}
