"""Packaging: model files, weights and handler into one archive (``torch-model-archiver``)."""
