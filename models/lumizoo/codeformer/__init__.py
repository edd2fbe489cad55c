"""CodeFormer: blind face restoration by a codebook of faces and a transformer (Zhou et al., NeurIPS 2022)."""
