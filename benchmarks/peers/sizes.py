"""What servers and driver both must know of the workloads. Copied beside what serves them."""

RAW = ("conv", "body-1mb", "body-16mb")
"""Take bytes; the others a list of numbers, from JSON ``{"values": [...]}``."""
BATCHES = {"mlp": (16, 2), "conv": (8, 5), "encoder": (8, 5)}
"""Batch size and delay in milliseconds; the others are not batched."""
