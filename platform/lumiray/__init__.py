"""lumiray: distributed training of vision-language and low-level-vision models on Ray."""

__version__ = "0.1.0"
