"""Facts of CodeFormer (card codeformer)."""

from __future__ import annotations

from lumiray.about import About

ABOUT = About(
    name="CodeFormer",
    task="blind restoration of one aligned face",
    paper="Zhou et al., Towards Robust Blind Face Restoration with Codebook Lookup TransFormer, NeurIPS 2022, "
    "arXiv 2206.11253",
    code="github.com/sczhou/CodeFormer",
    code_licence="NTU S-Lab License 1.0, non-commercial use only",
    weights_licence="NTU S-Lab License 1.0, non-commercial use only",
    figures={
        "CelebA-Test": "LPIPS 0.299, FID 60.62, IDS 0.60, PSNR 22.18, SSIM 0.610",
        "LFW-Test": "FID 52.02",
        "WIDER-Test": "FID 39.06",
        "WebPhoto-Test": "FID 78.87",
    },
    stages={"vqgan": "clean", "codes": "clean", "features": "clean"},
    tensors=("position_emb", "feat_emb.weight", "quantize.embedding.weight"),
    verified=("codeformer", "controllable_feature_transform", "losses", "vqgan"),
)
