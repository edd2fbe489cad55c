"""`--help` answers at once: what a command needs is imported where it is needed, not where it is parsed."""

from __future__ import annotations

from tests.house.sources import help_of

HEAVY = {"torch", "ray", "deepspeed", "open_clip", "torchvision", "cv2", "PIL", "pyarrow", "s3fs", "tensorboard"}


def test_the_help_of_lumiray_imports_neither_torch_nor_ray_nor_numpy() -> None:
    text, loaded = help_of("lumiray")
    assert "shards" in text
    assert "doctor" in text
    assert loaded & (HEAVY | {"numpy", "yaml", "tyro"}) == set()


def test_the_help_of_a_job_imports_neither_torch_nor_ray() -> None:
    text, loaded = help_of("jobs/clip_pretrain.py")
    assert "--shards" in text
    assert loaded & (HEAVY | {"numpy"}) == set()
    text, loaded = help_of("jobs/restore_finetune.py", "cidnet")
    assert "--crop-size" in text
    assert loaded & (HEAVY | {"numpy"}) == set()
    text, loaded = help_of("jobs/restore_evaluate.py", "cidnet")
    assert "--worst" in text and "--crop-size" in text
    assert loaded & (HEAVY | {"numpy"}) == set()
