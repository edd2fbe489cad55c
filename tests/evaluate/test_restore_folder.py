"""A folder restored by a trained system: names, forms, what is there, what is left out, weights of every kind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_restorer import SmallConfig, SmallRestorer

import lumizoo
from lumiray import storage
from lumiray.data.picture_file import Picture, png, read_picture
from lumiray.errors import RunFailure, UserError
from lumiray.evaluate.picture_folder import Summary
from lumiray.evaluate.restore_folder import restore_folder, result_name
from lumiray.evaluate.restore_options import read_restore_command
from lumiray.evaluate.run_weights import settings_of_run
from lumiray.evaluate.tile_size import Memory, chosen_tiling, difference, measured_memory
from lumiray.evaluate.tiling import restore_tiled, tiling_of

TINY = {"channels": (4, 4, 8, 8), "heads": (1, 2, 2, 4)}
SIZES = ("--channels", "4", "4", "8", "8", "--heads", "1", "2", "2", "4")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A published file of a small network."""
    torch.manual_seed(0)
    system = lumizoo.load("cidnet", **TINY)
    torch.save(system.networks["cidnet"].state_dict(), tmp_path / "tiny.pth")
    return str(tmp_path / "tiny.pth")


def levels(height: int, width: int, channels: int = 3, kind: type = np.uint8) -> np.ndarray:
    top = np.iinfo(kind).max
    return np.random.default_rng(0).integers(0, top // 3, (height, width, channels), dtype=kind)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "color.png").write_bytes(png(Picture(levels(33, 40))))
    (folder / "deep.png").write_bytes(
        png(Picture(levels(20, 17, kind=np.uint16), levels(20, 17, 1, np.uint16)[..., 0]))
    )
    (folder / "grey.png").write_bytes(png(Picture(levels(9, 90, 1))))
    (folder / "one.png").write_bytes(png(Picture(levels(1, 1))))
    Image.fromarray(levels(24, 24)).save(folder / "<b>.JPG")
    (folder / "notes.txt").write_text("no picture")
    return folder


def restored(photos: Path | str, output: Path | str, weights: str, *options: str) -> Summary:
    line = ["cidnet", *SIZES, "--weights", weights, "--input", str(photos), "--output", str(output), *options]
    return restore_folder(read_restore_command(line, ""))


def test_a_folder_is_as_each_picture_alone_and_is_not_done_twice(
    photos: Path, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    done = restored(photos, output, weights)
    assert (done.restored, done.left_out, done.there) == (5, 0, 0)
    assert sorted(os.listdir(output)) == ["<b>.png", "color.png", "deep.png", "grey.png", "one.png"]
    net = lumizoo.load("cidnet", weights=weights, **TINY)
    for name in ("color.png", "grey.png", "one.png", "<b>.png"):
        given = Image.open(photos / name.replace("<b>.png", "<b>.JPG"))
        assert np.array_equal(np.asarray(Image.open(output / name)), np.asarray(net.restore(given))), name
    deep = read_picture((output / "deep.png").read_bytes())
    assert deep.color.dtype == np.uint16
    assert np.array_equal(deep.alpha, levels(20, 17, 1, np.uint16)[..., 0])
    (output / "one.png").unlink()
    again = restored(photos, output, weights)
    assert (again.restored, again.there) == (1, 4)
    assert "(1 of 1)" in capsys.readouterr().out


def test_forms_and_names() -> None:
    assert [result_name(name, "png") for name in ("a.jpg", "b.c.PNG", "d.tiff")] == ["a.png", "b.c.PNG", "d.png"]
    assert [result_name(name, "jpeg") for name in ("a.JPG", "b.jpeg", "d.png")] == ["a.JPG", "b.jpeg", "d.jpg"]
    assert result_name("a.png", "webp") == "a.webp"


def test_what_cannot_be_restored_is_left_out_and_named_at_the_end(photos: Path, tmp_path: Path, weights: str) -> None:
    (photos / "broken.webp").write_bytes(b"RIFF")
    with pytest.raises(RunFailure) as told:
        restored(photos, tmp_path / "out", weights, "--format", "jpeg", "--compare", str(tmp_path / "page.html"))
    text = str(told.value)
    assert told.value.exit_code == 1
    assert text.startswith("2 of 6 pictures could not be restored:\n")
    assert "left out: broken.webp: not a picture (4 bytes)" in text
    assert "left out: deep.png: JPEG has no transparency" in text
    assert sorted(os.listdir(tmp_path / "out")) == ["<b>.JPG", "color.jpg", "grey.jpg", "one.jpg"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == 3 * 4
    assert "&lt;b&gt;.JPG" in page and "<b>.JPG" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_folders_on_s3(photos: Path, tmp_path: Path, weights: str, s3: str) -> None:
    for name in ("color.png", "one.png"):
        storage.write_atomically(f"{s3}/in/{name}", (photos / name).read_bytes())
    storage.write_atomically(f"{s3}/tiny.pth", Path(weights).read_bytes())
    done = restored(f"{s3}/in", f"{s3}/out", f"{s3}/tiny.pth", "--compare", f"{s3}/page.html")
    assert done.restored == 2
    restored(photos, tmp_path / "out", weights)
    assert storage.read_bytes(f"{s3}/out/color.png") == (tmp_path / "out" / "color.png").read_bytes()
    assert b"color.png" in storage.read_bytes(f"{s3}/page.html")


def test_tiles_are_cut_and_their_difference_is_said(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(png(Picture(levels(70, 120))))
    restored(tmp_path / "in", tmp_path / "tiled", weights, "--tile", "64")
    restored(tmp_path / "in", tmp_path / "whole", weights, "--tile", "none")
    lines = capsys.readouterr().out.splitlines()
    assert "in tiles that overlap by 16: not quite as without tiles" in lines[0]
    assert "a.png: 120 x 70, 6 tiles of 64" in lines[1]
    assert "at most (measured on the middle 96 x 64 of this picture)" in lines[1]
    assert "differ" not in lines[2]
    assert "in one piece" in lines[4]
    one, other = (read_picture((tmp_path / folder / "a.png").read_bytes()).color for folder in ("tiled", "whole"))
    assert one.shape == other.shape and not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["cidnet", "--input", "IN", "--output", "o"], "--weights is missing: without them the network is random"),
        (["cidnet", "--weights", "nowhere.pth", "--input", "IN", "--output", "o"], r"nowhere\.pth: no such file"),
        (
            ["clip", "--weights", "openai", "--input", "IN", "--output", "o"],
            "clip restores no pictures; these do: cidnet",
        ),
        (["cidnett", "--input", "IN", "--output", "o"], "Did you mean 'cidnet'"),
        (["zs-n2n", "--input", "IN", "--output", "o"], "zs-n2n is not trained"),
        (["--input", "IN", "--output", "o"], "Say first which system"),
        (["cidnet", "--weights", "w", "--input", "nowhere", "--output", "o"], "nowhere"),
        (["cidnet", "--weights", "w", "--input", "IN", "--output", "IN"], "is the input"),
        (["cidnet", "--weights", "w", "--input", "IN", "--output", "o", "--tile", "small"], "--tile is 'small'"),
        (["cidnet", "--weights", "w", "--input", "IN", "--output", "o", "--tile", "8"], "--tile is 8"),
        (["cidnet", "--weights", "EMPTY", "--input", "IN", "--output", "o"], "is no checkpoint and holds none"),
        (["cidnet", "--weights", "CLIP_RUN", "--input", "IN", "--output", "o"], "for the system 'clip'"),
    ],
)
def test_bad_options_are_refused_by_name(photos: Path, tmp_path: Path, line: list[str], told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("system: clip\n")
    places = {"IN": str(photos), "EMPTY": str(tmp_path / "empty"), "CLIP_RUN": str(tmp_path / "run")}
    with pytest.raises(UserError, match=told) as raised:
        restore_folder(read_restore_command([places.get(word, word) for word in line], ""))
    assert raised.value.exit_code == 2
    assert not Path("o").exists()


def test_a_run_s_checkpoint_brings_its_settings(
    photos: Path, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumiray.train import manifest, restore

    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000010").mkdir(parents=True)
    (run / "config.yaml").write_text("system: cidnet\nchannels: [4, 4, 8, 8]\nheads: [1, 2, 2, 4]\nweights: gone.pth\n")
    state = {f"cidnet.{name}": value for name, value in torch.load(weights, weights_only=True).items()}
    monkeypatch.setattr(manifest, "open_checkpoint", lambda url: url)
    monkeypatch.setattr(restore, "export_model", lambda found: state)
    restored(photos, tmp_path / "published", weights)
    for number, place in enumerate((run, run / "checkpoints" / "step-00000010")):
        output = tmp_path / f"own-{number}"
        line = ["cidnet", "--weights", str(place), "--input", str(photos), "--output", str(output)]
        restore_folder(read_restore_command(line, ""))
        assert (output / "color.png").read_bytes() == (tmp_path / "published" / "color.png").read_bytes()


def test_a_run_of_a_system_that_loads_no_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("system: small\n")
    monkeypatch.setattr("lumiray.settings_file.config_class", lambda slug: SmallConfig)
    with pytest.raises(UserError, match="small has no setting for weights"):
        settings_of_run("small", str(tmp_path))


def test_tiles_are_chosen_by_memory_only_where_the_result_does_not_depend_on_them() -> None:
    bounded, whole = SmallRestorer.made(), lumizoo.load("cidnet", **TINY)
    for pixels, side in ((1 << 30, 1024), (2 * 400**2, 384)):
        found = chosen_tiling("auto", bounded, Memory(1.0, float(pixels)), CPU)
        assert found is not None and found.side == side
    for free in (1e9, 2 * 300_000.0):
        found = chosen_tiling("auto", whole, Memory(1.0, free), CPU)
        assert found is not None and found.side == 512
    with pytest.raises(UserError, match=r"--tile auto: a tile of 512 x 512 takes about .* GiB of the .* that are free"):
        chosen_tiling("auto", whole, Memory(1000.0, 1e6), CPU)
    assert chosen_tiling("none", whole, Memory(1000.0, 1e6), CPU) is None
    on_gpu = chosen_tiling("64", whole, Memory(1.0, 64.0**2 * 2 * 5), torch.device("cuda"))
    assert on_gpu is not None and on_gpu.at_once == 5


def test_memory_is_measured_and_grows_with_the_width_of_the_network() -> None:
    tiny = measured_memory(lumizoo.load("cidnet", **TINY), CPU, 1)
    published = measured_memory(lumizoo.load("cidnet"), CPU, 2)
    assert 50 < tiny.per_pixel < published.per_pixel < 5000
    assert published.free < tiny.free


def test_the_difference_is_measured_without_rounding_and_is_nothing_where_the_field_is_bounded() -> None:
    bounded, whole = SmallRestorer.made(), lumizoo.load("cidnet", **TINY)
    picture = levels(150, 100)
    apart = difference(bounded.restore, picture, tiling_of(64, bounded.receptive_field, bounded.multiple))
    assert apart.most < 0.05
    assert (apart.height, apart.width) == (96, 64)
    assert difference(whole.restore, picture, tiling_of(64, None, 8)).most > 0.05


def test_results_do_not_depend_on_the_picture_s_place_in_memory(weights: str) -> None:
    net = lumizoo.load("cidnet", weights=weights, **TINY)
    picture = levels(40, 60)
    flipped = np.ascontiguousarray(picture[:, ::-1])[:, ::-1]
    assert np.array_equal(restore_tiled(net.restore, flipped, None, True), net.restore(picture))
