"""A handler that reports metrics in each way there is, with a metrics.yaml of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat.case import Ask, one_by_one, predict
from compat.cases.mnist.cases import mnist
from compat.inputs import digit
from contract.rows import Row

if TYPE_CHECKING:
    from contract.exchange import Reply

REPORTED = (
    "InferenceRequestCount",
    "InitializeCallCount",
    "PreprocessCallCount",
    "PostprocessCallCount",
    "RequestBatchSize",
    "SizeOfImage",
    "HandlerMethodTime",
    "ExamplePercentMetric",
    "SomeError",
)


def reported(reply: Reply) -> str:
    """The samples of the handler's metrics, without the host's name."""
    found = []
    for line in reply.body.decode().splitlines():
        sample, _, value = line.rpartition(" ")
        family, _, labels = sample.rstrip("}").partition("{")
        if family.startswith(REPORTED):
            kept = [each for each in labels.split(",") if each and not each.startswith("Hostname")]
            found.append(f"{family}{{{','.join(sorted(kept))}}} {float(value)}")
    return "\n".join(sorted(found))


CASES = (
    mnist(
        "custom_metrics",
        *one_by_one(
            predict(digit(1)),
            predict(digit(2)),
            Ask(Row("GET", "/metrics", port="metrics"), reported),
        ),
        handler="custom_metrics/handler.py",
    ),
)
