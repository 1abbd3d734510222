import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


class RankHandler(BaseHandler):
    def initialize(self, ctx):
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        torch.set_default_device("cpu")
        self.context = ctx
        super().initialize(ctx)

    def preprocess(self, data):
        send_intermediate_predict_response(
            ["0"], self.context.request_ids, "Intermediate Prediction success", 200, self.context
        )
        return torch.as_tensor(int(data[0].get("body").decode("utf-8")), device=self.device)

    def postprocess(self, x):
        return [x.item()]
