import torch
from torch import nn


class SumOfRanks(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        torch.distributed.all_reduce(x)
        return x
