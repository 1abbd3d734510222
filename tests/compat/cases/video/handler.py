import base64
import io

import torch
import torch.nn.functional as F
from PIL import Image
from ts.torch_handler.image_classifier import ImageClassifier
from ts.utils.util import map_class_to_label


class FramesHandler(ImageClassifier):
    """Each request is an object of frames; its one answer is a list of classes for each."""

    def __init__(self):
        super().__init__()

    def preprocess(self, data):
        frames = []
        for row in data:
            sent = row.get("data") or row.get("body")
            for frame in sent.values():
                if isinstance(frame, str):
                    frame = base64.b64decode(frame)
                if isinstance(frame, (bytearray, bytes)):
                    frame = self.image_processing(Image.open(io.BytesIO(frame)))
                else:
                    frame = torch.FloatTensor(frame)
                frames.append(frame)
        return torch.stack(frames).to(self.device)

    def postprocess(self, data):
        probabilities, classes = torch.topk(F.softmax(data, dim=1), self.topk, dim=1)
        return [map_class_to_label(probabilities.tolist(), self.mapping, classes.tolist())]
