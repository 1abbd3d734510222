import numpy as np
from ts.torch_handler.base_handler import BaseHandler


class OnnxHandler(BaseHandler):
    def __init__(self):
        super().__init__()

    def initialize(self, context):
        super().initialize(context)

    def handle(self, data, context):
        if hasattr(self.model, "run"):
            number = np.array([[float(data[0]["body"].decode())]], dtype=np.float32)
            results = self.model.run(None, {"modelInput": number})
            return [f"Prediction Succeeded: {result.tolist()}" for result in results]
