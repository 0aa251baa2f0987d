"""That memory of large bodies is used again shows in page faults, which are counted, not timed."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from arbstr.trio_runtime.main import keep_freed_memory

def bodies():
    return [bytes([n]) * 200_000 for n in range(5)]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        bodies()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 50

bodies()
without = faults()
keep_freed_memory()
bodies()
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have other rules")
def test_large_bodies_take_the_memory_of_those_before_them() -> None:
    told = subprocess.check_output([sys.executable, "-c", FAULTS], text=True, timeout=60)
    without, faults = map(float, told.split())
    assert faults < 5  # where it is not asked for some 160, if nothing before has made it so
    assert faults <= without
