"""Facts of HVI-CIDNet (card cidnet)."""

from __future__ import annotations

from lumiray.about import About

ABOUT = About(
    name="HVI-CIDNet",
    task="low-light enhancement of one sRGB picture",
    paper="Yan et al., HVI: A New Color Space for Low-light Image Enhancement, CVPR 2025, arXiv 2502.20272",
    code="github.com/Fediory/HVI-CIDNet",
    code_licence="MIT",
    weights_licence="none of their own is named; they are published with the code, which is MIT",
    figures={
        "LOLv1, with perceptual term": "PSNR 23.81, SSIM 0.857, LPIPS 0.086 (with GT mean 27.71, 0.876, 0.079)",
        "LOLv1, without perceptual term": "PSNR 23.50, SSIM 0.870, LPIPS 0.105 (with GT mean 28.14, 0.889, 0.099)",
        "LOLv2-real": "PSNR 23.90, SSIM 0.866, LPIPS 0.122 (best PSNR); with GT mean 28.14, 0.892, 0.101",
        "LOLv2-syn, without perceptual term": "PSNR 25.70, SSIM 0.942, LPIPS 0.047 (with GT mean 29.57, 0.950, 0.044)",
        "LOLv2-syn, with perceptual term": "PSNR 25.13, SSIM 0.939, LPIPS 0.045 (with GT mean 29.37, 0.950, 0.040)",
        "Sony-Total-Dark": "PSNR 22.90, SSIM 0.676, LPIPS 0.411",
        "LOL-Blur": "PSNR 26.57, SSIM 0.890, LPIPS 0.120",
        "FiveK": "PSNR 24.46, SSIM 0.877, LPIPS 0.085",
        "NIQE": "DICM 3.79, LIME 4.13, MEF 3.56, NPE 3.74, VV 3.21",
    },
    stages={"train": "pair"},
    tensors=("trans.density_k", "HVE_block0.1.weight", "I_LCA6.ffn.temperature"),
    verified=("hvi_transform", "inference", "losses", "network"),
)
