"""torch networks written as steps: each reads earlier results by name, and calls a module or a function."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)


class Dag(nn.Module):
    """A module that a ``Steps`` describes. Names with dots make modules inside modules."""

    def __init__(self, modules: dict[str, nn.Module], steps: list[tuple[str, str | Callable, tuple[str, ...]]]):
        super().__init__()
        self.steps = steps
        for name, module in modules.items():
            *outer, inner = name.split(".")
            parent: nn.Module = self
            for part in outer:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(inner, module)

    def forward(self, x: Tensor) -> Tensor:
        results = {"x": x}
        for target, operation, sources in self.steps:
            function = self.get_submodule(operation) if isinstance(operation, str) else operation
            results[target] = function(*(results[source] for source in sources))
        return results[self.steps[-1][0]]


class Steps:
    """Collects the steps; every method returns the name of its result. The input is ``x``."""

    def __init__(self):
        self.modules: dict[str, nn.Module] = {}
        self.steps: list[tuple[str, str | Callable, tuple[str, ...]]] = []

    def call(self, operation: str | Callable, *sources: str) -> str:
        """A module by its name, or a function."""
        self.steps.append((f"r{len(self.steps)}", operation, sources))
        return self.steps[-1][0]

    def module(self, name: str, module: nn.Module, source: str) -> str:
        """A new module."""
        self.modules[name] = module
        return self.call(name, source)

    def conv(self, x: str, name: str, inputs: int, outputs: int, size=1, stride=1, groups=1, bias=False) -> str:
        """A convolution padded by half its size."""
        return self.module(name, nn.Conv2d(inputs, outputs, size, stride, size // 2, 1, groups, bias), x)

    def unit(self, x: str, names: str, *sizes, act: Callable | None = F.relu, eps: float = 1e-5, **options) -> str:
        """A convolution, a batch norm and an activation; ``names`` has the first two's, with a space between."""
        conv, norm = names.split()
        x = self.module(norm, nn.BatchNorm2d(sizes[1], eps), self.conv(x, conv, *sizes, **options))
        return x if act is None else self.call(act, x)

    def preact(self, x: str, names: str, *sizes, act: Callable | None = F.relu, **options) -> str:
        """A batch norm, an activation and a convolution."""
        norm, conv = names.split()
        x = self.module(norm, nn.BatchNorm2d(sizes[0]), x)
        return self.conv(x if act is None else self.call(act, x), conv, *sizes, **options)

    def add(self, *sources: str) -> str:
        """The sum of two results."""
        return self.call(lambda a, b: a + b, *sources)

    def done(self) -> Dag:
        """The network; the last step's result is its output."""
        return Dag(self.modules, self.steps)

    def classify(self, x: str, head: str, features: int, num_classes: int) -> Dag:
        """The network with global average pooling and a last linear layer."""
        self.module(head, nn.Linear(features, num_classes), self.call(lambda a: a.mean((2, 3)), x))
        return self.done()
