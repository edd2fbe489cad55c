"""A study as one HTML page that needs no server: parallel coordinates, curves, slices, importance, cost, all trials."""

from __future__ import annotations

from pathlib import Path

from lumiray.evaluate.page import page
from lumiray.evaluate.report import REPORT, Chart
from lumiray.storage import join, write_atomically
from lumiray.tune.charts import bars, cost, curves, front_chart, parallel, slices
from lumiray.tune.generations import lineage
from lumiray.tune.study import JOB, Study
from lumiray.tune.summary import columns, counted, row_of, searched, sought


def write_study_report(study: Study, output: str, name: str) -> str:
    """Write `report.html` into a study's output, local or s3://; returns its address."""
    trials, best, fields = study.trials(), study.best(), searched(study)
    metric = study.metric
    better = min if study.metrics[0].lowest else max
    front = study.front() if len(study.metrics) > 1 else [best] if best else []
    end = f"best: {best.value:.6g} of trial {best.number}" if best else "none is done yet"
    if len(front) > 1:
        end = f"{len(front)} trials on the front; {end.replace(':', f' {metric}:')}"
    charts = [
        *(
            Chart(
                f"{metric} and {other.name}",
                "Trials that are done; those on the line are the Pareto front of all metrics.",
                front_chart(trials, front, place, other.name),
            )
            for place, other in enumerate(study.metrics[1:], 1)
        ),
        Chart("Learning curves", f"{metric} at each evaluation.", curves(trials, best)),
        *(
            Chart(
                "Importance" if len(study.metrics) == 1 else f"Importance for {one.name}",
                "Share of the variation among trials that are done which a field explains (PED-ANOVA).",
                bars(study.importance(place)),
            )
            for place, one in enumerate(study.metrics)
        ),
        Chart(
            "Cost and gain",
            f"{metric} of trials that are done, over the hours of all trials up to each; the line is the best so far.",
            cost(trials, best, better),
        ),
        *(
            Chart(field, f"{metric} of trials that are done.", slices(trials, best, field, words))
            for field, words in fields.items()
        ),
    ]
    content = page(
        "study.html.jinja",
        Path(__file__).parent,
        name=name,
        status=f"{sought(study)}; {counted(trials)}; {end}",
        parallel=parallel(trials, best, fields, metric),
        charts=charts,
        columns=columns(study),
        taken=[line.strip() for one in trials for line in lineage(one.number, one.generations)],
        rows=[("best" if one in front else one.state, row_of(one, study)) for one in trials],
        settings=[(key, value) for key, value in study.about.items() if key != JOB],
    )
    place = join(output, REPORT)
    write_atomically(place, content)
    return place
