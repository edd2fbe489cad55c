"""CLIP as a system: one stage, one player, a contrast over the cluster's batch (card clip)."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumiray.system import Batch, Optimizer, Player, Record, Row, Schedule, Scope, Stage, System, Term
from lumizoo.blocks.contrast import sigmoid_contrast, softmax_contrast
from lumizoo.blocks.open_clip_library import model_settings
from lumizoo.clip.config import ClipConfig
from lumizoo.clip.decay import no_decay
from lumizoo.clip.form import Form, form_of
from lumizoo.clip.prepare import Prepare
from lumizoo.clip.weights import check_weights, is_file, to_open_clip

SCALE, BIAS = "clip.logit_scale", "clip.logit_bias"


class ClipSystem(System):
    """Contrastive language-image pretraining on open_clip's networks."""

    slug = "clip"
    config_class = ClipConfig
    config: ClipConfig

    def __init__(self, config: ClipConfig | None = None) -> None:
        super().__init__(config)
        self._prepare = Prepare(self.config)

    @cached_property
    def form(self) -> Form:
        """Picture size, normalisation and context of the model."""
        return form_of(self.config)

    def portable(self) -> ClipConfig:
        """A model configuration in a file becomes its content, a local weights file its whole path."""
        config = self.config
        weights = config.weights
        if weights:
            check_weights(config.model, weights)
            weights = str(Path(weights).resolve()) if is_file(weights) else weights
        model = json.dumps(model_settings(config.model)) if config.model.endswith(".json") else config.model
        return replace(config, model=model, weights=weights)

    def stages(self) -> tuple[Stage, ...]:
        """The single stage; parameters without decay are known once the networks are built."""
        resnet = isinstance(model_settings(self.config.model)["vision_cfg"].get("layers"), (list, tuple))
        optimizer = Optimizer(
            "adamw",
            lr=5e-4,
            betas=(0.9, 0.999) if resnet else (0.9, 0.98),
            eps=1e-8 if resnet else 1e-6,
            weight_decay=0.2,
        )
        built = getattr(self, "networks", None)
        exempt = no_decay(built["clip"], self.config.decay_rule) if built is not None else frozenset()
        player = Player(
            "clip",
            ("clip",),
            optimizer,
            Schedule("cosine", warmup=10_000),
            clamps={SCALE: (0.0, math.log(100))},
            no_decay=frozenset(f"clip.{name}" for name in exempt),
            global_batch=True,
            shared=(SCALE, BIAS) if self.config.loss == "sigmoid" else (SCALE,),
        )
        return (
            Stage(
                "pretrain",
                Record.IMAGE_TEXT,
                (player,),
                global_batch_size=32_768,  # OpenAI's; open_clip's runs name their own
                metrics=("retrieval",),
            ),
        )

    def build(self, stage: Stage) -> nn.ModuleDict:
        """open_clip's model under the key `clip`."""
        from lumizoo.clip.network import build

        self.networks = nn.ModuleDict({"clip": build(self.config)})
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """See `Prepare`."""
        return self._prepare(row, draw)

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Stack; captions of evaluation rows, of which a row may have several, are joined with their `owner`."""
        if rows[0]["text"].ndim == 1:
            return super().collate(rows)
        batch = super().collate([{name: value for name, value in row.items() if name != "text"} for row in rows])
        batch["text"] = np.concatenate([row["text"] for row in rows])
        batch["owner"] = np.repeat(np.arange(len(rows)), [len(row["text"]) for row in rows])
        return batch

    def features(self, player: str, batch: Batch) -> dict[str, Tensor]:
        """Normalised features of pictures and texts, fp32 `(b, D)`, and identities for masking."""
        rows = self._embedded(batch["image"], batch["text"])
        if self.config.mask_duplicates != "none":
            rows["ids"] = batch["identity" if self.config.mask_duplicates == "identity" else "caption_id"]
        return rows

    def contrast(self, player: str, rows: dict[str, Tensor], shared: dict[str, Tensor]) -> dict[str, Term]:
        """The loss over all ranks' rows, as this rank's sum and count."""
        ids = (rows["ids"],) if "ids" in rows else ()
        scale = shared[SCALE].exp()
        if self.config.loss == "sigmoid":
            total = sigmoid_contrast(rows["image"], rows["text"], scale, shared[BIAS], ids, self.config.loss_tile)
        else:
            total = softmax_contrast(rows["image"], rows["text"], scale, ids, self.config.loss_tile)
        return {"contrastive": Term(total, len(rows["image"]), Scope.GLOBAL)}

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """open_clip's names and shapes."""
        return to_open_clip(state)

    def flops_per_sample(self, stage: Stage) -> float:
        """Matrix work of forward and backward (three times forward) for one picture and its caption."""
        from torch.utils.flop_counter import FlopCounterMode

        model = copy.deepcopy(self.networks["clip"]).to("meta").eval()
        size = self.form.size
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            dtype = next(model.parameters()).dtype
            model(
                image=torch.empty(1, 3, size, size, device="meta", dtype=dtype),
                text=torch.zeros(1, self.form.context_length, dtype=torch.int64, device="meta"),
            )
        return 3.0 * counter.get_total_flops()

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Normalised features, fp32: `image` `(b, D)`, `text` `(captions, D)`, and `owner`, the row of each caption."""
        return self._embedded(batch["image"], batch["text"]) | {"owner": batch["owner"]}

    def _embedded(self, image: Tensor | None, text: Tensor) -> dict[str, Tensor]:
        """Normalised features of pixels uint8 `(b, 3, S, S)` and token ids `(n, context)`, which may be empty."""
        if not len(text):  # networks are not made for empty batches
            text = text.new_zeros(1, self.form.context_length)
            found = self._embedded(image, text)
            return found | {"text": found["text"][:0]}
        # through the model's own forward, not encode_image: under ZeRO 3 its hooks gather the parameters
        pixels = None if image is None else self.pixels(image)
        found = self.networks["clip"](image=pixels, text=text.long())
        named = found if isinstance(found, dict) else {"image_features": found[0], "text_features": found[1]}
        features = {"image": named.get("image_features"), "text": named["text_features"]}
        return {name: functional.normalize(one.float(), dim=-1) for name, one in features.items() if one is not None}

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 RGB to normalised pixels in the network's dtype, on the device."""
        mean, std = (
            torch.tensor(values, device=image.device).view(1, 3, 1, 1) for values in (self.form.mean, self.form.std)
        )
        dtype = next(self.networks["clip"].parameters()).dtype
        # in place: with a tensor for each operation, page faults took two fifths of a small model's step on CPUs
        return image.float().div_(255).sub_(mean).div_(std).to(dtype)

    def tokens(self, texts: list[str]) -> Tensor:
        """Token ids of texts, int64 `(n, context)`."""
        return torch.stack([torch.from_numpy(self._prepare.tokenizer(text)) for text in texts]).long()

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Normalised features of texts, fp32 `(n, D)`."""
        device = next(self.networks["clip"].parameters()).device
        return self._embedded(None, self.tokens(texts).to(device))["text"]

    @torch.no_grad()
    def embed_images(self, pictures: list[Any]) -> Tensor:
        """Normalised features of pictures (PIL, or uint8 RGB `(H, W, 3)`), fp32 `(n, D)`."""
        from lumiray.data.picture import resize_for_evaluation

        squares = [
            resize_for_evaluation(_rgb(picture), self.form.size, self.form.resize).transpose(2, 0, 1)
            for picture in pictures
        ]
        model = self.networks["clip"]
        device = next(model.parameters()).device
        images = torch.from_numpy(np.stack(squares)).to(device)
        return functional.normalize(model.encode_image(self.pixels(images)).float(), dim=-1)


def _rgb(picture: Any) -> np.ndarray:
    return np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture)


SYSTEM = ClipSystem
