"""The load generator behind ``flambeau bench``."""
