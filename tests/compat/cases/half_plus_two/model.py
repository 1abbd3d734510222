import torch


class HalfPlusTwo(torch.nn.Module):
    def forward(self, *inputs):
        return torch.add(torch.multiply(torch.tensor(0.5), inputs[0]), torch.tensor(2.0))
