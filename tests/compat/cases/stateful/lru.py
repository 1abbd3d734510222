from collections import OrderedDict


class LRU(OrderedDict):
    """Of the package lru-dict what the handlers use: the oldest entries go first."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def has_key(self, key):
        return key in self

    def __getitem__(self, key):
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.size:
            self.popitem(last=False)
