import torch
from ts.torch_handler.base_handler import BaseHandler


class CompiledHandler(BaseHandler):
    def __init__(self):
        super().__init__()

    def initialize(self, context):
        super().initialize(context)

    def preprocess(self, data):
        return torch.as_tensor(data[0]["body"]["instances"], dtype=torch.float32)

    def postprocess(self, data):
        return data.tolist()[2]
