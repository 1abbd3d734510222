"""Handlers of TorchServe's that flambeau does not have, and what to do instead."""

from __future__ import annotations

REFUSED_HANDLERS = {
    "dali_handler": (
        "it needs the package nvidia-dali, which flambeau does not drive. Make the DALI pipeline "
        "in a handler of your own, a subclass of BaseHandler"
    ),
    "dali_image_classifier": (
        "it needs the package nvidia-dali, which flambeau does not drive. Use image_classifier, "
        "which needs no more than Pillow, or make the DALI pipeline in a handler of your own"
    ),
    "trt_llm_handler": (
        "it fits one old release of tensorrt_llm. Make tensorrt_llm's LLM in a handler of your "
        "own, or serve the model with trtllm-serve"
    ),
    "vllm_handler": (
        "it fits one old release of vllm. Make vllm's AsyncLLMEngine in a handler of your own, "
        "whose handle is 'async def', or serve the model with 'vllm serve'"
    ),
}
"""Name of the handler's module, to the reason and the advice."""
