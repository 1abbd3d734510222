import asyncio
import time

from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class ConcurrentClassifier(ImageClassifier):
    """Answers when three requests are in its hands at the same time."""

    image_processing = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )

    def initialize(self, context):
        super().initialize(context)
        self.seen = 0
        self.all_are_here = asyncio.Event()

    async def handle(self, data, context):
        started = time.time()
        self.seen += 1
        if self.seen == 3:
            self.all_are_here.set()
        await asyncio.wait_for(self.all_are_here.wait(), 10)
        output = self.postprocess(self.inference(self.preprocess(data)))
        took = round((time.time() - started) * 1000, 2)
        context.metrics.add_time("HandlerTime", took, None, "ms")
        return [{"digit": digit, "together": self.seen} for digit in output]

    def postprocess(self, data):
        return data.argmax(1).tolist()
