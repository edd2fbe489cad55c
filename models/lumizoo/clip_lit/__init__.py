"""CLIP-LIT: backlit enhancement guided by learned CLIP prompts (Liang et al., ICCV 2023; card clip-lit)."""
