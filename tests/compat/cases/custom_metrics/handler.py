from torchvision import transforms
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.torch_handler.image_classifier import ImageClassifier


class CountingClassifier(ImageClassifier):
    """Tells of its work in each way that ``context.metrics`` has."""

    image_processing = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )

    def initialize(self, context):
        super().initialize(context)
        metrics = context.metrics
        self.requests = metrics.add_metric_to_cache(
            metric_name="InferenceRequestCount",
            unit="count",
            dimension_names=[],
            metric_type=MetricTypes.COUNTER,
        )
        metrics.add_metric_to_cache(
            metric_name="PreprocessCallCount",
            unit="count",
            dimension_names=["ModelName"],
            metric_type=MetricTypes.COUNTER,
        )
        metrics.add_metric(
            name="InitializeCallCount", value=1, unit="count", metric_type=MetricTypes.COUNTER
        )

    def preprocess(self, data):
        metrics = self.context.metrics
        self.requests.add_or_update(value=1, dimension_values=[])
        calls = metrics.get_metric(
            metric_name="PreprocessCallCount", metric_type=MetricTypes.COUNTER
        )
        calls.add_or_update(value=1, dimension_values=[self.context.model_name])
        # Only metrics.yaml says what this one is.
        sizes = metrics.get_metric(metric_name="RequestBatchSize", metric_type=MetricTypes.GAUGE)
        sizes.add_or_update(value=len(data), dimension_values=[self.context.model_name])
        metrics.add_size(name="SizeOfImage", value=len(data[0].get("body")), idx=None, unit="B")
        images = ImageClassifier.preprocess(self, data)
        # metrics.yaml does not know this one and the percentage below.
        metrics.add_time(
            name="HandlerMethodTime",
            value=1.5,
            idx=None,
            unit="ms",
            dimensions=[Dimension(name="MethodName", value="preprocess")],
            metric_type=MetricTypes.GAUGE,
        )
        return images

    def postprocess(self, data):
        metrics = self.context.metrics
        metrics.add_counter(name="PostprocessCallCount", value=1, idx=None, dimensions=[])
        metrics.add_percent(
            name="ExamplePercentMetric",
            value=50,
            idx=None,
            dimensions=[],
            metric_type=MetricTypes.HISTOGRAM,
        )
        metrics.add_error(name="SomeError", value=1)
        return data.argmax(1).flatten().tolist()
