"""A handler that has several requests in its hands at the same time."""

from __future__ import annotations

from compat.case import Case, predict
from compat.inputs import digit
from compat.weights import state_of

CASES = (
    Case(
        "asynchronous",
        handler="asynchronous/handler.py",
        model_file="mnist/mnist.py",
        serialized_file="mnist_cnn.pt",
        config_file="asynchronous/config.yaml",
        generated={"mnist_cnn.pt": state_of("mnist/mnist.py")},
        rounds=(tuple(predict(digit(number)) for number in (1, 4, 8)),),
        exact=True,
    ),
)
