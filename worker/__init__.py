"""The worker process: one loaded model that answers one batch at a time."""
