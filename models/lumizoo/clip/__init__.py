"""CLIP: contrastive language-image pretraining on open_clip's networks (Radford et al. 2021; card clip)."""
