"""The network of handwritten digits, behind a handler of its own and behind each envelope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat.case import Case, form, one_by_one, predict
from compat.inputs import base64_of, digit
from compat.profiles import ENVELOPES
from compat.weights import state_of

if TYPE_CHECKING:
    from compat.case import Ask

CLIENT = "what cannot be read as an image is the client's fault"


def mnist(name: str, *rounds: tuple[Ask, ...], **more: Any) -> Case:
    settings = {
        "handler": "mnist/mnist_handler.py",
        "model_file": "mnist/mnist.py",
        "serialized_file": "mnist_cnn.pt",
        "generated": {"mnist_cnn.pt": state_of("mnist/mnist.py")},
        **more,
    }
    return Case(name, rounds=rounds, **settings)


V1 = "/v1/models/{case}:"
V2 = "/v2/models/{case}/infer"
IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64_of(digit(6))]}
ENVELOPED = {
    "json": one_by_one(
        predict({"instances": [{"b64": base64_of(digit(3))}]}),
        predict({"instances": [{"data": {"b64": base64_of(digit(n))}} for n in (0, 9)]}),
    ),
    "body": one_by_one(predict(digit(3)), form({"data": digit(4)})),
    "kserve": one_by_one(
        predict(
            {"instances": [{"data": base64_of(digit(n))} for n in (0, 5)]}, path=V1 + "predict"
        ),
        predict({"instances": [{"data": base64_of(digit(5))}]}, path=V1 + "explain"),
    ),
    "kservev2": one_by_one(predict({"id": "an-id", "inputs": [IMAGE]}, path=V2)),
}

CASES = (
    mnist(
        "mnist",
        *one_by_one(
            *(predict(digit(number)) for number in range(10)),
            predict(digit(7), "image/png"),
            form({"data": digit(8)}),
            predict(base64_of(digit(9)), "text/plain"),
            predict(digit(2), path="/explanations/{case}"),
            predict({"data": base64_of(digit(1))}, ours=400, why=CLIENT),
            predict(b"no image", ours=400, why=CLIENT),
        ),
    ),
    *(mnist(f"mnist_{name}", *ENVELOPED[name], profile=name) for name in ENVELOPES),
)
