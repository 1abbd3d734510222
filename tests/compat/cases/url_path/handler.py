import logging

from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__file__)


class PathHandler(BaseHandler):
    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        return [self.context.get_request_header(i, "url_path") for i in range(len(data))]

    def inference(self, data):
        return data

    def postprocess(self, data):
        return data
