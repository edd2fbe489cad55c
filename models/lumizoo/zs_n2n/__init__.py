"""ZS-N2N, Zero-Shot Noise2Noise: a tiny network fitted to one noisy picture takes the noise out of it, and is thrown
away (Mansour & Heckel, CVPR 2023, arXiv 2303.11253; card zs-n2n).

    from lumizoo.zs_n2n.denoise import denoise
    clean = denoise(noisy)                              an array, a PIL picture or a tensor; the same kind comes back
    clean = denoise(noisy, ZsN2nConfig(steps=500))

Nothing is trained before and no set of pictures is read, so there is no `system.py`: the trainer's contract (stages,
shards, checkpoints) has nothing to hold on to.  `fit.py` is what the platform finds by name instead, and
`jobs/restore_zero_shot.py` spreads a folder of pictures over a cluster with it.  It takes noise that is independent
between pixels; the blotches that a camera's JPEG leaves of its noise are not, and stay.
"""

from __future__ import annotations

from lumizoo.zs_n2n.config import ZsN2nConfig

__all__ = ["ZsN2nConfig"]
