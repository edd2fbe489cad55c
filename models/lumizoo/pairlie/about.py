"""Facts of PairLIE (card pairlie)."""

from __future__ import annotations

from lumiray.about import About

ABOUT = About(
    name="PairLIE",
    task="low-light enhancement of one sRGB picture, learnt without bright pictures",
    paper="Fu et al., Learning a Simple Low-light Image Enhancer from Paired Low-light Instances, CVPR 2023",
    code="github.com/zhenqifu/PairLIE",
    code_licence="none given: all rights reserved; written anew here",
    weights_licence="none given: all rights reserved; they are published with the code",
    figures={  # the card has all but the size from memory, and says so
        "LOL, 15 pictures": "PSNR 19.51, SSIM 0.736, LPIPS 0.247 (not re-checked against the paper)",
        "SICE, 50 pictures": "PSNR 21.32, SSIM 0.840, LPIPS 0.216 (not re-checked against the paper)",
        "Size": "341 767 parameters, 22.35 G multiply-adds at 256 x 256 (counted)",
    },
    stages={"train": "exposures"},
    tensors=("L_net.L_net.1.weight", "R_net.R_net.7.bias", "N_net.N_net.13.weight"),
    verified=("enhancer", "training-loss"),
)
