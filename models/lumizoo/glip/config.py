"""Settings of GLIP.  Defaults are those of GLIP-T, with those of GLIP-L beside them (card glip, Network, Training)."""

from __future__ import annotations

from dataclasses import dataclass

from lumiray.errors import UserError, check_number

STAGES = 4  # of Swin


@dataclass(frozen=True)
class GlipConfig:
    """Which network is trained from which weights, on which sizes and prompts."""

    swin_width: int = 96
    """Channels of Swin's first stage, doubled by each later one; 192 in GLIP-L (card glip, Network)."""
    swin_depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    """Blocks of Swin's stages; 2 2 18 2 in GLIP-L (card glip, Network)."""
    swin_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    """Attention heads of Swin's stages; 6 12 24 48 in GLIP-L (card glip, Network)."""
    swin_window: int = 7
    """Side of Swin's windows; 12 in GLIP-L (card glip, Network)."""
    drop_path: float = 0.2
    """Share of samples that skip Swin's last block, less for earlier ones; 0.4 in GLIP-L (card glip, Network)."""
    frozen_stages: int = 0
    """Stages of Swin that are not trained, the patch embedding with them; 1 in GLIP-L (card glip, Training)."""
    bert_width: int = 768
    """Width of the text encoder (card glip, Network)."""
    bert_layers: int = 12
    """Layers of the text encoder (card glip, Network)."""
    bert_heads: int = 12
    """Attention heads of the text encoder and of the tower's text layers (card glip, Network)."""
    bert_hidden: int = 3072
    """Width between the two linear layers of a text layer (card glip, Network)."""
    bert_positions: int = 512
    """Positions that the text encoder's checkpoints have; at least --max-tokens."""
    vocabulary_size: int = 30_522
    """Tokens that the text encoder's table has."""
    channels: int = 256
    """Channels of the pyramid and the tower (card glip, Network)."""
    blocks: int = 6
    """Blocks of the tower; 8 in GLIP-L (card glip, Network)."""
    norm_groups: int = 16
    """Groups of the tower's group norm (card glip, Network)."""
    fusion: bool = True
    """Let picture and text look at each other in every block of the tower; false in GLIP-T (A) (card glip, Network)."""
    fusion_width: int = 2048
    """Width of that attention, of all heads together (card glip, Network)."""
    fusion_heads: int = 8
    """Heads of that attention (card glip, Network)."""
    max_tokens: int = 256
    """Tokens that texts are padded and cut to (card glip, Task and contract)."""
    vocabulary: str | None = None
    """File of WordPiece tokens, one a line: the vocab.txt of bert-base-uncased."""
    weights: str | None = None
    """File of weights to start from or to use, such as a published checkpoint (.pth, .pt, .safetensors)."""
    swin_weights: str | None = None
    """File of a Swin classifier of ImageNet, as its authors publish it, to start from; if not given, from scratch."""
    bert_weights: str | None = None
    """File of bert-base-uncased to start from (pytorch_model.bin, model.safetensors); if not given, from scratch."""
    grad_checkpointing: bool = True
    """Compute the blocks of Swin, BERT and the tower again in the backward pass: less memory (card glip, Training)."""
    train_sides: tuple[int, ...] = (480, 560, 640, 720, 800)
    """Short side of a training picture: one of these, at random (card glip, Training)."""
    short_side: int = 800
    """Short side of a picture in use and in evaluation (card glip, Task and contract)."""
    long_side: int = 1333
    """The long side is at most this (card glip, Task and contract)."""
    detections: int = 100
    """Boxes of a picture that evaluation keeps; 300 for LVIS in published code (card glip, Inference)."""
    flip_words: bool = False
    """Swap left and right in the caption of a mirrored picture; published captions stay (card glip, Training)."""
    negatives: int = 85
    """Most classes that a detection prompt names besides those of its boxes, as drawn (card glip, Data)."""
    class_prompts: str | None = None
    """YAML file of what texts say of classes: NAME: {prefix: ..., name: ..., suffix: ...} (card glip, Inference)."""
    other_captions: str | None = None
    """File of captions, one a line: up to 20 are put around a picture's own, as in GLIP-L; none: as in GLIP-T."""
    ema_decay: float = 0.999
    """Decay of the averaged weights; 0 for none, as in GLIP-L (card glip, Training)."""

    def __post_init__(self) -> None:
        """Refuse numbers that no network could have, by option.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        for name in ("bert_width", "bert_layers", "bert_heads", "bert_hidden", "vocabulary_size", "channels", "blocks"):
            check_number(name.replace("_", "-"), getattr(self, name), 1)
        for name in ("swin_width", "swin_window", "norm_groups", "fusion_width", "fusion_heads"):
            check_number(name.replace("_", "-"), getattr(self, name), 1)
        for depth in self.swin_depths:
            check_number("swin-depths", depth, 1)
        check_number("frozen-stages", self.frozen_stages, 0, STAGES)
        check_number("drop-path", self.drop_path, 0, 0.99)
        check_number("ema-decay", self.ema_decay, 0, 0.999999)
        check_number("negatives", self.negatives, 0)
        check_number("max-tokens", self.max_tokens, 3, self.bert_positions)
        check_number("detections", self.detections, 1)
        check_number("short-side", self.short_side, 32)
        check_number("long-side", self.long_side, 32)
        for side in self.train_sides:
            check_number("train-sides", side, 32)
        if not self.train_sides:
            raise UserError("--train-sides names no side; give one or more, such as 480 640 800.")
        widths = [self.swin_width * 2**stage for stage in range(STAGES)]
        self._check_divides("swin-heads", self.swin_heads, widths)
        self._check_divides("bert-heads", (self.bert_heads,), [self.bert_width])
        self._check_divides("fusion-heads", (self.fusion_heads,), [self.fusion_width])
        self._check_divides("norm-groups", (self.norm_groups,), [self.channels])
        if self.channels % 4:
            raise UserError(f"--channels is {self.channels}; it must be a multiple of 4.")

    @staticmethod
    def _check_divides(option: str, parts: tuple[int, ...], widths: list[int]) -> None:
        for part, width in zip(parts, widths, strict=True):
            check_number(option, part, 1)
            if width % part:
                raise UserError(f"--{option} {part} does not divide a width of {width}.")


CONFIG = GlipConfig
