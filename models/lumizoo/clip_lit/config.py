"""Settings of CLIP-LIT.  Defaults are the published code's (card clip-lit, Losses, Training and Data)."""

from __future__ import annotations

from dataclasses import dataclass

from lumiray.errors import check_number

LEAST_SIZE = 2  # of training pictures: a border of one pixel is reflected


@dataclass(frozen=True)
class ClipLitConfig:
    """Which CLIP guides the training, which weights it starts from, how often enhancement and prompts take turns."""

    weights: str | None = None
    """File of the enhancer's weights, such as the published enhancement_model.pth (.pth, .pt, .safetensors)."""
    prompt_weights: str | None = None
    """File of a prompt pair to start from, such as the published init_prompt_pair.pth."""
    clip_model: str = "ViT-B-32-quickgelu"
    """The CLIP that scores pictures: an open_clip model name, the path of a .json file, or JSON itself."""
    clip_weights: str | None = None
    """File of its weights in OpenAI's or open_clip's layout, or trained here; training needs it."""
    identity_model: str = "RN101-quickgelu"
    """The CLIP with a residual image tower whose features hold the content; given as --clip-model is."""
    identity_weights: str | None = None
    """File of its weights, of which the image tower is read; training needs it unless --identity-weight is 0."""
    identity_weight: float = 25.0
    """Weight of the identity term; 0 does without it and without the stage reconstruct (card clip-lit, Losses)."""
    prompt_length: int = 16
    """Words X that both prompts start from; the context of --clip-model must hold them (card clip-lit, Network)."""
    rounds: int = 13
    """Rounds of enhancement and prompt refinement; 13 make the paper's 50,000 steps (card clip-lit, Training)."""
    published_order: bool = False
    """Refine prompts on stored results newest first, as the published code does against its paper (card clip-lit)."""
    enhancer_size: int = 512
    """Side of the pictures that the enhancer is trained on (card clip-lit, Data)."""
    prompt_size: int = 256
    """Side of the pictures that prompts are trained on, and of stored results (card clip-lit, Data)."""

    def __post_init__(self) -> None:
        """Refuse numbers that no part of the training could use, by option.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("identity-weight", self.identity_weight, 0)
        check_number("prompt-length", self.prompt_length, 1)
        check_number("rounds", self.rounds, 1)
        check_number("enhancer-size", self.enhancer_size, LEAST_SIZE)
        check_number("prompt-size", self.prompt_size, LEAST_SIZE)


CONFIG = ClipLitConfig
