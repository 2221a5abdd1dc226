"""The authors' detection, labels, entropy and steering, on planted residual streams."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.analysis import secondary_sinks as ours

_ACT = {"silu": jax.nn.silu, "gelu": jax.nn.gelu}


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each case of the file."""
  for name, case in meta["cases"].items():
    given = {n: arrays[f"in.{name}.{n}"] for n in ("h", "candidates", "token_ids")}
    found = _detected(**given, case=case, rules=meta["hyper"])
    if case["raises"]:
      assert found["range"][0] == found["range"][1], f"{name}: {found['range']}"
      continue
    for result, got in found.items():
      key = f"out.{name}.{result}"
      if key in arrays:
        yield key, np.asarray(got), arrays[key]
  for name, case in meta["steering"].items():
    for result, got in _steered(arrays, name, case, meta["hyper"]).items():
      yield f"out.{name}.{result}", np.asarray(got), arrays[f"out.{name}.{result}"]


def _detected(h, candidates, token_ids, case, rules):
  L, T = h.shape[:2]
  b = ours.primary_position(h, [int(c) for c in candidates])
  layers = (0, L)
  if case["clip"]:
    layers = ours.layer_range(np.linalg.norm(h[:, b], axis=1))
  found = ours.sink_layers(h, b, layers, rules["cosine"])
  if not case["clip"] and len(candidates) == 1:
    found[:, b] = False  # the code leaves the primary sink out of its map
  sinks = ours.label_sinks(
    found,
    min_layers=rules["min_layers_above"] + 1,
    primary_layers=case["model_layers"] - rules["primary_margin"],
    token_ids=token_ids,
  )
  out = {"sink_layers": found, "primary": b, "range": layers}
  out["has_secondary"] = any(s.kind == ours.SECONDARY for s in sinks)
  for name, fill in (("kind", -1), ("start", -1), ("lifetime", 0), ("token_id", -1)):
    out[name] = np.full(T, fill)
    for sink in sinks:
      out[name][sink.token] = getattr(sink, name)
  if "entropy" in case:
    size, first = case["entropy"]["window"], case["entropy"]["prompt_len"]
    out["entropy"] = ours.growing_entropy(h, first, size)
    out["entropy_with_prompt"] = ours.growing_entropy(h, 0, size)
  return out


def _steered(arrays, name, case, rules):
  x, reference = arrays[f"in.{name}.x"], arrays[f"in.{name}.reference"]
  own = [key for key in arrays if key.startswith(f"param.{name}.")]
  count = len([key for key in own if key.endswith(".gate_proj.weight")])

  def mlp(i):
    gate, up, down = (
      arrays[f"param.{name}.{i}.{part}_proj.weight"].T
      for part in ("gate", "up", "down")
    )
    return (_ACT[case["act"]](x @ gate) * (x @ up)) @ down

  plain = [mlp(i) for i in range(count)]
  after = []
  for norm in case["norms"]:
    edit = ours.rescale_mlp(
      case["target_layer"],
      norm,
      reference,
      threshold=rules["steer_cosine"],
      first=len(rules["steer_excluded"]),
    )
    after.append(jnp.stack([edit.feed(i, jnp.asarray(y)) for i, y in enumerate(plain)]))
  return {"before": jnp.stack(plain), "after": jnp.stack(after)}
