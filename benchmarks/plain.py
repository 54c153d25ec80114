"""The loop everyone writes: a loader, transforms for each picture, single precision."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CROP = 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10, as all use them


class Pictures(Dataset):
    """Pictures held in memory; each is cropped, mirrored and normalised when it is read."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
        self.y = y.tolist()
        self.mean = torch.tensor(MEAN)[:, None, None]
        self.std = torch.tensor(STD)[:, None, None]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = ImageOps.expand(Image.fromarray(self.pixels[i]), border=CROP)
        left, top = torch.randint(0, 2 * CROP + 1, (2,)).tolist()
        width, height = self.pixels.shape[2], self.pixels.shape[1]
        picture = picture.crop((left, top, left + width, top + height))
        if torch.rand(1).item() < 0.5:
            picture = ImageOps.mirror(picture)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
        return (pixels - self.mean) / self.std, self.y[i]


def epoch(model: nn.Module, records: Pictures, *, size: int, lr: float, workers: int) -> float:
    """Train for one pass and return the mean loss."""
    loader = DataLoader(records, batch_size=size, shuffle=True, num_workers=workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    model.train()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    return total / len(records)
