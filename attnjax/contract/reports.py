"""Reports of analyses: mappings that notebooks show, and the types of JSON."""

import base64
import html
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_CELLS = 8  # arrays of more elements are summarised or drawn
_DRAWN = 96  # rows and columns of a picture
_PIXEL = 6  # the side of an element in it


class Report(dict):
  """Names with arrays, numbers and words; a notebook draws those of two axes.

  Attributes:
    axes: name -> a letter an axis, as in the module that made the report.
  """

  def __init__(self, entries: Mapping[str, Any], axes: Mapping[str, str]):
    super().__init__(entries)
    self.axes = {name: axes[name] for name in entries}

  def _repr_html_(self) -> str:
    rows = "".join(
      f"<tr><th>{html.escape(name)}</th><td>{self.axes[name]}</td>"
      f"<td>{_shown(name, value)}</td></tr>"
      for name, value in self.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def plain(report: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a report's arrays as lists, and None for what is not a number.

  Args:
    report: names to arrays of floats, integers or booleans, numbers, and words.

  Raises:
    TypeError: for another value, with its name.
    ValueError: for an infinite number, which JSON lacks.
  """
  return {name: _plain(name, value) for name, value in report.items()}


def _plain(name, value):
  if isinstance(value, str):
    return value
  array = np.asarray(value)
  if array.dtype.kind not in "fiub":
    raise TypeError(f"report {name!r} is {type(value).__name__}: arrays and numbers go")
  if array.dtype.kind == "f" and np.isinf(array).any():
    raise ValueError(f"report {name!r} holds an infinity; JSON has none")
  return _defined(array.tolist())


def _defined(value):
  if isinstance(value, list):
    return [_defined(entry) for entry in value]
  return None if isinstance(value, float) and math.isnan(value) else value


def _shown(name: str, value: Any) -> str:
  """Returns a value as HTML: words, few numbers, or a picture of two axes."""
  if isinstance(value, str):
    return html.escape(value)
  array = np.asarray(value)
  if array.size <= _CELLS or array.ndim < 2:
    few = array.reshape(-1)[:_CELLS]
    more = " ..." if array.size > len(few) else ""
    return ", ".join(f"{x:.4g}" for x in few.astype(float)) + more
  while array.ndim > 2:
    array = array[0]
  size = " x ".join(map(str, np.shape(value)))
  return f"{picture(array, name)}<br>{size}"


def picture(array: np.ndarray, title: str) -> str:
  """Draws an array of two axes as an `<img>`, the least grey, the largest blue."""
  array = np.asarray(array, np.float64)
  array = array[:: -(-len(array) // _DRAWN), :: -(-array.shape[1] // _DRAWN)]
  some = np.isfinite(array)
  low = array[some].min() if some.any() else 0.0
  high = array[some].max() if some.any() else 1.0
  share = np.where(some, (array - low) / max(high - low, 1e-30), 0)[..., None]
  color = (1 - share) * np.array([240, 240, 240]) + share * np.array([20, 60, 160])
  color = np.where(some[..., None], color, 255).round().astype(np.uint8)
  pixels = color.repeat(_PIXEL, 0).repeat(_PIXEL, 1)
  data = base64.b64encode(_png(pixels)).decode()
  said = html.escape(f"{title}, from {low:.4g} to {high:.4g}")
  return f'<img alt="{said}" title="{said}" src="data:image/png;base64,{data}">'


def _png(pixels: np.ndarray) -> bytes:
  """Encodes pixels (H, W, 3) of bytes as a PNG."""
  high, wide, _ = pixels.shape
  lines = b"".join(b"\0" + row.tobytes() for row in pixels)

  def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check

  head = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
  parts = (
    chunk(b"IHDR", head),
    chunk(b"IDAT", zlib.compress(lines)),
    chunk(b"IEND", b""),
  )
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
