"""Late fusion: each field has an encoder of its own, and a head joins what they say."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from stream_update.errors import ConfigError
from stream_update.learners.torch.activations import activation_of
from stream_update.learners.torch.checks import sizes, whole
from stream_update.learners.torch.fields import Fields, Read
from stream_update.learners.torch.images import Image
from stream_update.learners.torch.sequences import Numbers
from stream_update.learners.torch.texts import Text

__all__ = ["Fusion", "Inputs", "fusion", "inputs_of"]


class Inputs(NamedTuple):
    """Events for a module with fields.

    ``numbers`` has shape (events, columns), ``present`` (events, fields), and ``parts`` what
    the encoder of each field takes.
    """

    numbers: Any
    present: Any
    parts: tuple[tuple[Any, ...], ...]

    @property
    def device(self) -> Any:
        """Where all of it is."""
        return self.numbers.device


def inputs_of(fields: Fields, read: Read, numbers: Any) -> Inputs:
    """Copied into memory of torch's own, on the device of ``numbers``."""
    device = numbers.device
    return Inputs(
        numbers,
        torch.tensor(read.present, device=device),
        tuple(
            tuple(torch.tensor(array, device=device) for array in arrays)
            for arrays in fields.arrays(read)
        ),
    )


class TextEncoder(nn.Module):  # type: ignore[misc]
    """The mean of the vectors of a text's n-grams."""

    def __init__(self, text: Text) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(text.buckets, text.dim, mode="mean")
        # Small beside what a step changes, so that buckets that were rarely seen say little.
        nn.init.uniform_(self.bag.weight, -1 / text.dim, 1 / text.dim)

    def forward(self, buckets: Any, starts: Any) -> Any:
        return self.bag(buckets, starts)


class ImageEncoder(nn.Module):  # type: ignore[misc]
    """Convolutions, each followed by ReLU and by the largest of 2 by 2, and one layer.

    They begin as in He et al. (2015), "Delving deep into rectifiers".
    """

    def __init__(self, image: Image) -> None:
        super().__init__()
        height, width, size = image.shape
        layers: list[Any] = []
        for channels in image.channels:
            layers += [
                nn.Conv2d(size, channels, image.kernel, padding=image.kernel // 2),
                nn.ReLU(),
            ]
            if image.kernel % 2 == 0:
                height, width = height + 1, width + 1
            if min(height, width) > 1:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            size = channels
        self.convolutions = nn.Sequential(*layers)
        self.out = nn.Linear(size * height * width, image.dim)
        for layer in (*layers, self.out):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, pixels: Any) -> Any:
        return torch.relu(self.out(self.convolutions(pixels).flatten(1)))


class SequenceEncoder(nn.Module):  # type: ignore[misc]
    """The last output of a GRU; 0 for a sequence without a step."""

    def __init__(self, numbers: Numbers) -> None:
        super().__init__()
        self.gru = nn.GRU(numbers.columns, numbers.dim, numbers.layers, batch_first=True)

    def forward(self, steps: Any, lengths: Any) -> Any:
        # What stands behind the last step of a sequence changes nothing up to there.
        outputs, _ = self.gru(steps)
        last = (lengths - 1).clamp(min=0)
        chosen = outputs[torch.arange(len(last), device=last.device), last]
        return chosen * (lengths > 0).unsqueeze(1)


ENCODERS: dict[type, Any] = {Text: TextEncoder, Image: ImageEncoder, Numbers: SequenceEncoder}


class Fusion(nn.Module):  # type: ignore[misc]
    """Encoders of the fields beside a layer for the numeric columns, then the head.

    A field that an event does not have is a vector that is learned, 0 at the beginning.
    Numbers alone are events without any field.
    """

    def __init__(
        self,
        inputs: int,
        fields: Fields,
        numeric: int,
        head: Any,
        last: Any,
        activation: Any,
    ) -> None:
        super().__init__()
        readers = fields.readers.values()
        self.first = _linear(inputs, numeric)
        self.activation = activation
        self.encoders = nn.ModuleList(ENCODERS[type(reader)](reader) for reader in readers)
        self.missing = nn.ParameterList(nn.Parameter(torch.zeros(r.dim)) for r in readers)
        self.head = head
        self.last = last

    def forward(self, inputs: Any) -> Any:
        if not isinstance(inputs, Inputs):
            missing = [vector.expand(len(inputs), -1) for vector in self.missing]
            return self._joined([self.activation(self.first(inputs)), *missing])
        vectors = [self.activation(self.first(inputs.numbers))]
        for index, encoder in enumerate(self.encoders):
            encoded = encoder(*inputs.parts[index])
            there = inputs.present[:, index : index + 1]
            vectors.append(torch.where(there, encoded, self.missing[index]))
        return self._joined(vectors)

    def _joined(self, vectors: list[Any]) -> Any:
        return self.last(self.head(torch.cat(vectors, 1)))


def fusion(
    inputs: int,
    outputs: int,
    fields: Mapping[str, Any] | None = None,
    numeric: int = 32,
    hidden: Sequence[int] = (64,),
    activation: str = "relu",
    dropout: float = 0.0,
) -> Any:
    """``numeric`` outputs of a layer for all columns, and the vectors of the fields, go into
    a head with layers of ``hidden`` sizes, each followed by the activation and by dropout.
    """
    make = activation_of(activation, "fusion")
    known = Fields(fields or {})
    if not len(known):
        raise ConfigError(
            "learner.fields: fusion needs at least one field",
            hint='[learner.fields] body = { use = "text" }',
        )
    size = whole("fusion: numeric", numeric) + sum(r.dim for r in known.readers.values())
    layers: OrderedDict[str, Any] = OrderedDict()
    for number, width in enumerate(sizes("fusion: hidden", hidden, (0, 64))):
        layers[f"hidden{number}"] = nn.Linear(size, width)
        layers[f"activation{number}"] = make()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        size = width
    return Fusion(inputs, known, numeric, nn.Sequential(layers), nn.Linear(size, outputs), make())


def _linear(inputs: int, outputs: int) -> Any:
    """A layer that may have no inputs yet, which torch warns of."""
    layer = nn.Linear(max(1, inputs), outputs)
    if not inputs:
        layer.in_features = 0
        layer.weight = nn.Parameter(layer.weight.detach()[:, :0].clone())
    return layer
