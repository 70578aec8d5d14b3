"""Latency, accuracy and whether to believe them, on the device itself."""
