"""MLServer's runtime: WORKLOAD and BLOCKS in the environment. It joins requests to a batch."""

from __future__ import annotations

import base64
import os

from answers import model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from numpy import array
from sizes import RAW

WORKLOAD = os.environ["WORKLOAD"]


class Peer(MLModel):
    async def load(self) -> bool:
        self.model = model(WORKLOAD, int(os.environ["BLOCKS"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = payload.inputs[0]
        if WORKLOAD in RAW:
            batch = [base64.b64decode(each) for each in StringCodec.decode_input(values)]
        else:
            batch = NumpyCodec.decode_input(values).tolist()
        answers = array(self.model(batch), dtype="float32")
        output = NumpyCodec.encode_output("answer", answers)
        return InferenceResponse(model_name=self.name, outputs=[output])
