"""HVI-CIDNet: low-light enhancement in a trainable colour space (Yan et al., CVPR 2025; card cidnet)."""
