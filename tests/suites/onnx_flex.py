"""ONNX's FlexAttention, whose score function is a graph, by attnjax.flex_attention.

What depends on the score is computed by jax.numpy, at one place; all else by NumPy.
"""

import jax.numpy as jnp
import numpy as np
from onnx import numpy_helper

import attnjax
from tests.suites.onnx_cases import Case

_NAMES = {
  "Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide",
  "Tanh": "tanh", "Where": "where", "GreaterOrEqual": "greater_equal",
  "Gather": "take", "Range": "arange", "Reshape": "reshape", "Shape": "asarray",
  "Cast": "float32",
}  # fmt: skip


def function(graph, shape):
  """(score, b, h, q, k) to the graph's result; its constants are over (B, H, T, S)."""

  def score_mod(score, b, h, q, k):
    known = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
    known[graph.input[0].name] = score
    moving = {graph.input[0].name}
    for node in graph.node:
      given, xp = [known[name] for name in node.input], np
      if node.op_type == "Shape":
        given = [np.asarray(shape)]
      elif moving & set(node.input):
        moving.add(node.output[0])
        given, xp = [_element(x, (b, h, q, k)) for x in given], jnp
      known[node.output[0]] = getattr(xp, _NAMES[node.op_type])(*given)
    return known[graph.output[0].name]

  return score_mod


def _element(table, at):
  if np.ndim(table) == 0:
    return table
  at = zip(at[4 - table.ndim :], table.shape)
  return jnp.asarray(table)[tuple(i if size > 1 else 0 for i, size in at)]


def outputs(case: Case, impl: str):
  """Y; a factor of the weights is one of the values."""
  q, k, v = (jnp.asarray(case.inputs[name]) for name in "QKV")
  graphs, shape = case.attributes, (*q.shape[:3], k.shape[2])
  score_mod = function(graphs["score_mod"], shape) if "score_mod" in graphs else None
  if "prob_mod" in graphs:
    assert {x.op_type for x in graphs["prob_mod"].node} == {"Mul"}, "no factor"
    v = v * function(graphs["prob_mod"], shape)(1.0, 0, 0, 0, 0)
  scale = graphs.get("scale")
  return {"Y": attnjax.flex_attention(q, k, v, score_mod, None, scale, True, impl=impl)}
