"""`--help` answers at once: what a command needs is imported where it is needed, not where it is parsed."""

from __future__ import annotations

from tests.house.sources import help_of

HEAVY = {
    "torch",
    "ray",
    "deepspeed",
    "open_clip",
    "torchvision",
    "cv2",
    "PIL",
    "pyarrow",
    "s3fs",
    "tensorboard",
    "optuna",
}


def test_the_help_of_lumiray_imports_neither_torch_nor_ray_nor_numpy() -> None:
    text, loaded = help_of("lumiray")
    assert "shards" in text
    assert "doctor" in text
    assert loaded & (HEAVY | {"numpy", "yaml", "tyro"}) == set()


def test_the_help_of_a_job_imports_neither_torch_nor_ray() -> None:
    text, loaded = help_of("jobs/clip_pretrain.py")
    assert "--shards" in text
    assert loaded & (HEAVY | {"numpy"}) == set()
    for job, own in (
        ("jobs/restore_finetune.py", "--crop-size"),
        ("jobs/restore_evaluate.py", "--worst"),
        ("jobs/search.py", "--scheduler"),
    ):
        text, loaded = help_of(job, "cidnet")
        assert own in text and "--crop-size" in text
        assert loaded & (HEAVY | {"numpy"}) == set()
    for job, *more in (("jobs/glip_pseudo_label.py",), ("lumiray", "ground")):
        text, loaded = help_of(job, *more)
        assert "--threshold" in text and "--vocabulary" in text
        assert loaded & (HEAVY | {"numpy", "spacy"}) == set()
