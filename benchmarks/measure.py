"""Clock, machine and limits: what turns calls into figures."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

#: ``turn(calls, inner)``: one call untimed, then so many samples of ``inner`` calls; s a call.
Turn = Callable[[int, int], list[float]]


@dataclass(frozen=True)
class Effort:
    """``rounds`` turns for each contestant, together about ``seconds`` of timed calls."""

    rounds: int = 9
    seconds: float = 1.0
    pause: float = 0.01  # s between turns: the last contestant's threads spin down
    patience: float = 0.0  # s that all may take longer where the machine is disturbed

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> Effort:
        """As the command line has it; ``quick``: to see that everything works, not how fast."""
        if options["quick"]:
            return cls(rounds=2, seconds=0.02, pause=0.0)
        return cls(options["rounds"], options["seconds"], patience=options["patience"])


@dataclass(frozen=True)
class Spread:
    """Of one contestant's samples, in s: median, quartiles, how many.

    ``calm``: all of them are of turns that nothing else disturbed.
    """

    median: float
    low: float
    high: float
    samples: int
    calm: bool = False

    @classmethod
    def of(cls, samples: list[float], *, calm: bool = False) -> Spread:
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0], len(samples), calm)
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(middle, low, high, len(samples), calm)

    def asdict(self) -> dict[str, Any]:
        """As it goes into a record."""
        times = {"median_s": self.median, "low_s": self.low, "high_s": self.high}
        return {**times, "samples": self.samples, "calm": self.calm}


def local_turn(call: Callable[[], Any], steps: int = 1) -> Turn:
    """A turn of a contestant in this process, whose calls do so many steps each; s a step."""

    def turn(calls: int, inner: int) -> list[float]:
        call()  # caches and threads are the last contestant's
        gc.collect()
        enabled = gc.isenabled()
        gc.disable()
        try:
            samples = []
            for _ in range(-(-calls // steps)):
                begin = time.perf_counter()
                for _ in range(inner):
                    call()
                samples.append((time.perf_counter() - begin) / (inner * steps))
            return samples
        finally:
            if enabled:
                gc.enable()

    return turn


def race(
    turns: Mapping[str, Turn], effort: Effort, calm: Callable[[], bool] | None = None
) -> dict[str, Spread | Exception]:
    """Time contestants in turns, round by round, each round in the reverse order of the last.

    One that raises is out: its error stands for its figures, and the others go on.

    ``calm()`` tells whether nothing else disturbs the machine now; it is asked before and after
    each turn. While ``effort.patience`` lasts, turns begin when it is, and rounds go on until every
    contestant has its turns undisturbed. Where each has three of them, no others count.
    """
    out: dict[str, Exception] = {}

    def take(name: str, calls: int, inner: int) -> list[float]:
        try:
            return turns[name](calls, inner)
        except Exception as error:
            out[name] = error
            return []

    plans: dict[str, tuple[int, int]] = {}
    for name in turns:
        samples = take(name, 2, 1)  # warm-up, and how long a call takes
        if samples:
            inner = max(1, round(1e-3 / min(samples)))
            each = effort.seconds / effort.rounds / (min(samples) * inner)
            plans[name] = (max(1, min(40, round(each))), inner)
    every: dict[str, list[list[float]]] = {name: [] for name in plans}
    undisturbed: dict[str, list[list[float]]] = {name: [] for name in plans}
    order = list(plans)
    deadline = time.perf_counter() + (effort.patience if calm else 0)
    quiet = _after(effort.pause, calm)
    done = 0
    while done < effort.rounds or (
        any(len(own) < effort.rounds for own in undisturbed.values())
        and time.perf_counter() < deadline
    ):
        for name in order:
            while not quiet and time.perf_counter() < deadline:
                quiet = _after(effort.pause, calm)
            samples = take(name, *plans[name])
            before, quiet = quiet, _after(effort.pause, calm)
            if not samples:
                del every[name], undisturbed[name]
                continue
            every[name].append(samples)
            if before and quiet:
                undisturbed[name].append(samples)
        order = [name for name in reversed(order) if name not in out]
        done += 1
    enough = all(len(own) >= min(3, effort.rounds) for own in undisturbed.values())
    counted = undisturbed if enough else every
    return out | {
        name: Spread.of(list(chain.from_iterable(own)), calm=enough)
        for name, own in counted.items()
    }


def _after(pause: float, calm: Callable[[], bool] | None) -> bool:
    time.sleep(pause)
    return calm is not None and calm()


# ---- the machine's limits


def limits_library() -> Any:
    """The compiled ``peak.c``, or None where there is no C compiler or it fails."""
    return _compiled()[0]


def without_limits() -> str:
    """Why there are no limits; empty: there are."""
    return _compiled()[1]


@cache
def _compiled() -> tuple[Any, str]:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None, "there is no C compiler"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.c")
        native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
        command = [compiler, "-O3", "-ffp-contract=fast", native, "-shared", "-fPIC"]
        command += [str(source), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).splitlines()[0]
            return None, f"{compiler} can't compile benchmarks/peak.c: {said}"
        loaded = ctypes.CDLL(str(library))
    loaded.fma_rounds.restype = ctypes.c_int64
    loaded.fma_rounds.argtypes = (ctypes.c_int64, ctypes.c_void_p)
    loaded.add_rounds.restype = ctypes.c_double
    loaded.add_rounds.argtypes = (ctypes.c_int64,)
    loaded.pass_ball.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
    loaded.copy_bytes.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return loaded, ""


def _together(bodies: list[Callable[[], None]]) -> float:
    """Seconds from a common start until the last of the bodies is done, each in a thread."""
    barrier = threading.Barrier(len(bodies) + 1)

    def run(body: Callable[[], None]) -> None:
        barrier.wait()
        body()

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def peak_flop_per_s(threads: int, seconds: float = 0.05, repeats: int = 7) -> float | None:
    """Most float32 FLOP a second by fused multiply-adds on so many threads; best of ``repeats``."""
    limits = limits_library()
    if limits is None:
        return None
    out = ctypes.c_float()
    begin = time.perf_counter()
    limits.fma_rounds(1_000_000, ctypes.addressof(out))
    rounds = int(1_000_000 * seconds / (time.perf_counter() - begin)) + 1
    flop = limits.fma_rounds(1, ctypes.addressof(out)) * rounds

    def body() -> None:
        own = ctypes.c_float()
        limits.fma_rounds(rounds, ctypes.addressof(own))

    return max(threads * flop / _together([body] * threads) for _ in range(repeats))


def copied_bytes_per_s(threads: int, size: int = 1 << 29, repeats: int = 5) -> float | None:
    """Most bytes a second through memory in a copy (read and written both count)."""
    limits = limits_library()
    if limits is None:
        return None
    own = size // threads
    pairs = [(bytearray(own), bytearray(own)) for _ in range(threads)]

    def body_of(pair: tuple[bytearray, bytearray]) -> Callable[[], None]:
        to, source = ((ctypes.c_char * own).from_buffer(part) for part in pair)
        return lambda: limits.copy_bytes(ctypes.addressof(to), ctypes.addressof(source), own)

    bodies = [body_of(pair) for pair in pairs]
    return max(2 * own * threads / _together(bodies) for _ in range(repeats))


def round_trip_s(times: int = 100_000, repeats: int = 3) -> float | None:
    """Seconds until a thread on one CPU has an answer from one on another; best of ``repeats``.

    It is what two threads pay to wait for each other. A virtual machine's CPUs may lie in one group
    of cores with a cache of their own or in two, and change between them while they sleep.
    """
    limits = limits_library()
    if limits is None or not hasattr(os, "sched_getaffinity"):
        return None
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        return None
    ball = ctypes.c_int(0)

    def body_of(side: int) -> Callable[[], None]:
        def body() -> None:
            os.sched_setaffinity(0, {cpus[side]})  # of this thread alone
            limits.pass_ball(ctypes.addressof(ball), side, times)

        return body

    return min(_together([body_of(0), body_of(1)]) for _ in range(repeats)) / times


# ---- what the figures hold for


def pin(threads: int) -> None:
    """Let this process and its children have so many CPUs; to be called before libraries load.

    Raises:
        SystemExit: there aren't so many.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if not hasattr(os, "sched_setaffinity"):
        os.environ["XLA_FLAGS"] = (
            os.environ.get("XLA_FLAGS", "")
            + f" --xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        )
        return
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise SystemExit(f"{threads} threads on {len(allowed)} CPUs would measure the scheduler")
    # XLA and ONNX Runtime make as many threads as there are CPUs to run on.
    os.sched_setaffinity(0, allowed[:threads])


def machine() -> dict[str, Any]:
    """CPU, memory and system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), cpu)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_bytes": pages,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str | None]:
    """Of everything that is measured; ``None``: not installed."""
    found: dict[str, str | None] = {}
    for name in ("torch", "numpy", "jax", "jaxlib", "keras", "onnx", "onnxruntime"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def revision() -> dict[str, Any]:
    """The commit of this checkout, and whether it has changes."""

    def git(*arguments: str) -> str | None:
        if shutil.which("git") is None:
            return None
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "changed": bool(changed)}
