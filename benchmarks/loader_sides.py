"""The loaders that loader.py compares: one side in a process of its own, the times at which it has batches.

    python benchmarks/loader_sides.py SIDE SHARDS ROWS BATCH PROCESSES

Every side is a generator of collated pictures in this process, uint8 (B, 3, 224, 224), from the same WebDataset
shards: decoded, cropped at random (0.9 to 1 of the area), resized to 224 (bicubic, antialiased), half of them flipped.
`webdataset-untouched` has open_clip's own transform instead: no flip, normalised fp32.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish

if TYPE_CHECKING:
    from torch import Tensor

SOURCES = [str(ROOT / "platform"), str(ROOT / "models"), str(ROOT / "benchmarks" / "loader_system")]
SHUFFLED = 1000  # rows in webdataset's shuffle buffer: a fifth of open_clip's, so that it is full before rates are read
sys.path[:0] = SOURCES


@dataclass(frozen=True)
class Work:
    """What a side does.

    Args:
        shards: folder of shards.
        rows: pictures to deliver, more than the shards have if need be.
        batch: pictures of one delivery.
        processes: that decode.
    """

    shards: Path
    rows: int
    batch: int
    processes: int

    @property
    def batches(self) -> int:
        """Deliveries until `rows` are reached."""
        return -(-self.rows // self.batch)

    @property
    def urls(self) -> list[str]:
        """The shards' files."""
        return [str(shard) for shard in sorted(self.shards.glob("*.tar"))]


def start_ray(processes: int) -> None:
    """A runtime of this process's own, whose workers find what it finds."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*SOURCES, os.environ.get("PYTHONPATH"))))
    ray.init(address="local", num_cpus=processes, include_dashboard=False, logging_level="error")


def ours(work: Work, reduced: bool = False) -> Iterator[Tensor]:
    """The stream that a training worker reads, without the training."""
    import torch
    from cropped.config import CroppedConfig

    from lumiray.data.entries import TRAIN, StreamSpec
    from lumiray.data.feed import Feed
    from lumiray.data.index import ShardSet
    from lumiray.data.plan import Plan, PlanSettings, Source
    from lumiray.data.stream import Decoders, items

    start_ray(work.processes)
    shards = ShardSet.open(work.urls)
    spec = StreamSpec(
        slug="cropped",
        system_config=CroppedConfig(reduced),
        stage="crop",
        plan=Plan((Source("photographs", shards.num_rows),), PlanSettings(), work.batch, work.batch, seed=0),
        sources=(shards,),
        seed=0,
        total_steps=work.batches,
    )
    stream = items(spec, 0, 1, 0, Decoders(least=work.processes, most=work.processes))
    with closing(Feed(stream, work.batch, torch.device("cpu"))) as feed:
        for step in range(work.batches):
            yield feed.take(TRAIN, step).tensors["image"]


def pil_transform() -> Callable[[Any], Tensor]:
    """open_clip's training transform with a flip, up to the 8-bit tensor."""
    from cropped.system import RATIO, SCALE, SIZE
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, SCALE, RATIO, transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )


def webdataset(work: Work, untouched: bool = False) -> Iterator[Tensor]:
    """The pipeline of open_clip_train with --dataset-resampled, without captions."""
    import webdataset as wds

    transform: Callable[[Any], Tensor] = pil_transform()
    if untouched:
        from cropped.system import SIZE
        from open_clip.transform import image_transform

        transform = image_transform(SIZE, is_train=True)
    pipeline = wds.DataPipeline(
        wds.ResampledShards(work.urls),
        wds.tarfile_to_samples(),
        wds.shuffle(SHUFFLED),
        wds.decode("pilrgb"),
        wds.rename(image="jpg"),
        wds.map_dict(image=transform),
        wds.to_tuple("image"),
        wds.batched(work.batch, partial=False),
    ).with_epoch(-(-work.batches // work.processes))
    for (image,) in wds.WebLoader(pipeline, batch_size=None, shuffle=False, num_workers=work.processes):
        yield image


def ray_data(work: Work) -> Iterator[Tensor]:
    """Ray Data's own reader of WebDataset, the PIL transform in its tasks."""
    import ray.data
    from PIL import Image

    from lumiray.data.index import ShardSet

    start_ray(work.processes)
    epochs = -(-work.batches * work.batch // ShardSet.open(work.urls).num_rows)
    transform = pil_transform()

    def prepared(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": transform(Image.open(io.BytesIO(row["jpg"])).convert("RGB")).numpy()}

    rows = ray.data.read_webdataset(work.urls * epochs, decoder=None, suffixes=["jpg"]).map(prepared)
    for batch in rows.iter_torch_batches(batch_size=work.batch):
        yield batch["image"]


SIDES: dict[str, Callable[[Work], Iterator[Tensor]]] = {
    "ours": ours,
    "ours-reduced": lambda work: ours(work, reduced=True),
    "webdataset": webdataset,
    "webdataset-untouched": lambda work: webdataset(work, untouched=True),
    "ray-data": ray_data,
}


def main(arguments: list[str], sides: Mapping[str, Callable[[Work], Iterator[Tensor]]] = SIDES) -> None:
    """Command line; the last line has `taken`, seconds since 1970 at which each batch was there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=sides)
    parser.add_argument("shards", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("processes", type=int)
    given = parser.parse_args(arguments)
    work = Work(given.shards, given.rows, given.batch, given.processes)
    taken = []
    for image in itertools.islice(sides[given.side](work), work.batches):
        taken.append(time.time())
        if image.shape != (work.batch, 3, 224, 224):
            sys.exit(f"{given.side} gave a batch of {tuple(image.shape)}")
    finish({"side": given.side, "dtype": str(image.dtype), "taken": taken})


if __name__ == "__main__":
    main(sys.argv[1:])
