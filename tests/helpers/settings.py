"""Settings of every process that the tests start, set before JAX is imported."""

import importlib.metadata
import os
import tempfile

# Unoptimised code compiles several times faster, and compilation is most of the work.
FAST_COMPILE = "--xla_backend_optimization_level=0"
# A step that is compiled for its own sake, and whose bits are compared with those of no
# other program, takes half the time again without XLA's newer emitters for a CPU. The
# option will not stay, and an XLA that does not know it fails.
QUICK_STEP = None
if importlib.metadata.version("jaxlib").startswith("0.10."):
  QUICK_STEP = {"xla_cpu_use_fusion_emitters": False}
# See jaxdistill/engine/sharding.py.
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(
  tempfile.gettempdir(), "jaxdistill-test-cache"
)


def apply(devices: int) -> None:
  """Sets this process up: a CPU that plays several devices, the compile cache."""
  flags = f"{FAST_COMPILE} {IN_ORDER} --xla_force_host_platform_device_count={devices}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
  os.environ["JAX_PLATFORMS"] = "cpu"
  # A choice, with which no program starts itself anew: that would take pytest along.
  os.environ["GLIBC_TUNABLES"] = "glibc.malloc.mmap_max=65536"
  os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
  # Thousands of small programs are shared too: by processes, and after caches are
  # cleared.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
