"""Take an image classifier from PyTorch to an edge device, with proof at every step."""

__version__ = "0.1.0"
