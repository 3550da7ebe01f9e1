"""What `bundle.json` says about a network that is an ONNX graph."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from transforms.config.validation import invalid

Layout: TypeAlias = Literal["NCHW", "NHWC"]
Channels: TypeAlias = Literal[1, 3]
OutputKind: TypeAlias = Literal["logits", "probabilities"]

LOGITS: Final = "logits"
PROBABILITIES: Final = "probabilities"


class OnnxFields(BaseModel):
    """How images become the input of a graph, and what its output is.

    The input is `(image / 255 - mean) / std` by channel, of the router's image uint8[1, S, S], repeated
    for three channels.

    Attributes:
        output: name of the graph's output.
        output_kind: logits, or probabilities.
        layout: order of the input's dimensions: batch, channels, height, width.
        channels: of the input.
        mean: by channel, in 0..1.
        std: by channel, in 0..1, > 0.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    output: Annotated[str, Field(max_length=200)]
    output_kind: OutputKind
    layout: Layout
    channels: Channels
    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]

    @field_validator("mean", "std")
    @classmethod
    def _one_by_channel(cls, values: tuple[float, ...], info: Any) -> tuple[float, ...]:
        if len(values) != info.data.get("channels", len(values)):
            raise invalid("must have one value for each channel")
        return values

    def value_of(self, gray: float) -> tuple[float, ...]:
        """Return the input by channel for a gray value in 0..1."""
        return tuple((gray - m) / s for m, s in zip(self.mean, self.std, strict=True))
