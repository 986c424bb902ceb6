"""Tensors of a graph as they are stored, which become float32 only where they are used.

    Floats   float32, float16 or bfloat16
    Groups   small integers, 64 with one scale (checkpoints/groups.py)

Of a table only the rows that are asked for are widened. A matrix is widened for as long as its
product is computed, and one of groups by the runtime itself (MatMulNBits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinyzo.checkpoints.groups import GROUP
from tinyzo.engine.onnx.graph import ANY, CONTRIBUTED, Value, concat


class Floats(NamedTuple):
    """raw: [...]; is_wide: whether that is float32."""

    raw: Value
    is_wide: bool

    def through(self, step: Callable[[Value], Value]) -> Floats:
        """What a step makes of it as it is stored, which may not change its numbers."""
        return self._replace(raw=step(self.raw))

    def whole(self) -> Value:
        """f32[...]."""
        return self.raw if self.is_wide else self.raw.cast("f4")

    def rows(self, rows: Value) -> Value:
        """Some rows of a table. rows: integers [R]; f32[R, ...]."""
        return self._replace(raw=self.raw.gather(rows)).whole()

    def part(self, rows: range) -> Floats:
        """Rows that follow one another."""
        return self._replace(raw=self.raw.part(rows))

    def product(self, x: Value, bias: Value | None = None) -> Value:
        """x W^T + bias. x: f32[N, in]; bias: f32[out]; f32[N, out]."""
        shape = (ANY, self.raw.shape[0])
        return x.graph.op("Gemm", x, self.whole(), bias, shape=shape, transB=1)


class Groups(NamedTuple):
    """A matrix [R, K] in G groups of a row.

    codes:   u8[R, G, 32 or 64], of 4 or 8 bits
    scales:  f16[R, G]
    columns: K
    """

    codes: Value
    scales: Value
    columns: int

    @property
    def bits(self) -> int:
        return 8 * self.codes.shape[2] // GROUP

    def through(self, step: Callable[[Value], Value]) -> Groups:
        """As of Floats."""
        return self._replace(codes=step(self.codes), scales=step(self.scales))

    def whole(self) -> Value:
        """f32[R, K]: (code - zero) * scale, exactly."""
        rows, groups, _ = self.codes.shape
        codes = self.codes
        if self.bits == 4:  # two in a byte, the lower first
            low = codes & np.uint8(15)
            high = codes >> np.uint8(4)
            pairs = [half.reshape(rows, groups, -1, 1) for half in (low, high)]
            codes = concat(*pairs, axis=3)
        codes = codes.reshape(rows, groups, GROUP)
        zero = np.float32(1 << self.bits - 1)
        centred = codes.cast("f4") - zero
        scales = self.scales.cast("f4").reshape(rows, groups, 1)
        w = centred * scales
        flat = w.reshape(rows, groups * GROUP)
        return flat.part(range(self.columns), axis=1)

    def rows(self, rows: Value) -> Value:
        """As of Floats."""
        codes = self.codes.gather(rows)
        scales = self.scales.gather(rows)
        return self._replace(codes=codes, scales=scales).whole()

    def part(self, rows: range) -> Groups:
        """Rows that follow one another."""
        return self._replace(codes=self.codes.part(rows), scales=self.scales.part(rows))

    def product(self, x: Value, bias: Value | None = None) -> Value:
        """As of Floats; in float32, whatever the runtime could do in fewer bits."""
        out = self.codes.shape[0]
        scales = self.scales.cast("f4").reshape(-1)
        y = x.graph.op(
            "MatMulNBits",
            x,
            self.codes,
            scales,
            shape=(ANY, out),
            domain=CONTRIBUTED,
            K=self.columns,
            N=out,
            bits=self.bits,
            block_size=GROUP,
            accuracy_level=0,
        )
        if bias is None:
            return y
        return y + bias


Tensor = Floats | Groups
