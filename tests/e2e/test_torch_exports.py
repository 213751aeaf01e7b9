"""Small versions of well-known networks, as PyTorch exports them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeconv
from edgeconv.errors import EdgeconvError
from tests.e2e.models import assert_close, expected

TOLERANCE = 1e-4  # of the output's max-norm


def unit(c: int, k: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: object = nn.ReLU):
    """Convolution, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(c, k, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(k),
    ]
    return nn.Sequential(*layers, *([act()] if act is not None else []))  # type: ignore[operator]


class Residual(nn.Module):
    """x + f(x), then an optional activation."""

    def __init__(self, *layers: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.act = nn.Sequential(*layers), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.body(x))


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, c: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, c // 4, 1),
            nn.SiLU(),
            nn.Conv2d(c // 4, c, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Shuffle(nn.Module):
    """Channel shuffle as ShuffleNet's authors write it."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w)
        return x.transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleDown(nn.Module):
    """ShuffleNet's unit of stride two: concatenation with an average pool."""

    def __init__(self, c: int, k: int, groups: int) -> None:
        super().__init__()
        middle = k // 4
        self.body = nn.Sequential(
            unit(c, middle, 1, groups=groups),
            Shuffle(groups),
            unit(middle, middle, 3, 2, groups=middle, act=None),
            unit(middle, k - c, 1, groups=groups, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(x, 3, 2, 1)
        return torch.relu(torch.cat([pooled, self.body(x)], 1))


def shuffle_unit(c: int, groups: int) -> nn.Module:
    """ShuffleNet's unit of stride one."""
    middle = c // 4
    return Residual(
        unit(c, middle, 1, groups=groups),
        Shuffle(groups),
        unit(middle, middle, 3, groups=middle, act=None),
        unit(middle, c, 1, groups=groups, act=None),
        act=nn.ReLU(),
    )


class Dense(nn.Module):
    """A block of DenseNet: every layer reads all earlier ones."""

    def __init__(self, c: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(c + i * growth),
                nn.ReLU(),
                nn.Conv2d(c + i * growth, 2 * growth, 1, bias=False),
                nn.BatchNorm2d(2 * growth),
                nn.ReLU(),
                nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class UNet(nn.Module):
    """Down, up by a transposed convolution or an interpolation, concatenated with the skip."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.down1, self.down2 = unit(3, 12), unit(12, 20)
        self.bottom = unit(20, 24)
        if mode == "transposed":
            self.up2: nn.Module = nn.ConvTranspose2d(24, 20, 2, 2)
            self.up1: nn.Module = nn.ConvTranspose2d(20, 12, 3, 2, 1, output_padding=1)
        else:
            corners = None if mode == "nearest" else False
            self.up2 = nn.Sequential(
                nn.Upsample(scale_factor=2, mode=mode, align_corners=corners), nn.Conv2d(24, 20, 1)
            )
            self.up1 = nn.Sequential(
                nn.Upsample(scale_factor=2, mode=mode, align_corners=corners), nn.Conv2d(20, 12, 1)
            )
        self.join2, self.join1 = unit(40, 20), unit(24, 12)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(nn.functional.max_pool2d(a, 2))
        c = self.bottom(nn.functional.max_pool2d(b, 2))
        d = self.join2(torch.cat([self.up2(c), b], 1))
        return self.head(self.join1(torch.cat([self.up1(d), a], 1)))


class Plain1d(nn.Module):
    """Convolutions over time: plain, dilated, grouped and depthwise; a pool, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(6, 16, 5, stride=2, padding=2),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Conv1d(16, 16, 3, padding=4, dilation=4, groups=16),
            nn.Conv1d(16, 24, 1),
            nn.LeakyReLU(0.1),
            nn.MaxPool1d(2),
            nn.Conv1d(24, 24, 3, padding=1, groups=4),
            nn.SiLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(24, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def classifier(c: int) -> nn.Module:
    """Global pool and dense layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))


def mobilenet_v1() -> nn.Module:
    layers: list[nn.Module] = [unit(3, 8, 3, 2)]
    for c, k, stride in ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 48, 2)):
        layers += [unit(c, c, 3, stride, groups=c), unit(c, k, 1)]
    return nn.Sequential(*layers, classifier(48))


def mobilenet_v2() -> nn.Module:
    def inverted(c: int, k: int, stride: int, expand: int) -> nn.Module:
        wide = c * expand
        layers = [
            unit(c, wide, 1, act=nn.ReLU6),
            unit(wide, wide, 3, stride, groups=wide, act=nn.ReLU6),
            unit(wide, k, 1, act=None),
        ]
        return Residual(*layers) if stride == 1 and c == k else nn.Sequential(*layers)

    return nn.Sequential(
        unit(3, 16, 3, 2, act=nn.ReLU6),
        inverted(16, 24, 2, 6),
        inverted(24, 24, 1, 6),
        inverted(24, 33, 1, 4),
        classifier(33),
    )


def mobilenet_v3() -> nn.Module:
    def block(c: int) -> nn.Module:
        return Residual(
            unit(c, 3 * c, 1, act=nn.Hardswish),
            unit(3 * c, 3 * c, 5, groups=3 * c, act=nn.Hardswish),
            Excite(3 * c, nn.Hardsigmoid),
            unit(3 * c, c, 1, act=None),
        )

    return nn.Sequential(unit(3, 16, 3, 2, act=nn.Hardswish), block(16), block(16), classifier(16))


def shufflenet_v1() -> nn.Module:
    return nn.Sequential(
        unit(3, 24, 3, 2),
        nn.MaxPool2d(3, 2, 1),
        ShuffleDown(24, 48, 3),
        shuffle_unit(48, 3),
        ShuffleDown(48, 96, 4),
        shuffle_unit(96, 4),
        shuffle_unit(96, 4),
        classifier(96),
    )


def resnext() -> nn.Module:
    def block(c: int, width: int, groups: int) -> nn.Module:
        return Residual(
            unit(c, width, 1),
            unit(width, width, 3, groups=groups),
            unit(width, c, 1, act=None),
            act=nn.ReLU(),
        )

    return nn.Sequential(
        unit(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1), block(32, 32, 8), block(32, 24, 4), classifier(32)
    )


def efficientnet() -> nn.Module:
    def block(c: int, kernel: int) -> nn.Module:
        wide = 4 * c
        return Residual(
            unit(c, wide, 1, act=nn.SiLU),
            unit(wide, wide, kernel, groups=wide, act=nn.SiLU),
            Excite(wide),
            unit(wide, c, 1, act=None),
        )

    return nn.Sequential(unit(3, 16, 3, 2, act=nn.SiLU), block(16, 3), block(16, 5), classifier(16))


def densenet() -> nn.Module:
    return nn.Sequential(
        unit(3, 16, 3, 2),
        Dense(16, 6, 3),
        nn.BatchNorm2d(34),
        nn.ReLU(),
        nn.Conv2d(34, 17, 1, bias=False),
        nn.AvgPool2d(2),
        Dense(17, 6, 2),
        nn.BatchNorm2d(29),
        nn.ReLU(),
        classifier(29),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mobilenet v1": (mobilenet_v1, (3, 48, 40)),
    "mobilenet v2": (mobilenet_v2, (3, 48, 40)),
    "mobilenet v3": (mobilenet_v3, (3, 32, 32)),
    "shufflenet v1": (shufflenet_v1, (3, 64, 56)),
    "resnext": (resnext, (3, 40, 48)),
    "efficientnet": (efficientnet, (3, 32, 40)),
    "densenet": (densenet, (3, 40, 32)),
    "unet, transposed": (lambda: UNet("transposed"), (3, 24, 32)),
    "unet, nearest": (lambda: UNet("nearest"), (3, 24, 32)),
    "unet, bilinear": (lambda: UNet("bilinear"), (3, 24, 32)),
    "1-d": (Plain1d, (6, 50)),
}


def export(name: str, batch: int, *, dynamic: bool = False) -> onnx.ModelProto:
    """The network with seeded weights and statistics."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network = make().eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0, 0.2)
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(batch, *shape),),
        buffer,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}} if dynamic else None,
    )
    return onnx.load_from_string(buffer.getvalue())


def check(
    model: onnx.ModelProto, threads: int, input_shapes: dict[str, Sequence[int]] | None = None
) -> edgeconv.Model:
    """Two runs against ONNX Runtime."""
    compiled = edgeconv.compile(model, threads=threads, input_shapes=input_shapes)
    for seed in (0, 1):
        feeds = compiled.random_inputs(seed)
        assert_close(compiled.run(feeds), expected(model, feeds), TOLERANCE)
    return compiled


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    check(export(name, 1), threads=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_dynamic_batch(name: str, batch: int) -> None:
    shape = (batch, *NETWORKS[name][1])
    model = export(name, 2, dynamic=True)
    compiled = check(model, threads=2, input_shapes={"x": shape})
    assert compiled.inputs[0].shape == shape
    assert compiled.outputs[0].shape[0] == batch


@pytest.mark.filterwarnings("ignore")
def test_dynamic_models_want_shapes() -> None:
    with pytest.raises(EdgeconvError, match="input_shapes"):
        edgeconv.compile(export("mobilenet v1", 2, dynamic=True))
