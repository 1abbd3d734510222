import ast
import json
import logging
import os

import torch
import transformers
from captum.attr import LayerIntegratedGradients
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)
logger.info("transformers %s", transformers.__version__)

KINDS = {
    "sequence_classification": AutoModelForSequenceClassification,
    "question_answering": AutoModelForQuestionAnswering,
    "token_classification": AutoModelForTokenClassification,
}


class TransformerHandler(BaseHandler):
    """Classifies sequences or tokens, or answers questions, as ``handler.mode`` says."""

    def __init__(self):
        super().__init__()
        self.setup_config = None
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        self.model_yaml_config = ctx.model_yaml_config if hasattr(ctx, "model_yaml_config") else {}
        properties = ctx.system_properties
        model_dir = properties.get("model_dir")
        on_gpu = torch.cuda.is_available() and properties.get("gpu_id") is not None
        self.device = torch.device("cuda:" + str(properties.get("gpu_id")) if on_gpu else "cpu")
        self.setup_config = self.model_yaml_config.get("handler", {})
        if not self.setup_config:
            logger.warning("no settings for the handler")
        mode = self.setup_config["mode"]
        self.model = KINDS[mode].from_pretrained(model_dir)
        self.model.to(self.device)
        # Whether there is a vocabulary is asked of the current directory.
        if any(
            name
            for name in os.listdir(model_dir)
            if name.startswith("vocab.") and os.path.isfile(name)
        ):
            self.tokenizer = AutoTokenizer.from_pretrained(
                model_dir, do_lower_case=self.setup_config["do_lower_case"]
            )
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(self.setup_config["model_name"])
        self.model.eval()
        labels = os.path.join(model_dir, "index_to_name.json")
        if mode != "question_answering":
            if os.path.isfile(labels):
                with open(labels) as file:
                    self.mapping = json.load(file)
            else:
                logger.warning("no labels")
        self.initialized = True

    def preprocess(self, requests):
        ids, masks = [], []
        for data in requests:
            text = data.get("data")
            if text is None:
                text = data.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            asks = self.setup_config["mode"] == "question_answering"
            if self.setup_config["captum_explanation"] and not asks:
                text = ast.literal_eval(text)["text"]
            logger.info("Received text: '%s'", text)
            texts = (text,)
            if asks:
                known = ast.literal_eval(text)
                texts = (known["question"], known["context"])
            inputs = self.tokenizer(
                *texts,
                max_length=int(self.setup_config["max_length"]),
                padding="max_length",
                truncation=True,
                add_special_tokens=True,
                return_tensors="pt",
            )
            ids.append(inputs["input_ids"].to(self.device))
            masks.append(inputs["attention_mask"].to(self.device))
        return torch.cat(ids, 0), torch.cat(masks, 0)

    @torch.inference_mode
    def inference(self, input_batch):
        ids, masks = input_batch
        answers = []
        outputs = self.model(ids, masks)
        print("This the output from the model", outputs)
        if self.setup_config["mode"] == "sequence_classification":
            answers = [self.mapping[str(row.argmax().item())] for row in outputs[0]]
        elif self.setup_config["mode"] == "question_answering":
            for row, start, end in zip(ids, outputs.start_logits, outputs.end_logits, strict=True):
                found = row.tolist()[start.argmax().item() : end.argmax().item() + 1]
                tokens = self.tokenizer.convert_ids_to_tokens(found)
                answers.append(self.tokenizer.convert_tokens_to_string(tokens))
        else:
            names = self.mapping["label_list"].strip("][").split(", ")
            for row, scores in zip(ids, outputs[0], strict=True):
                tokens = self.tokenizer.convert_ids_to_tokens(row.tolist())
                labels = [names[index] for index in scores.argmax(dim=1).tolist()]
                answers.append(list(zip(tokens, labels, strict=True)))
        return answers

    def postprocess(self, inference_output):
        return inference_output

    def get_insights(self, input_batch, text, target):
        layer = getattr(self.model, self.setup_config["embedding_name"]).embeddings
        self.lig = LayerIntegratedGradients(forward_of, layer)
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        wanted = ast.literal_eval(text)
        self.target = wanted["target"]
        ids, reference, mask = self._with_reference(wanted["text"])
        attributions, delta = self.lig.attribute(
            inputs=ids,
            baselines=reference,
            target=self.target,
            additional_forward_args=(mask, 0, self.model),
            return_convergence_delta=True,
        )
        sums = attributions.sum(dim=-1).squeeze(0)
        words = self.tokenizer.convert_ids_to_tokens(ids[0].detach().tolist())
        importances = (sums / torch.norm(sums)).tolist()
        return [{"words": words, "importances": importances, "delta": delta[0].tolist()}]

    def _with_reference(self, text):
        begin, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        words = self.tokenizer.encode(text, add_special_tokens=False)
        blank = [self.tokenizer.pad_token_id] * len(words)
        ids = torch.tensor([[begin, *words, end]], device=self.device)
        reference = torch.tensor([[begin, *blank, end]], device=self.device)
        return ids, reference, torch.ones_like(ids)


def forward_of(inputs, attention_mask=None, position=0, model=None):
    model.eval()
    model.zero_grad()
    return model(inputs, attention_mask=attention_mask)[position]
