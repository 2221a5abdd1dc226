"""Memory that a process keeps between steps.

glibc gives large blocks back to the system as soon as they are free, and each step
then waits until their pages are mapped, and made zero, anew.
"""

import ctypes

# Names and values of <malloc.h>: one arena for all threads, no separate mappings of
# large arrays, nothing given back.
_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD = -8, -4, -1
_OPTIONS = (_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)


def keep() -> bool:
  """Lets malloc keep freed memory; returns whether this system's malloc can.

  Call it before JAX starts its threads.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # not glibc
    return False
  return all([mallopt(*option) == 1 for option in _OPTIONS])
