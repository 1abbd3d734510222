import logging
import os

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import load_label_mapping

logger = logging.getLogger(__name__)


class IrisHandler(BaseHandler):
    """A model that is not of torch: rows of numbers as text in, the name of the flower out."""

    def __init__(self):
        super().__init__()

    def initialize(self, context):
        self.device = torch.device("cpu")
        self.manifest = context.manifest
        model_dir = context.system_properties.get("model_dir")
        self.model = KNeighborsClassifier(5)
        if "serializedFile" in self.manifest["model"]:
            path = os.path.join(model_dir, self.manifest["model"]["serializedFile"])
            known = np.load(path)
            self.model.fit(known["data"], known["target"])
            logger.info("the flowers of %s are known", path)
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def preprocess(self, requests):
        rows = []
        for row in requests:
            line = row.get("data") or row.get("body")
            if isinstance(line, (bytes, bytearray)):
                line = [float(value) for value in line.decode("utf-8").split(",")]
            rows.append(line)
        return np.array(rows)

    def inference(self, data):
        return self.model.predict(data)

    def postprocess(self, result):
        return [self.mapping[str(index)] for index in result.tolist()]
