"""OverLoCK's blocks in NumPy, of the parameters of modules, for evaluation."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_erf = np.vectorize(math.erf)


def _of(parameter):
  return np.asarray(parameter[...], np.float64)


def gelu(x):
  """Computes GELU."""
  return x * (1 + _erf(x / math.sqrt(2))) / 2


def sigmoid(x):
  """Computes the logistic function."""
  return 1 / (1 + np.exp(-x))


def linear(part, x):
  """Computes a linear map of channels."""
  y = x @ _of(part.kernel)
  return y if part.bias is None else y + _of(part.bias)


def convolve(x, kernel, rate=1):
  """Computes a depthwise convolution with zeros beyond the map."""
  (H, W), edge = x.shape[1:3], rate * (len(kernel) // 2)
  padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
  return sum(
    padded[:, rate * i :, rate * j :][:, :H, :W] * kernel[i, j]
    for i, j in np.ndindex(*kernel.shape[:2])
  )


def depthwise(part, x):
  """Computes a depthwise convolution of a module."""
  return convolve(x, _of(part.kernel)) + _of(part.bias)


def batch(norm, stats, x):
  """Computes batch norm by running statistics."""
  y = (x - np.asarray(stats.mean)) / np.sqrt(np.asarray(stats.var) + 1e-5)
  return y * _of(norm.scale) + _of(norm.bias)


def layer(norm, x):
  """Computes layer norm."""
  y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return y * _of(norm.scale) + _of(norm.bias)


def projection(part, stats, x):
  """Computes a linear map and its batch norm."""
  return batch(part.norm, stats["norm"], linear(part.linear, x))


def large(part, stats, x):
  """Computes the branches of a large kernel, one by one."""
  found = [
    convolve(x, _of(kernel), rate) for kernel, (_, rate) in zip(part.kernels, part.plan)
  ]
  if part.norm is None:
    return sum(found)
  found = batch(part.norm, stats["norm"], np.concatenate(found, -1))
  return sum(np.split(found, len(part.plan), axis=-1))


def respond(part, x):
  """Computes the global response norm."""
  size = np.sqrt((x**2).sum((1, 2), keepdims=True))
  share = size / (size.mean(-1, keepdims=True) + 1e-6)
  return x * (1 + _of(part.scale) * share) + _of(part.bias)


def excite(part, x):
  """Computes squeeze and excitation."""
  gate = linear(part.excite, gelu(linear(part.squeeze, x.mean((1, 2), keepdims=True))))
  return x * sigmoid(gate)


def feed(part, x):
  """Computes the MLP."""
  z = gelu(linear(part.up, x))
  return linear(part.down, respond(part.respond, z + depthwise(part.convolve, z)))


def scaled(part, x):
  """Computes a scale with its bias."""
  return x * _of(part.scale) + _of(part.bias)


def summed(part, x, y):
  """Computes a residual."""
  if part.scale is None:
    return x + y
  return scaled(part.scale, x) + y if part.scale_input else x + scaled(part.scale, y)


def pooled(x, number):
  """Computes adaptive average pooling to number x number regions, row by row."""
  H, W = x.shape[1:3]
  found = []
  for a, b in np.ndindex(number, number):
    rows = slice(a * H // number, -(-(a + 1) * H // number))
    columns = slice(b * W // number, -(-(b + 1) * W // number))
    found.append(x[:, rows, columns].mean((1, 2)))
  return np.stack(found, 1)


def averaged(x, grid):
  """Computes adaptive average pooling to a grid."""
  (H, W), y = x.shape[1:3], np.zeros((len(x), *grid, x.shape[-1]))
  for a, b in np.ndindex(*grid):
    rows = slice(a * H // grid[0], -(-(a + 1) * H // grid[0]))
    columns = slice(b * W // grid[1], -(-(b + 1) * W // grid[1]))
    y[:, a, b] = x[:, rows, columns].mean((1, 2))
  return y


def enlarged(x, grid):
  """Computes bilinear interpolation with half-pixel centres."""
  for axis, size in zip((1, 2), grid):
    points = x.shape[axis]
    centre = np.clip((np.arange(size) + 0.5) * points / size - 0.5, 0, points - 1)
    low = np.floor(centre).astype(int)
    high, part = np.minimum(low + 1, points - 1), centre - low
    part = part.reshape(*(1,) * axis, -1, *(1,) * (x.ndim - axis - 1))
    x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
  return x


def mix(q, regions, taps, tap_bias, relative, v, window):
  """Computes the operator pixel by pixel and tap by tap."""
  (B, H, W, G, c), k = v.shape, window
  y = np.zeros((B, H, W, G, c))
  for b, i, j, g in np.ndindex(B, H, W, G):
    a = regions[b, :, g] @ q[b, i, j, g]
    top, left = (min(max(p - k // 2, 0), n - k) for p, n in ((i, H), (j, W)))
    logits, values = [], []
    for t in range(k * k):
      row, column = top + t // k, left + t % k
      bias = relative[g, row - i + k - 1, column - j + k - 1]
      logits.append(a @ taps[:, t] + tap_bias[t] + bias)
      values.append(v[b, row, column, g])
    weight = np.exp(np.array(logits) - max(logits))
    y[b, i, j, g] = weight @ np.stack(values) / weight.sum()
  return y


def contmix(part, stats, x, queries, context, *, window, small):
  """Computes ContMix of three maps."""
  grid, (B, _, _, D) = x.shape[1:3], x.shape
  side = min(grid)
  sides = tuple(max(window, int(window / side * n)) for n in grid)
  size, G = sides if side < window else grid, part.groups
  values, seen, far = (enlarged(y, size) for y in (x, queries, context))
  q = projection(part.query, stats["query"], seen) / math.sqrt(D // G)
  k = projection(part.key, stats["key"], pooled(far, part.regions))
  v = values
  if part.value is not None:
    v = projection(part.value, stats["value"], values)
  q, k, v = (y.reshape(*y.shape[:-1], -1, D // G // 2) for y in (q, k, v))
  taps, bias, cut = _of(part.taps.kernel), _of(part.taps.bias), small**2
  tables = [_of(table) for table in part.relative]
  near = mix(q, k, taps[:, :cut], bias[:cut], tables[0], v[..., :G, :], small)
  wide = mix(q, k, taps[:, cut:], bias[cut:], tables[1], v[..., G:, :], window)
  y = np.concatenate([near, wide], axis=3).reshape(B, *size, D)
  y = projection(part.fusion, stats["fusion"], averaged(y, grid))
  local = large(part.local, stats["local"], x)
  y = excite(part.excite, y + batch(part.norms[0], stats["norms/0"], local))
  gate = projection(part.gate, stats["gate"], x)
  y = batch(part.norms[1], stats["norms/1"], gate * sigmoid(gate) * y)
  return linear(part.out, y)


def guided(block, stats, x, context, *, window, small):
  """Computes a guided block."""
  D, frame = block.dim, block.frame
  if block.scales:
    h = scaled(block.scales[0], x[..., D:]) + scaled(block.scales[1], context)
    x = np.concatenate([x[..., :D], h], axis=-1)
  x = x + depthwise(frame.convolve[0], x)
  n = layer(block.norm, x)
  f = batch(block.fuse.norm, stats["fuse"]["norm"], depthwise(block.fuse.convolve, n))
  f = respond(block.fuse.respond, linear(block.fuse.linear, gelu(f)))
  parts = f, n[..., :D], n[..., D:]
  y = contmix(block.mixer, stats["mixer"], *parts, window=window, small=small)
  x = summed(frame.sums[0], x, y)
  x = x + depthwise(frame.convolve[1], x)
  return summed(frame.sums[1], x, feed(frame.feed, layer(frame.norm, x)))


def conv_block(block, stats, x):
  """Computes a block of large convolutions."""
  x = x + depthwise(block.convolve, x)
  y = large(block.local, stats["local"], layer(block.norm, x))
  y = excite(block.excite, batch(block.local_norm, stats["local_norm"], y))
  return summed(block.sum, x, feed(block.feed, y))


def network(model, stats, images, train):
  """Computes a network of three stages, whose blocks double, or treble and add."""

  def normed(norm, own, x):
    if not train:
      return batch(norm, own, x)
    own = type(own)(x.mean((0, 1, 2)), x.var((0, 1, 2)))
    return batch(norm, own, x)

  def convolved(part, own, x, stride):
    kernel = jnp.asarray(part.convolve.kernel[...])
    y = jax.lax.conv_general_dilated(
      jnp.asarray(x, jnp.float32),
      kernel,
      (stride, stride),
      ((1, 1), (1, 1)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return normed(part.norm, own["norm"], np.asarray(y, np.float64))

  x, own = images, stats["stem"]
  for i, part in enumerate(model.stem.convolutions):
    x = x if i == 0 else gelu(x)
    x = convolved(part, own[f"convolutions/{i}"], x, (2, 1, 2, 1)[i])
  stages, own = model.stages, stats["stages"]
  first = 2 * x  # one block
  merge, known = stages.base.merges[1], own["base"]["merges/1"]
  second = 4 * convolved(merge, known, first, 2)  # two blocks
  overview = 2 * convolved(stages.merge, own["merge"], second, 2)
  raw = linear(stages.reduce, overview)
  context = enlarged(raw, second.shape[1:3])
  # Two guided blocks each.
  y, h = 9 * second, 1.2 * context
  z, g = (
    convolved(merge, own[f"merges/{i}"], part, 2)
    for i, (merge, part) in enumerate(zip(stages.merges, (y, h)))
  )
  maps = [first, np.concatenate([y, h], -1)]
  maps.append(np.concatenate([9 * z, g + 0.2 * raw], -1))
  project, known = model.pool.project, stats["pool"]["project"]
  last = normed(project.norm, known["norm"], linear(project.linear, maps[-1]))
  found = {"maps": maps}
  found["logits"] = linear(model.head, (last * sigmoid(last)).mean((1, 2)))
  part, known = model.auxiliary, stats["auxiliary"]
  found["auxiliary"] = linear(
    part.linear, normed(part.norm, known["norm"], overview).mean((1, 2))
  )
  return found
