import logging
from abc import ABC

from lru import LRU
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class StreamedSums(BaseHandler, ABC):
    """Adds up what each sequence sends; odd numbers are answered in many pieces, 0 ends it.

    ``context.cache`` holds what is known of each sequence and of each request.
    """

    DEFAULT_CAPACITY = 10

    def __init__(self):
        super().__init__()
        self.cache: LRU = None

    def initialize(self, ctx: Context):
        ctx.cache = {}
        if ctx.model_yaml_config["handler"] is not None:
            settings = ctx.model_yaml_config["handler"].get("cache", {})
            self.cache = LRU(int(settings.get("capacity", StreamedSums.DEFAULT_CAPACITY)))
        self.initialized = True

    def preprocess(self, data):
        return [self._next(idx, row) for idx, row in enumerate(data)]

    def _next(self, idx, row):
        ctx = self.context
        sequence = ctx.get_sequence_id(idx)
        ctx.set_response_header(idx, ctx.header_key_sequence_id, sequence)
        if ctx.get_request_header(idx, ctx.header_key_sequence_start):
            before = 0
            ctx.cache[sequence] = {"start": True, "cancel": False, "end": False, "requests": 0}
        elif self.cache.has_key(sequence):
            before = int(self.cache[sequence])
        else:
            before = None
            logger.error("sequence %s has not begun", sequence)
        request = ctx.get_request_id(idx)
        if request in ctx.cache:
            return before
        return self._begin(idx, row, sequence, request, before)

    def _begin(self, idx, row, sequence, request, before):
        ctx = self.context
        number = row.get("data") or row.get("body")
        if isinstance(number, (bytes, bytearray)):
            number = number.decode("utf-8")
        if type(number) is dict and "input" in number:
            number = number.get("input")
        number = int(number)
        known = ctx.cache[request] = {"stop": self._stopping(request, sequence), "stream": True}
        ctx.cache[sequence]["requests"] += 1
        if number == -1:
            ctx.cache[sequence]["cancel"] = True
            known["stream"] = False
            return number
        if before is None or number == 0:
            ctx.cache[sequence]["end"] = True
            ctx.set_response_header(idx, ctx.header_key_sequence_end, sequence)
        if before is None:
            known["stream"] = False
            return number
        if number % 2 == 0:
            known["stream"] = False
        self.cache[sequence] = before + number
        return before + number

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        self.context.stopping_criteria = [
            self.context.cache[request]["stop"] for request in self.context.request_ids.values()
        ]
        return data

    def _clean_up(self, sequence, request, whole_sequence):
        cache = self.context.cache
        cache[sequence]["requests"] -= 1
        if cache[sequence]["requests"] == 0 and whole_sequence:
            del cache[sequence]
        del cache[request]

    def _stopping(self, request, sequence):
        handler = self

        class StoppingCriteria:
            """None: one plain answer; False: more pieces come; True: this is the last."""

            def __init__(self):
                self.left = 10

            def __call__(self, result):
                cache = handler.context.cache
                state = cache[sequence]
                if state["end"] or state["cancel"]:
                    answer = True if cache[request]["stream"] else None
                    handler._clean_up(sequence, request, state["end"])
                    if state["requests"] == 0:
                        state["cancel"] = False
                    return answer
                if state["start"]:
                    state["start"] = False
                elif cache[request]["stream"]:
                    self.left -= 1
                    if self.left >= 0:
                        return False
                    handler._clean_up(sequence, request, False)
                    return True
                handler._clean_up(sequence, request, False)
                return None

        return StoppingCriteria()
