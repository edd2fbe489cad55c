"""The frozen networks that guide the training: CLIP for scores, a residual image tower for content.

Both are open_clip's, with the tensor names of OpenAI's checkpoints (card clip-lit, Well-kept libraries).  The
published code runs the residual tower in 16 bit on GPUs, and this one runs it in fp32 (card clip-lit, Unknown).
"""

from __future__ import annotations

from typing import Any

from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from lumizoo.blocks.published import load_strictly, read_state
from lumizoo.clip_lit.forms import content_settings, scoring_settings

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "logit_bias")  # beside weights in some files
OWN_PREFIX = "clip."  # of checkpoints that are trained here


class Frozen(nn.Module):
    """A module that nothing trains: no gradient reaches its weights, and it stays in eval mode."""

    def frozen(self) -> Any:
        """Itself, once it is filled."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Any:
        """Nothing but eval mode: batch norm would learn from the pictures."""
        return super().train(False)


class ScoringClip(Frozen, CLIP):
    """CLIP's two towers; `encode_prompts` takes embeddings where `encode_text` takes token ids."""

    @property
    def side(self) -> int:
        """Pixels of a picture's side."""
        return side_of(self.visual)

    def encode_prompts(self, embeddings: Tensor, end: int) -> Tensor:
        """Features `(n, D)` of token embeddings `(n, L, W)`, read at position `end`.

        No position sees a later one, so what lies behind `end` gets no gradient (card clip-lit, Network: prompts).
        """
        hidden = self.transformer(embeddings + self.positional_embedding, attn_mask=self.attn_mask)
        return self.ln_final(hidden)[:, end] @ self.text_projection


class ContentTower(Frozen, ModifiedResNet):
    """CLIP's residual image tower up to its feature maps."""

    @property
    def side(self) -> int:
        """Pixels of a picture's side."""
        return side_of(self)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels `(B, 3, S, S)` to the stem's map and those of the four stages, `(B, C, h, w)` each."""
        return self.forward_intermediates(pixels, intermediates_only=True)["image_intermediates"]


def side_of(tower: Any) -> int:
    """Side of the pictures that an image tower of open_clip takes, in pixels."""
    size = tower.image_size
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def scoring_clip(model: str) -> ScoringClip:
    """CLIP as `--clip-model` describes it, with fresh weights; raises as `scoring_settings`."""
    return ScoringClip(**scoring_settings(model)).frozen()


def content_tower(model: str) -> ContentTower:
    """The residual image tower as `--identity-model` describes it, with fresh weights; raises as `content_settings`."""
    return ContentTower(**content_settings(model)).frozen()


def load_scoring_clip(model: str, path: str) -> ScoringClip:
    """CLIP with the weights of a file, under OpenAI's or open_clip's names, or ours with `clip.` before them.

    Raises:
        UserError: as `scoring_settings`; or the file is missing, holds more than tensors, or does not fit.
    """
    clip = scoring_clip(model)
    state = clip_state(path, "clip-weights")
    if "logit_scale" in state:  # shape [1] where engines trained it
        state["logit_scale"] = state["logit_scale"].reshape(())
    load_strictly(clip, state, path, "clip-weights")
    return clip


def load_content_tower(model: str, path: str) -> ContentTower:
    """The residual image tower with the weights of a file of the whole CLIP, layouts as in `load_scoring_clip`.

    Raises:
        UserError: as `content_settings`; or the file is missing, holds more than tensors, or does not fit.
    """
    tower = content_tower(model)
    state = clip_state(path, "identity-weights")
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    load_strictly(tower, visual or state, path, "identity-weights")
    return tower


def clip_state(path: str, option: str) -> dict[str, Tensor]:
    """Tensors of a CLIP's file under OpenAI's names, without what is beside its weights."""
    state = read_state(path, option)
    if all(name.startswith(OWN_PREFIX) for name in state):
        state = {name.removeprefix(OWN_PREFIX): value for name, value in state.items()}
    return {name: value for name, value in state.items() if name not in NOT_WEIGHTS}
