"""HTTP faces of the engine: TorchServe's inference, management and metrics APIs."""
