"""VGG networks and small MNIST classifiers in PyTorch, with the keys and shapes of the releases that train them.

Glossary: w the width of the first convolution (64, or an MNIST network's own, as published); K classes.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
POOLED = {"torchvision": 7, "chenyaofo": 1, "weiaicunzai": 1, "comp": 1, "comp_s": 1}


class Vgg(nn.Module):
    """Five stages of 3x3 convolutions and a classifier, whose keys ``form`` decides."""

    def __init__(self, depth: int, batch_norm: bool, form: str, width: int, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count, factor in zip(CONVS[depth], (1, 2, 4, 8, 8), strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, factor * width, 3, padding=1))
                layers += [nn.BatchNorm2d(factor * width)] if batch_norm else []
                layers.append(nn.ReLU())
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(POOLED[form]) if form in POOLED else nn.Identity()
        self.classifier = _classifier(form, channels, width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class SmallVgg(nn.Module):
    """I-BAU's ``small_VGG16``: stages of w, 2w and 4w filters, whose image is halved and drops out of training."""

    def __init__(self, width: int, num_classes: int, dropout: tuple[float, ...] = (0.3, 0.4, 0.4), side: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for factor, rate in zip((1, 2, 4), dropout, strict=True):
            for _ in range(2):
                features = factor * width
                layers += [nn.Conv2d(channels, features, 3, padding=1), nn.BatchNorm2d(features), nn.ELU()]
                channels = features
            layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * (side // 8) ** 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def _classifier(form: str, channels: int, width: int, num_classes: int) -> nn.Module:
    units = 8 * width
    match form:
        case "torchvision" | "chenyaofo" | "weiaicunzai":
            hidden = units if form == "chenyaofo" else 64 * width
            first, second = nn.Linear(POOLED[form] ** 2 * channels, hidden), nn.Linear(hidden, hidden)
            last = nn.Linear(hidden, num_classes)
            return nn.Sequential(first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), nn.Dropout(), last)
        case "cifar":
            return nn.Linear(channels, num_classes)
        case "toolbox":
            first, second, last = nn.Linear(channels, units), nn.Linear(units, units), nn.Linear(units, num_classes)
            return nn.Sequential(nn.Dropout(), first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), last)
        case "comp_s":
            return nn.Sequential(OrderedDict(fc=nn.Linear(channels, num_classes)))
        case "comp":
            parts = {"fc1": nn.Linear(channels, units), "relu1": nn.ReLU(), "fc2": nn.Linear(units, units)}
            return nn.Sequential(OrderedDict(**parts, relu2=nn.ReLU(), fc3=nn.Linear(units, num_classes)))
    raise ValueError(form)


class Ordered(nn.Module):
    """Layers by name, applied one after another; names with dots make modules inside modules."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]):
        super().__init__()
        self.order = [name for name, _ in layers]
        for name, layer in layers:
            outer, _, inner = name.rpartition(".")
            if outer and outer not in dict(self.named_children()):
                self.add_module(outer, nn.Module())
            (self.get_submodule(outer) if outer else self).add_module(inner, layer)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def mnist(name: str, width: int, num_classes: int = 10, channels: int = 1) -> nn.Module:
    """One of the releases' MNIST classifiers, without its dropout and softmax; 3 ``channels`` mean 32x32 images."""
    w, k = width, num_classes
    match name:
        case "wanet_mnist":
            layers = [
                ("conv1", nn.Conv2d(1, w, 3, 2, 1)),
                ("relu1", nn.ReLU()),
                ("layer2.bn1", nn.BatchNorm2d(w)),
                ("layer2.relu", nn.ReLU()),
                ("layer2.conv1", nn.Conv2d(w, 2 * w, 3, 2, 1, bias=False)),
                ("layer3.bn1", nn.BatchNorm2d(2 * w)),
                ("layer3.relu", nn.ReLU()),
                ("layer3.conv1", nn.Conv2d(2 * w, 2 * w, 3, 2, 1, bias=False)),
                ("flatten", nn.Flatten()),
                ("linear6", nn.Linear(32 * w, 16 * w)),
                ("relu7", nn.ReLU()),
                ("linear9", nn.Linear(16 * w, k)),
            ]
        case "inputaware_mnist":
            layers = [
                ("conv1", nn.Conv2d(1, w, 5)),
                ("relu2", nn.ReLU()),
                ("maxpool4", nn.MaxPool2d(2)),
                ("conv5", nn.Conv2d(w, 2 * w, 5)),
                ("relu6", nn.ReLU()),
                ("maxpool5", nn.MaxPool2d(2)),
                ("flatten", nn.Flatten()),
                ("linear6", nn.Linear(32 * w, 16 * w)),
                ("relu7", nn.ReLU()),
                ("linear9", nn.Linear(16 * w, k)),
            ]
        case "backdoorbox_mnist" | "badnets_mnist":
            inner = "" if name == "backdoorbox_mnist" else ".0"
            layers = [
                (f"conv1{inner}", nn.Conv2d(channels, w, 5)),
                ("relu1", nn.ReLU()),
                ("pool1", nn.AvgPool2d(2)),
                (f"conv2{inner}", nn.Conv2d(w, 2 * w, 5)),
                ("relu2", nn.ReLU()),
                ("pool2", nn.AvgPool2d(2)),
                ("flatten", nn.Flatten()),
                (f"fc1{inner}", nn.Linear((32 if channels == 1 else 50) * w, 32 * w)),
                ("relu3", nn.ReLU()),
                (f"fc2{inner}", nn.Linear(32 * w, k)),
            ]
        case "lenet":
            layers = [
                ("conv1", nn.Conv2d(channels, w, 5)),
                ("relu1", nn.ReLU()),
                ("pool1", nn.MaxPool2d(2)),
                ("conv2", nn.Conv2d(w, 16 * w // 6, 5)),
                ("relu2", nn.ReLU()),
                ("pool2", nn.MaxPool2d(2)),
                ("flatten", nn.Flatten()),
                ("fc1", nn.Linear(25 * (16 * w // 6), 20 * w)),
                ("relu3", nn.ReLU()),
                ("fc2", nn.Linear(20 * w, 14 * w)),
                ("relu4", nn.ReLU()),
                ("fc3", nn.Linear(14 * w, k)),
            ]
        case "pytorch_mnist" | "trojanzoo_mnist":
            before, behind = ("", "") if name == "pytorch_mnist" else ("features.", "classifier.")
            layers = [
                (f"{before}conv1", nn.Conv2d(1, w, 3)),
                ("relu1", nn.ReLU()),
                (f"{before}conv2", nn.Conv2d(w, 2 * w, 3)),
                ("relu2", nn.ReLU()),
                ("pool", nn.MaxPool2d(2)),
                ("flatten", nn.Flatten()),
                (f"{behind}fc1", nn.Linear(288 * w, 4 * w)),
                ("relu3", nn.ReLU()),
                (f"{behind}fc2", nn.Linear(4 * w, k)),
            ]
        case _:
            raise ValueError(name)
    return Ordered(layers)
