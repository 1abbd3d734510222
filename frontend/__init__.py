"""The serving process: HTTP listeners, the engine that owns queues and workers, and the CLI."""
