"""What `lumiray study` prints, and that its best settings are a job's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tune.studies import SPACE, begun, small_study

from lumiray.cli import main
from lumiray.command import parse
from lumiray.tune.summary import named_study


@pytest.fixture
def output(tmp_path: Path) -> str:
    small_study(tmp_path / "brighter")
    return str(tmp_path / "brighter")


def test_show_names_every_trial_the_best_and_the_reasons(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "show", output]) == 0
    text = capsys.readouterr().out
    assert "brighter: cidnet, highest psnr; 3 done, 1 failed" in text
    assert "best: trial 1, psnr 22.5" in text
    assert "trial 3: step 3: the loss is not finite" in text
    page = (Path(output) / "report.html").read_text()
    assert text.rstrip().endswith("report.html")
    assert page.count("<polyline") >= 3
    assert "http" not in page.replace("http-equiv", "")  # it needs nothing from elsewhere
    assert len([line for line in text.splitlines() if " done " in line]) == 3


def test_of_two_metrics_the_front_is_shown_and_any_of_it_can_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "both")
    study = begun(Path(output), "psnr,-loss")
    for number, figures in enumerate(((20.0, 1.0), (25.0, 3.0), (19.0, 1.5))):
        study.report(study.ask(SPACE, "random", 0).number, 10, figures[0])
        study.finish(number, "done", figures)
    assert main(["study", "show", output]) == 0
    text = capsys.readouterr().out
    assert "both: cidnet, highest psnr and lowest loss; 3 done" in text
    assert "    trial 1: psnr 25, loss 3\n    trial 0: psnr 20, loss 1\n" in text
    assert "trial 2: psnr" not in text
    page = (Path(output) / "report.html").read_text()
    assert "<h2>psnr and loss</h2>" in page
    assert page.count('class="dot best"') >= 2
    assert main(["study", "best", output, "--trial", "0"]) == 0
    assert capsys.readouterr().out.startswith("# trial 0 of study both: psnr 20, loss 1\n")


def test_best_is_the_configuration_of_a_job(output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "best", output]) == 0
    (tmp_path / "best.yaml").write_text(capsys.readouterr().out)
    job = parse("cidnet", ["--config", str(tmp_path / "best.yaml"), "--output", "o"]).job
    best = named_study(output, None).best()
    assert best is not None
    assert (job.run.lr, list(job.system.channels)) == (best.values["lr"], best.values["channels"])
    assert job.run.output == "o"


def test_where_there_is_no_study_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "show", str(tmp_path)]) == 2
    assert "there is no study (study.db)" in capsys.readouterr().err
