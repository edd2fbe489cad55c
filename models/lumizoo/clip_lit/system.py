"""CLIP-LIT as a system: prompts and enhancer in turns, guided by frozen CLIPs (card clip-lit)."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lumiray.system import Batch, Row, Stage, System, Term
from lumizoo.blocks.pictures import through
from lumizoo.blocks.whole_pairs import whole_pair
from lumizoo.clip_lit import losses as objectives
from lumizoo.clip_lit.config import ClipLitConfig
from lumizoo.clip_lit.network import Enhancer, enhanced_in_training, enhanced_in_use
from lumizoo.clip_lit.pixels import clip_pixels
from lumizoo.clip_lit.prepare import prepare_for_prompts, prepare_picture
from lumizoo.clip_lit.prompts import initial_prompt, logits, negative_probability, picture_features, prompt_features
from lumizoo.clip_lit.results import with_result
from lumizoo.clip_lit.stages import ENHANCE, PROMPTS, RECONSTRUCT, REFINE, chain, kind_of, num_results
from lumizoo.clip_lit.weights import carried_along, clip_file, identity_file, load_enhancer, made_prompts

Picture = TypeVar("Picture")
TRAINED = ("enhancer.", "prompts.")


class ClipLitSystem(System):
    """Backlit enhancement without pairs, by prompts that tell backlit from well-lit pictures."""

    slug = "clip-lit"
    config_class = ClipLitConfig
    config: ClipLitConfig

    def portable(self) -> ClipLitConfig:
        """Files become whole paths, and are there: this is asked before anything of a job starts."""
        return carried_along(self.config)

    def stages(self) -> tuple[Stage, ...]:
        """`prompts`, `reconstruct`, `enhance-1`, `refine-1`, `enhance-2` and so on; see `lumizoo.clip_lit.stages`."""
        return chain(self.config)

    def build(self, stage: Stage) -> nn.ModuleDict:
        """The stage's `enhancer` and `prompts`, one of them locked, and the CLIPs that its losses ask.

        The CLIPs, `clip` and `identity`, are built if their files are given.  They belong to no player, so they are
        frozen and in no checkpoint.
        """
        self._stage = stage
        config, kind = self.config, kind_of(stage.name)
        moved, held = stage.players[0].networks
        clip = self._scoring_clip()
        initial = None if clip is None else lambda: initial_prompt(clip, config.prompt_length)
        makers = {"enhancer": self._enhancer, "prompts": lambda: made_prompts(config, initial)}
        self.networks = nn.ModuleDict({name: makers[name]() for name in (moved, held)})
        self.networks[held].requires_grad_(False)
        if clip is not None and kind != RECONSTRUCT:
            self.networks["clip"] = clip
        if kind in (RECONSTRUCT, ENHANCE) and config.identity_weight and config.identity_weights:
            from lumizoo.clip_lit.towers import load_content_tower

            self.networks["identity"] = load_content_tower(config.identity_model, config.identity_weights)
        return self.networks

    def _enhancer(self) -> Enhancer:
        enhancer = Enhancer()
        if self.config.weights:
            load_enhancer(enhancer, self.config.weights)
        return enhancer

    def _scoring_clip(self) -> Any | None:
        if self.config.clip_weights is None:
            return None
        from lumizoo.clip_lit.towers import load_scoring_clip  # open_clip takes seconds to import

        return load_scoring_clip(self.config.clip_model, self.config.clip_weights)

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """See `lumizoo.clip_lit.prepare`; in evaluation a row is a pair `lq` and `gt`, which stays whole."""
        config = self.config
        if draw is None:
            return whole_pair(row)
        if kind_of(stage.name) in (PROMPTS, REFINE):
            return prepare_for_prompts(row, config.prompt_size, num_results(stage.name), draw)
        return prepare_picture(row, config.enhancer_size, draw)

    def derived(self, stage: Stage, row: Row) -> dict[str, bytes]:
        """A backlit row with what the enhancer of the round makes of it; see `with_result`."""
        return with_result(row, self.networks["enhancer"], self.config.prompt_size, num_results(stage.name))

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        """Terms of the stage that was built last, from uint8 `image` `(B, 3, S, S)`, `source` and stored results.

        Raises:
            UserError: CLIP counts and there is no file of its weights.
        """
        pictures = batch["image"].float() / 255
        kind = kind_of(self._stage.name)
        if kind == PROMPTS:
            return {"cross_entropy": objectives.classification(self._scores(pictures), batch["source"])}
        if kind == REFINE:
            return self._refinement(pictures, batch)
        return self._enhancement(pictures, scored=kind == ENHANCE)

    def _scores(self, pictures: Tensor) -> Tensor:
        """Logits `(B, 2)` of pictures in [0, 1] by the prompts as they are."""
        if "clip" not in self.networks:
            clip_file(self.config)
        clip = self.networks["clip"]
        texts = prompt_features(clip, self.networks["prompts"], self.config.prompt_length)
        return logits(picture_features(clip, pictures), texts)

    def _refinement(self, pictures: Tensor, batch: Batch) -> dict[str, Term]:
        """Rankings of backlit pictures, their stored results and well-lit pictures, by how backlit they seem."""
        results = batch["results"].float() / 255
        if self.config.published_order:
            results = results.flip(1)
        rows, count = results.shape[:2]
        found = negative_probability(self._scores(torch.cat((pictures, results.flatten(0, 1)))))
        is_backlit = (batch["source"] == 0).float()
        return objectives.ranking_terms(found[:rows], found[rows:].view(rows, count), is_backlit)

    def _enhancement(self, pictures: Tensor, scored: bool) -> dict[str, Term]:
        """How backlit the enhanced pictures seem, if that counts, and how far their content has moved."""
        config = self.config
        enhanced = enhanced_in_training(self.networks["enhancer"], pictures)
        terms = {}
        if scored:
            found = negative_probability(self._scores(enhanced))
            terms["backlit"] = Term(found.sum(), len(found), weight=objectives.CLIP_WEIGHT)
        if config.identity_weight:
            levels = objectives.ENHANCEMENT_LEVELS if scored else objectives.RECONSTRUCTION_LEVELS
            share = objectives.ENHANCEMENT_SHARE if scored else 1.0
            distances = self._content_distances(enhanced, pictures, levels)
            terms["identity"] = objectives.identity_term(distances, share * config.identity_weight)
        return terms

    def _content_distances(self, enhanced: Tensor, pictures: Tensor, levels: tuple[float, ...]) -> Tensor:
        if "identity" not in self.networks:
            identity_file(self.config)
        tower = self.networks["identity"]
        with torch.no_grad():
            given = tower(clip_pixels(pictures, tower.side))
        return objectives.content_distances(tower(clip_pixels(enhanced, tower.side)), given, levels)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of the published checkpoints, enhancer and prompts together, and nothing of the CLIPs."""
        own = {name: value for name, value in state.items() if name.startswith(TRAINED)}
        return {name.partition(".")[2]: value for name, value in own.items()}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """What PSNR and SSIM compare: `restored` and `reference`, uint8 `(B, 3, H, W)`, of whole pairs."""
        return {"restored": self.restore(batch["lq"]), "reference": batch["gt"]}

    def restore(self, pictures: Picture) -> Picture:
        """Enhanced pictures of the kind and size that was given (see `through`), at full resolution.

        The pooling sees all pixels, so a picture that is cut into tiles comes out otherwise (card clip-lit, Inference).

        Raises:
            UserError: not a picture, or values outside [0, 1].
        """
        return through(pictures, self._restored)

    @torch.no_grad()
    def _restored(self, pictures: Tensor) -> Tensor:
        """fp32 `(B, 3, H, W)` in [0, 1] to the same."""
        enhancer = self.networks["enhancer"]
        return enhanced_in_use(enhancer, pictures.to(next(enhancer.parameters()).device))


SYSTEM = ClipLitSystem
