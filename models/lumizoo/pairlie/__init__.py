"""PairLIE: low-light enhancement learnt from exposures of dark scenes (Fu et al., CVPR 2023; card pairlie)."""
