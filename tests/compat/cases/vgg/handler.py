import importlib
import os

import torch
from ts.torch_handler.image_classifier import ImageClassifier
from ts.utils.util import list_classes_from_module


class OwnLoading(ImageClassifier):
    """Loads its model in a way of its own."""

    def _load_pickled_model(self, model_dir, model_file, model_pt_path):
        if not os.path.isfile(os.path.join(model_dir, model_file)):
            raise RuntimeError("no model file")
        module = importlib.import_module(model_file.split(".")[0])
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            raise ValueError(f"one class is wanted, not {classes}")
        model = classes[0]()
        model.load_state_dict(torch.load(model_pt_path))
        return model
