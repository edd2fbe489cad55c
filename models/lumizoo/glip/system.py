"""GLIP as a system: stages on grounding rows, one player, grounding and detection in use (card glip)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from lumiray.errors import UserError
from lumiray.system import Batch, Found, Row, Stage, System, Term
from lumizoo.blocks.published import whole_path
from lumizoo.glip.anchors import level_sizes
from lumizoo.glip.config import GlipConfig
from lumizoo.glip.detect import LIMIT, Detections, Rules, detections, merged
from lumizoo.glip.losses import Targets, grounding_terms, term_counts
from lumizoo.glip.network import Glip, normalised
from lumizoo.glip.pack import MULTIPLE, pack
from lumizoo.glip.prepare import Prepare
from lumizoo.glip.prompts import prompts_of_all
from lumizoo.glip.resize import resize, resized_shape
from lumizoo.glip.stages import KEY, PRETRAIN, PROMPT, freeze_for_prompt, stages_of
from lumizoo.glip.use import checked_spans, phrases_in, pixels_of, words_of
from lumizoo.glip.weights import TOWERS, load_bert, load_published, load_swin, to_published, tower_file


class GlipSystem(System):
    """Grounded pre-training of a detector on boxes that words of a caption, or names of classes, speak of."""

    slug = "glip"
    config_class = GlipConfig
    config: GlipConfig

    def __init__(self, config: GlipConfig | None = None) -> None:
        super().__init__(config)
        self.preparation = Prepare(self.config)

    def portable(self) -> GlipConfig:
        """Files become whole paths, and are there: this is asked before anything of a job starts."""
        config, preparation = self.config, self.preparation
        _ = preparation.tokenizer, preparation.other_captions, preparation.class_prompts
        files = ("weights", "vocabulary", "other_captions", "class_prompts")
        paths: dict[str, Any] = {name: whole_path(getattr(config, name), name) for name in files}
        return replace(config, **paths | {name: tower_file(getattr(config, name), name) for name in TOWERS})

    def missing_weights(self) -> tuple[str, ...]:
        """Options of the towers that no file is given for."""
        config = self.config
        return tuple(name.replace("_", "-") for name in TOWERS if not (getattr(config, name) or config.weights))

    def stages(self) -> tuple[Stage, ...]:
        """See `stages_of`; rates by name are known once the networks are built."""
        return stages_of(self.config, self._names())

    def _names(self) -> list[str]:
        built = getattr(self, "networks", None)
        return [] if built is None else [name for name, _ in built.named_parameters()]

    def build(self, stage: Stage) -> nn.ModuleDict:
        """The network under `glip`, from a checkpoint of the whole, or of its towers, or from scratch.

        That of stage `prompt` has a table more, which a checkpoint may lack, and trains nothing else.
        """
        config = self.config
        network = Glip(config, table=stage.name == PROMPT)
        if config.weights:
            load_published(network, config.weights)
        else:
            if config.swin_weights:
                load_swin(network.backbone["body"], config.swin_weights)
            if config.bert_weights:
                load_bert(network.language_backbone.body["model"], config.bert_weights)
        if stage.name == PROMPT:
            freeze_for_prompt(network)
        self.networks = nn.ModuleDict({KEY: network})
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """See `Prepare`; all classes are named in their own order but in pre-training."""
        return self.preparation(row, draw, in_order=stage.name != PRETRAIN)

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """See `pack`."""
        return pack(rows)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        """Terms `alignment`, `box` and `centreness`; see `Prepare.training` for what is in the batch."""
        pictures = cropped(batch["picture"], batch["size"])
        network = self.networks[KEY]
        pixels = normalised(pictures, batch["size"], next(network.parameters()).dtype)
        found = network(pixels, batch["tokens"][:, 0].long(), batch["mask"][:, 0])
        return grounding_terms(found, targets_of(batch))

    def counts(self, player: str, batch: Batch) -> dict[str, Tensor]:
        """Positives of the micro-batch, and how central they lie in all."""
        height, width = cropped(batch["picture"], batch["size"]).shape[2:]
        return term_counts(level_sizes(height, width), targets_of(batch))

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of the published checkpoints, their anchors included."""
        return to_published(state, KEY)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """What average precision compares, in pixels of the pictures as stored; see `Prepare.evaluation`.

        Returns:
            `boxes` fp32 `(B, M, 4)` of M = `config.detections`, `scores` fp32 `(B, M)` best first, `labels` int64
            `(B, M)` from 1 on, where nothing was found 0; `true_boxes` `(B, N, 4)`, `true_labels` `(B, N)`, 0 for
            padding; `judged` `(B, C)`, see `judged_classes`.
        """
        limit = self.config.detections
        found = self._found(batch, Rules(limit=limit))
        boxes = torch.zeros(len(found), limit, 4, device=batch["picture"].device)
        scores, labels = boxes.new_zeros(len(found), limit), boxes.new_zeros(len(found), limit).long()
        for number, one in enumerate(found):
            count = len(one.scores)
            boxes[number, :count], scores[number, :count], labels[number, :count] = one.boxes, one.scores, one.labels
        true = {"true_boxes": batch["boxes"], "true_labels": batch["labels"].long(), "judged": batch["judged"]}
        return {"boxes": boxes, "scores": scores, "labels": labels} | true

    def _found(self, batch: Batch, rules: Rules) -> list[Detections]:
        """Detections of each picture of an evaluation's batch, in pixels of the pictures as they were."""
        network = self.networks[KEY]
        pictures = cropped(batch["picture"], batch["size"])
        levels = network.levels(normalised(pictures, batch["size"], next(network.parameters()).dtype))
        parts: list[list[Detections]] = [[] for _ in pictures]
        for text in range(batch["tokens"].shape[1]):
            found = network.read(levels, batch["tokens"][:, text].long(), batch["mask"][:, text])
            for number, size in enumerate(batch["size"].tolist()):
                asked = (batch["class_text"][number] == text + 1).nonzero()[:, 0]
                if len(asked):
                    own = replace(
                        found,
                        boxes=found.boxes[number, None],
                        centreness=found.centreness[number, None],
                        alignment=found.alignment[number, None],
                    )
                    (one,) = detections(own, batch["class_words"][number, asked], tuple(size), rules)
                    parts[number].append(replace(one, labels=asked[one.labels - 1] + 1))
        sizes = zip(batch["original"].tolist(), batch["size"].tolist(), strict=True)
        return [in_original(merged(own, rules.limit), *both) for own, both in zip(parts, sizes, strict=True)]

    def ground(
        self, picture: Any, text: str, spans: Sequence[Any] | None = None, threshold: float = 0.5, limit: int = LIMIT
    ) -> Found:
        """Boxes around what phrases of a text speak of.

        Args:
            picture: see `pixels_of`.
            text: phrases that dots divide, as in `a cat. a red ball`, or any caption with `spans`.
            spans: for each phrase its [begin, end) in characters, or several; if not given, the pieces between dots.
            threshold: of scores.
            limit: most boxes.

        Raises:
            UserError: the picture, the text or a span cannot be used.
        """
        own = phrases_in(text) if spans is None else checked_spans(text, spans)
        if not own:
            raise UserError("The text has no phrase: write what to look for, such as 'a cat. a red ball'.")
        phrases = [words_of(text, one) for one in own]
        asked = self.preparation.phrases(text, own)
        lost = [phrase for phrase, words in zip(phrases, asked["class_words"], strict=True) if not words.any()]
        if lost:
            raise UserError(
                f"The phrase {lost[0]!r} has no token among the first {self.config.max_tokens} of the text; shorten "
                "the text, or ask for phrases in several calls."
            )
        return self._in_use(picture, asked, phrases, threshold, limit)

    def readable(self, text: str, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Which spans have a token among those that fit into a text."""
        words = self.preparation.phrases(text, [[span] for span in spans])["class_words"]
        return [bool(own.any()) for own in words]

    def detect(self, picture: Any, class_names: Sequence[str], threshold: float = 0.5, limit: int = LIMIT) -> Found:
        """Boxes around objects of classes; names that do not fit into one text are asked for 40 at a time.

        Args:
            picture: see `pixels_of`.
            threshold: of scores.
            limit: most boxes.

        Raises:
            UserError: the picture cannot be used, there is no class, or one whose name becomes no token.
        """
        if isinstance(class_names, str) or not class_names:
            raise UserError("The class names are a list of one or more names, such as ['cat', 'traffic light'].")
        named = self.preparation.named(class_names)
        empty = self.preparation.nameless(named)
        if empty is not None:
            raise UserError(f"The class name {empty!r} becomes no token; give it a name in words.")
        asked = self.preparation.texts(prompts_of_all(named, self.preparation.tokenizer))
        return self._in_use(picture, asked, list(class_names), threshold, limit)

    @torch.no_grad()
    def _in_use(
        self, picture: Any, asked: dict[str, np.ndarray], phrases: list[str], threshold: float, limit: int
    ) -> Found:
        pixels = pixels_of(picture)
        before = pixels.shape[0], pixels.shape[1]
        after = resized_shape(before, self.config.short_side, self.config.long_side)
        row = asked | {
            "picture": resize(pixels, *after).transpose(2, 0, 1),
            "size": np.array(after, np.int32),
            "original": np.array(before, np.int32),
        }
        device = next(self.networks.parameters()).device
        batch = {name: torch.from_numpy(value).to(device) for name, value in pack([row]).items()}
        (found,) = self._found(batch, Rules(limit=limit))
        kept = found.scores > threshold
        labels = found.labels[kept]
        named = [phrases[label - 1] for label in labels.tolist()]
        return Found(found.boxes[kept], found.scores[kept], labels, named)


def cropped(pictures: Tensor, sizes: Tensor) -> Tensor:
    """Pictures `(B, 3, H, W)` without the padding that only rows of other micro-batches asked for.

    So a loss does not depend on what else a worker has in a step.  Tensors of a rehearsal have no values; there the
    padding stays.
    """
    if isinstance(sizes, FakeTensor):
        return pictures
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in sizes.amax(0).tolist())
    return pictures[..., :height, :width]


def targets_of(batch: Batch) -> Targets:
    """What the losses compare with, of a training batch."""
    return Targets(batch["boxes"], batch["count"], batch["words"], batch["mask"][:, 0])


def in_original(found: Detections, original: Sequence[int], resized: Sequence[int]) -> Detections:
    """Boxes of a resized picture in pixels of the one before, scaled by the ratio of their sizes."""
    down, across = (before / after for before, after in zip(original, resized, strict=True))
    return replace(found, boxes=found.boxes * found.boxes.new_tensor([across, down, across, down]))


SYSTEM = GlipSystem
