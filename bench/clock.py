"""What a process has used, as Linux tells it to anyone of the same user. No dependency."""

import time
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """User and system time of these processes, all threads, dead ones too; None if unknown.

    The clock `clock_getcpuclockid(3)` gives, made by hand because Python has it for threads only:
    the kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED). It counts nanoseconds, where utime
    and stime in /proc/PID/stat, the same sum, count hundredths of seconds.
    """
    total, known = 0.0, False
    for pid in pids:
        try:
            total += time.clock_gettime((~pid << 3) | 2)
        except OSError:
            return None
        known = True
    return total if known else None


def forget_peak(pids: Iterable[int]) -> None:
    """Makes `peak_megabytes` start again. Does nothing where that is not allowed."""
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            continue


def megabytes(pids: Iterable[int], what: str = "VmHWM") -> float | None:
    """Resident memory in MB (10^6): `VmHWM` is the peak, `VmRSS` now. None if unknown."""
    total, known = 0.0, False
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith(what + ":"):
                total += int(line.split()[1]) * 1024 / 1e6
                known = True
    return total if known else None


def listeners(port: int) -> tuple[int, ...]:
    """The processes of this user that hold a socket listening on that port."""
    sockets = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{columns[9]}]")
    return tuple(
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and sockets & _files(folder / "fd")
    )


def _files(folder: Path) -> set[str]:
    names = set()
    try:
        for file in folder.iterdir():
            names.add(str(file.readlink()))
    except OSError:  # another user's, or just gone
        pass
    return names
