"""Scenes with boxes and captions: emoji of one artist on photographs, as files of COCO's form.

For training there are `captioned` scenes ("a red apple left of a crab", each name's box known) and `named` ones (told
only by names of classes), from Noto's pictures on one part of the photographs; for evaluation `held-out` and
`new-names`, from Twemoji's pictures on other photographs.  The names of `new-names` are in no scene of training, though
each of their words is: there are blue squares and red circles to learn from, and no blue circle.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "emoji"), str(HERE.parent)]

from rows import drawings
from split_photographs import PHOTOGRAPHS, photograph

NAMES = {  # as in a caption: as the emoji is called
    **{name: name for name in ("red apple", "banana", "strawberry", "carrot", "pineapple", "octopus")},
    "bunch of grapes": "grapes",
    **{name: name for name in ("tropical fish", "butterfly", "crab", "guitar", "cactus", "sunflower")},
    **{name: name for name in ("alarm clock", "soccer ball", "blue heart", "yellow heart", "purple heart")},
    **{name: f"large {name}" for name in ("red circle", "green circle", "yellow circle", "blue square")},
    **{name: f"large {name}" for name in ("red square", "purple square")},
    **{name: name for name in ("green book", "orange book")},
}
NEW_NAMES = {
    **{name: name for name in ("green apple", "green heart", "blue book")},
    **{name: f"large {name}" for name in ("blue circle", "purple circle", "yellow square")},
}
SIDE = 192  # of a scene, in pixels
SIZES = (48, 80)  # of an emoji's longer side: from, below
MOST = 4  # emoji of a scene
VISIBLE = 128  # alpha from which a pixel counts for the box
TRIES = 50  # at a free place for one more emoji


@dataclass(frozen=True)
class Placed:
    """An emoji in a scene: its name and its edges left, top, right, bottom in pixels."""

    name: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """A set of scenes.

    Args:
        artist: `noto` or `twemoji`.
        photographs: part of them, `train` or `held-out`.
        names: which emoji: a caption's name to the emoji's own.
        count: of scenes.
        captions: whether a scene has a caption, or names of classes alone.
    """

    artist: str
    photographs: str
    names: dict[str, str]
    count: int
    captions: bool


PARTS = {
    "captioned": Part("noto", "train", NAMES, 500, captions=True),
    "named": Part("noto", "train", NAMES, 3500, captions=False),
    "held-out": Part("twemoji", "held-out", NAMES, 100, captions=False),
    "new-names": Part("twemoji", "held-out", NEW_NAMES, 50, captions=False),
}


def scenes(part: Part, seed: int) -> Iterator[tuple[np.ndarray, list[Placed]]]:
    """Pictures uint8 RGB `(SIDE, SIDE, 3)` with one to `MOST` emoji of different names that do not overlap."""
    draw = np.random.default_rng(seed)
    drawn = {one.name: picture for one, picture in drawings(part.artist)}
    own = {name: _visible(drawn[emoji]) for name, emoji in part.names.items()}
    grounds = [photograph(name) for name in PHOTOGRAPHS[part.photographs]]
    for _ in range(part.count):
        scene = Image.fromarray(_ground(grounds[draw.integers(len(grounds))], draw))
        placed: list[Placed] = []
        wanted = draw.permutation(list(own))[: draw.integers(1, MOST + 1)]
        for name in wanted.tolist():
            picture = _resized(own[name], int(draw.integers(*SIZES)))
            box = _free_place(picture.size, [one.box for one in placed], draw)
            if box is not None:
                scene.paste(picture, box[:2], picture)
                placed.append(Placed(name, box))
        yield np.asarray(scene), placed


def caption_of(placed: list[Placed]) -> tuple[str, list[list[int]]]:
    """A caption of a scene and the span [begin, end) of each name in it; of two emoji it says how they lie."""
    joints = [", "] * (len(placed) - 1)
    if len(placed) == 2:
        joints = [f" {_relation(*placed)} "]
    elif joints:
        joints[-1] = " and "
    text, spans = "", []
    for one, joint in zip(placed, [*joints, ""], strict=True):
        text += "an " if one.name[0] in "aeiou" else "a "
        spans.append([len(text), len(text) + len(one.name)])
        text += one.name + joint
    return text, spans


def write_scenes(folder: Path, name: str) -> Path:
    """Pictures of a part and `boxes.json` of COCO's form; returns that file."""
    part = PARTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    numbers = {name: number for number, name in enumerate(part.names)}
    for number, (picture, placed) in enumerate(scenes(part, seed=list(PARTS).index(name))):
        file = f"{number:05d}.png"
        Image.fromarray(picture).save(folder / file)
        text, spans = caption_of(placed)
        images.append({"id": number, "file_name": file} | ({"caption": text} if part.captions else {}))
        for one, span in zip(placed, spans, strict=True):
            left, top, right, bottom = one.box
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": numbers[one.name],
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
                | ({"tokens_positive": [span]} if part.captions else {})
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    file = folder / "boxes.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def vocabulary() -> list[str]:
    """Tokens for the text encoder: every word of a name or a caption, with those that BERT's tokenizer wants."""
    words = {word for name in (*NAMES, *NEW_NAMES) for word in name.split()}
    usual = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", ",", "a", "an", "and", "left", "right", "of", "above", "below")
    return [*usual, *sorted(words)]


def make_scenes(output: Path) -> dict[str, Path]:
    """Pictures, shards and `words.txt` below a folder, but for shards that are there; the shards of each part."""
    from lumiray.data.annotations import annotated_rows
    from lumiray.data.write import make_shards

    output.mkdir(parents=True, exist_ok=True)
    (output / "words.txt").write_text("\n".join(vocabulary()) + "\n")
    shards = {name: output / "shards" / name for name in PARTS}
    for name, folder in shards.items():
        if not (folder / "manifest.json").exists():
            boxes = write_scenes(output / "pictures" / name, name)
            make_shards(annotated_rows(str(boxes), "coco"), str(folder), rows_per_shard=500, captions=False)
    return shards


def training_options(output: Path, shards: dict[str, Path]) -> list[str]:
    """Options of the job for the scenes below a folder: named and captioned ones are mixed."""
    return [
        *("--config", str(HERE / "grounding.yaml"), "--vocabulary", str(output / "words.txt")),
        *("--mix", f"named=7:{shards['named']}", f"captioned=1:{shards['captioned']}"),
        *("--val-shards", str(shards["held-out"])),
    ]


def _visible(drawn: Image.Image) -> Image.Image:
    alpha = drawn.getchannel("A").point(lambda level: 255 * (level >= VISIBLE))
    return drawn.crop(alpha.getbbox())


def _resized(picture: Image.Image, longer: int) -> Image.Image:
    factor = longer / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _ground(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    top, left = (int(draw.integers(side - SIDE + 1)) for side in picture.shape[:2])
    return picture[top : top + SIDE, left : left + SIDE]


def _free_place(
    size: tuple[int, int], taken: list[tuple[int, int, int, int]], draw: np.random.Generator
) -> tuple[int, int, int, int] | None:
    width, height = size
    for _ in range(TRIES):
        left, top = int(draw.integers(SIDE - width + 1)), int(draw.integers(SIDE - height + 1))
        box = (left, top, left + width, top + height)
        if all(box[0] >= two[2] or two[0] >= box[2] or box[1] >= two[3] or two[1] >= box[3] for two in taken):
            return box
    return None


def _relation(one: Placed, two: Placed) -> str:
    (x1, y1), (x2, y2) = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (one.box, two.box))
    if abs(x1 - x2) >= abs(y1 - y2):
        return "left of" if x1 < x2 else "right of"
    return "above" if y1 < y2 else "below"
