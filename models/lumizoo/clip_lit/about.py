"""Facts of CLIP-LIT (card clip-lit)."""

from __future__ import annotations

from lumiray.about import About
from lumizoo.clip_lit.config import ClipLitConfig

ROUNDS = [f"{kind}-{number}" for number in range(1, ClipLitConfig.rounds + 1) for kind in ("enhance", "refine")]

ABOUT = About(
    name="CLIP-LIT",
    task="enhancement of one backlit sRGB picture, learned without pairs",
    paper="Liang et al., Iterative Prompt Learning for Unsupervised Backlit Image Enhancement, ICCV 2023, "
    "arXiv 2303.17569",
    code="github.com/ZhexinLiang/CLIP-LIT",
    code_licence="none is named (a commented-out passage speaks of the S-Lab licence, non-commercial)",
    weights_licence="none is named; they are published with the code",
    figures={
        "BAID test": "PSNR 21.579, SSIM 0.883, LPIPS 0.159, MUSIQ 55.682 (from memory, not checked again)",
        "Backlit300": "MUSIQ 52.921 (from memory, not checked again)",
    },
    stages=dict.fromkeys(("prompts", "reconstruct", *ROUNDS), "unpaired"),
    tensors=("cond_add1.weight", "PPM1.fuse.0.weight", "ResidualBlock6.conv2.weight"),
    verified=("enhancer", "identity-loss", "prompt-learning"),
)
