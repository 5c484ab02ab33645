"""The H100 SXM5 as XLA's compiler wants it described: a text of its target config.

Published figures only, so that no such GPU has to be at hand:

- 80 GB of memory at 3.35 TB/s, 67 TFLOPS in float32: NVIDIA H100 Tensor Core GPU data
  sheet, column H100 SXM.
- 132 multiprocessors with 128 float32 cores each, 50 MB of L2 cache, 228 KB of shared
  memory and 65,536 registers to a multiprocessor, compute capability 9.0: NVIDIA H100
  Tensor Core GPU Architecture, tables 2 to 4.
- Limits of blocks and threads, and 227 KB of shared memory for one block: CUDA C++
  Programming Guide, technical specifications per compute capability.
"""

_KIB = 1024
_CORES = 132
_FLOAT32_PER_CORE = 128
_FLOAT32_RATE = 67e12

MEMORY = 80_000_000_000
"""Bytes of a device."""

# Every float32 unit multiplies and adds in a cycle.
_CLOCK_GHZ = round(_FLOAT32_RATE / (2 * _CORES * _FLOAT32_PER_CORE) / 1e9, 2)

TARGET_CONFIG = f"""
platform_name: "CUDA"
device_description_str: "NVIDIA H100 SXM"
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  device_memory_size: {MEMORY}
  memory_bandwidth: {3_350_000_000_000}
  clock_rate_ghz: {_CLOCK_GHZ}
  core_count: {_CORES}
  fpus_per_core: {_FLOAT32_PER_CORE}
  l2_cache_size: {50 * _KIB * _KIB}
  shared_memory_per_core: {228 * _KIB}
  shared_memory_per_block: {48 * _KIB}
  shared_memory_per_block_optin: {227 * _KIB}
  registers_per_core_limit: {64 * _KIB}
  registers_per_block_limit: {64 * _KIB}
  threads_per_warp: 32
  threads_per_block_limit: {_KIB}
  threads_per_core_limit: {2 * _KIB}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
}}
"""
