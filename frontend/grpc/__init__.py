"""TorchServe's gRPC services, over the same calls as HTTP. Needs ``flambeau[grpc]``."""
