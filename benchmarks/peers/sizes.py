"""What servers and driver both must know of the workloads. Copied beside what serves them."""

RAW = ("conv", "body-1mb", "body-16mb")
"""Take bytes; the others a list of numbers, from JSON ``{"values": [...]}``."""
BATCHES = {"mlp": (16, 2), "conv": (8, 5), "encoder": (8, 5)}
"""Batch size and delay in milliseconds; the others are not batched."""
MIXED = "encoder"
"""Its requests are not of one length."""
STREAM = "stream"
"""Answered in pieces, one for each number of the request, with so many seconds between them:"""
PAUSE = 0.003
