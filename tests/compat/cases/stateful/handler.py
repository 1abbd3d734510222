import logging
from abc import ABC

from lru import LRU
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class RunningSums(BaseHandler, ABC):
    """Adds up what each sequence has sent."""

    DEFAULT_CAPACITY = 10

    def __init__(self):
        super().__init__()
        self.cache: LRU = None
        self.context = None

    def initialize(self, ctx: Context):
        super().initialize(ctx)
        self.context = ctx
        if ctx.model_yaml_config["handler"] is not None:
            try:
                self.cache = LRU(int(ctx.model_yaml_config["handler"]["cache"]["capacity"]))
            except KeyError:
                logger.error("no capacity is set")
                self.cache = LRU(RunningSums.DEFAULT_CAPACITY)
        self.initialized = True

    def preprocess(self, data):
        sums = []
        for idx, row in enumerate(data):
            sequence = self.context.get_sequence_id(idx)
            before = int(self.cache[sequence]) if self.cache.has_key(sequence) else 0
            number = row.get("data") or row.get("body")
            if isinstance(number, (bytes, bytearray)):
                number = number.decode("utf-8")
            self.cache[sequence] = before + int(number)
            sums.append(self.cache[sequence])
        return sums

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        return data
