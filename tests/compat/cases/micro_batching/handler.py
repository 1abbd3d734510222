import logging

from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.image_classifier import ImageClassifier

logger = logging.getLogger(__name__)


class SlicingClassifier(ImageClassifier):
    """A batch in slices: one is prepared while the one before it is in the model."""

    def __init__(self):
        # No super().__init__() here: the upstream example has none either.
        self.handle = MicroBatching(self)

    def initialize(self, ctx):
        super().initialize(ctx)
        settings = ctx.model_yaml_config.get("micro_batching", {})
        parallelism = settings.get("parallelism", None)
        if parallelism:
            logger.info("parallelism %s", parallelism)
            self.handle.parallelism = parallelism
        self.handle.micro_batch_size = settings.get("micro_batch_size", 1)
        logger.info("slices of %d", self.handle.micro_batch_size)
