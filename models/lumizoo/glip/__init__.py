"""GLIP: phrase grounding and detection by one network (Li et al., CVPR 2022; card glip)."""
