"""Layers and losses that two or more systems share."""
