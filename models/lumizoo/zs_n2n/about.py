"""Facts of ZS-N2N (card zs-n2n)."""

from __future__ import annotations

from lumiray.about import About

ABOUT = About(
    name="ZS-N2N",
    task="removal of noise that is independent between pixels, by a network fitted to the one picture",
    paper="Mansour & Heckel, Zero-Shot Noise2Noise, CVPR 2023, arXiv 2303.11253",
    code="a notebook of the authors, linked in the paper",
    code_licence="none given: all rights reserved; written anew here",
    weights_licence="there are no weights to publish",
    figures={  # the card has them from memory, and says so
        "Kodak24, Gaussian 10 / 25 / 50": "PSNR 33.69 / 29.07 / 24.81 (not re-checked against the paper)",
        "Kodak24, Poisson 50 / 25 / 10": "PSNR 29.45 / 27.52 / 24.92 (not re-checked against the paper)",
        "McMaster18, Gaussian 10 / 25 / 50": "PSNR 34.21 / 28.80 / 24.02 (not re-checked against the paper)",
    },
    tensors=("conv1.weight", "conv2.bias", "conv3.weight"),
    verified=("descent", "loss", "network"),
)
