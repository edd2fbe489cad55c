"""A world of coloured squares for tests of GLIP: a tiny network, rows of a shard, captions."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lumiray.system import Row
from lumizoo.glip.config import GlipConfig
from lumizoo.glip.system import GlipSystem

VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "red", "green", "blue", "square", "left", "right", "##s", "a", "the"),
    *("one", "two", "three", "four", "five", "six", "-", "of"),
)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220)}


def vocabulary(folder: Path) -> str:
    """The path of a small vocabulary."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return str(path)


def tiny(folder: Path, **changed: Any) -> GlipConfig:
    """Settings of a network that a CPU trains."""
    settings: dict[str, Any] = {
        "swin_width": 16,
        "swin_depths": (1, 2, 1, 1),
        "swin_heads": (1, 2, 2, 2),
        "swin_window": 4,
        "drop_path": 0.0,
        "bert_width": 32,
        "bert_layers": 1,
        "bert_heads": 2,
        "bert_hidden": 64,
        "bert_positions": 64,
        "vocabulary_size": len(VOCABULARY),
        "channels": 32,
        "blocks": 1,
        "norm_groups": 8,
        "fusion_width": 64,
        "fusion_heads": 2,
        "max_tokens": 16,
        "vocabulary": vocabulary(folder),
        "train_sides": (64,),
        "short_side": 64,
        "long_side": 96,
        "grad_checkpointing": False,
    }
    return GlipConfig(**settings | changed)


def options_of(config: GlipConfig) -> list[str]:
    """Settings as a command line gives them: those that are not the default."""
    usual, found = GlipConfig(), []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(usual, field.name):
            words = (
                map(str, value)
                if isinstance(value, tuple)
                else [value if isinstance(value, str) else str(value).lower()]
            )
            found += [f"--{field.name.replace('_', '-')}", *words]
    return found


def built(config: GlipConfig) -> GlipSystem:
    """A system with fresh networks, equal each time, in training mode."""
    torch.manual_seed(0)
    system = GlipSystem(config)
    system.build(system.stages()[0])
    return system


def png(picture: np.ndarray) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def row(picture: np.ndarray | bytes, **fields: Any) -> Row:
    """A row of a shard."""
    data = picture if isinstance(picture, bytes) else png(picture)
    return Row("key", {"png": data, "json": json.dumps(fields).encode()}, 0)


def squares(rng: np.random.Generator, height: int = 64, width: int = 64) -> tuple[np.ndarray, dict[str, Any]]:
    """A grey picture with two squares, each in its half, and what a grounding row says of it."""
    picture = (128 + rng.integers(-10, 11, (height, width, 3))).astype(np.uint8)
    names = rng.permutation(list(COLOURS))[:2].tolist()
    boxes, spans, at = [], [], 0
    for number, name in enumerate(names):
        side = int(rng.integers(18, 28))
        left = int(rng.integers(0, width // 2 - side)) + width // 2 * number
        top = int(rng.integers(0, height - side))
        picture[top : top + side, left : left + side] = COLOURS[name]
        boxes.append([left, top, left + side, top + side])
        spans.append([[at, at + len(name)]])
        at += len(name) + len(". ")
    return picture, {"caption": ". ".join(names), "boxes": boxes, "spans": spans}


def prepared(system: GlipSystem, given: Row, seed: int | None = 0) -> dict[str, Any]:
    """The arrays of a row."""
    draw = None if seed is None else np.random.default_rng(seed)
    return system.prepare(system.stages()[0], given, draw)


def batch_of(system: GlipSystem, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch as a worker gets it."""
    return {name: torch.from_numpy(value) for name, value in system.collate(rows).items()}


def total(system: GlipSystem, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch that is the whole global batch."""
    terms = system.losses("glip", batch, 0).values()
    return torch.stack([one.weight * one.sum / max(float(one.count), 1.0) for one in terms]).sum()


def learn(system: GlipSystem, rng: np.random.Generator, steps: int) -> list[float]:
    """Train networks on squares, and leave them in eval mode; the loss of each step."""
    network = system.networks["glip"].eval()  # without dropout, which a few steps cannot average out
    head = network.rpn["head"]
    with torch.no_grad():  # steeper than published, so that tens of steps do for thousands
        head.log_scale.fill_(-3.0)
        for one in head.scales:
            one.scale.fill_(8.0)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    losses = []
    for step in range(steps):
        pairs = [squares(rng) for _ in range(8)]
        rows = [prepared(system, row(picture, **fields), int(rng.integers(1 << 30))) for picture, fields in pairs]
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 10)
        optimizer.zero_grad()
        loss = total(system, batch_of(system, rows))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
